"""Pictures in the manner of scikit-learn's displays: ``from_estimator`` computes, ``plot`` draws.

Attributes that end in an underscore keep what was drawn. The displays need matplotlib:
``pip install "skhgad[display]"``. Their colours differ for colour-blind people, too.
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
