"""Anomaly detection in many product classes with one scikit-learn estimator."""

from ._explain import Explanation
from ._inspection import Inspection
from .estimator import HGADDetector

__version__ = "0.1.0"

__all__ = ["Explanation", "HGADDetector", "Inspection", "__version__"]
