"""Images as input of a scikit-learn estimator: checked, read lazily, resized in parallel.

A file, a PIL image and an array of one picture become the same RGB pixels, and so get the same
score. What would need a guess is refused, with an error that names the image and the remedy: pixels
of more than 8 bits without a value range, partial transparency, animations.
"""

from .batches import ImageBatch, iter_batches
from .source import ImageSource

__all__ = ["ImageBatch", "ImageSource", "iter_batches"]
