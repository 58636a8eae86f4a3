"""Images as scikit-learn input: checked, read lazily, decoded and resized in parallel.

Files, PIL images and arrays all end as the same RGB pixels, so that a picture scores the same
however it was handed over. Whatever would have to be guessed (16-bit ranges, real transparency,
which frame of an animation) is refused, with the name of the image and the remedy.
"""

from .source import ImageBatch, ImageSource, iter_batches

__all__ = ["ImageBatch", "ImageSource", "iter_batches"]
