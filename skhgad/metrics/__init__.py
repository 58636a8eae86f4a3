"""Figures for unified anomaly detection: per class, their mean over classes, and pooled.

Pooled figures use one threshold for all products, as a unified detector does on a line. In the
mean over classes, every product has a threshold of its own.

A sample is an anomaly where `y` is -1 (or "-1"). Any other label, +1 or a class name, is normal.
`scores` are `score_samples`, higher = more normal; maps are `anomaly_maps`, higher = more
anomalous. The anomaly is the positive class of AP and F1. A figure that its data cannot give (one
kind of label only, no mask) is nan, and so are the means over it; a warning names the class, except
in `miss_rates`.

`mardia` is about vectors, not about detections: it tells how Gaussian they are.
"""

from .gaussianity import Gaussianity, mardia
from .per_image import image_metrics, miss_rates, unified_roc_auc
from .per_pixel import PixelMetrics, pixel_metrics
from .saturated import SproMetrics
from .segmentation_f1 import SegF1Metrics

__all__ = [
    "Gaussianity",
    "PixelMetrics",
    "SegF1Metrics",
    "SproMetrics",
    "image_metrics",
    "mardia",
    "miss_rates",
    "pixel_metrics",
    "unified_roc_auc",
]
