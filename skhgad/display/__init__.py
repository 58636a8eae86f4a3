"""Displays in the manner of scikit-learn: ``from_estimator`` computes, ``plot`` draws.

Attributes ending in an underscore keep what was drawn. `overlay` and `HeatScale` give the same
colours as arrays. The displays need matplotlib: ``pip install
".[display]"`` in a clone of skhgad.
"""

from .drift import DriftDisplay
from .heat_maps import HeatScale, overlay
from .latent import LatentSpaceDisplay
from .maps import AnomalyMapDisplay
from .scores import ScoreDistributionDisplay
from .training import TrainingCurveDisplay

__all__ = [
    "AnomalyMapDisplay",
    "DriftDisplay",
    "HeatScale",
    "LatentSpaceDisplay",
    "ScoreDistributionDisplay",
    "TrainingCurveDisplay",
    "overlay",
]
