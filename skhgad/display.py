"""Pictures, in the manner of scikit-learn's displays: ``from_estimator`` computes, ``plot`` draws.

What was drawn stays at hand in attributes that end in an underscore. Needs matplotlib:
``pip install "skhgad[display]"``. Colours are told apart by the colour-blind too.
"""

from ._display_latent import LatentSpaceDisplay
from ._display_maps import AnomalyMapDisplay
from ._display_scores import ScoreDistributionDisplay
from ._display_training import TrainingCurveDisplay

__all__ = [
    "AnomalyMapDisplay",
    "LatentSpaceDisplay",
    "ScoreDistributionDisplay",
    "TrainingCurveDisplay",
]
