"""Figures for unified anomaly detection: per class, mean over classes, and pooled.

Pooled means one threshold for all products, which is how a unified detector runs on a line; the
mean over classes gives every product a threshold of its own.

Conventions: a sample is an anomaly where `y` is -1 (or "-1"); any other label, +1 or a class name,
is normal. `scores` are `score_samples`, higher = more normal; maps are `anomaly_maps`, higher =
more anomalous. The anomaly is the positive class of AP and F1. A figure that its data cannot give
(one kind of label only, no mask) is nan, and so are the means over it; a warning names the class.
"""

from .per_image import PixelMetrics, image_metrics, pixel_metrics, unified_roc_auc

__all__ = ["PixelMetrics", "image_metrics", "pixel_metrics", "unified_roc_auc"]
