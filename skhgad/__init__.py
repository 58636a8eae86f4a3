"""Anomaly detection in many product classes with one scikit-learn estimator."""

from .estimator import HGADDetector

__version__ = "0.1.0"

__all__ = ["HGADDetector", "__version__"]
