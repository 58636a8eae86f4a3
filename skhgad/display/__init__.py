"""Displays in the manner of scikit-learn: ``from_estimator`` computes, ``plot`` draws.

Attributes ending in an underscore keep what was drawn. Needs ``pip install "skhgad[display]"``.
"""

from .latent import LatentSpaceDisplay
from .maps import AnomalyMapDisplay
from .scores import ScoreDistributionDisplay
from .training import TrainingCurveDisplay

__all__ = [
    "AnomalyMapDisplay",
    "LatentSpaceDisplay",
    "ScoreDistributionDisplay",
    "TrainingCurveDisplay",
]
