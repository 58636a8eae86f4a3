"""Watch a stream of scores for drift.

`DriftMonitor` tells whether the pictures that a detector sees still look like those it was fitted
on: a camera that gets blurry or noisy, another light, a new lot.
"""

from .drift import Alarm, DriftMonitor

__all__ = ["Alarm", "DriftMonitor"]
