"""Pictures, in the manner of scikit-learn's displays: ``from_estimator`` computes, ``plot`` draws.

What was drawn stays at hand in attributes that end in an underscore. Needs matplotlib:
``pip install "skhgad[display]"``. Colours are told apart by the colour-blind too.
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
