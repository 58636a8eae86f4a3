"""Images as input of a scikit-learn estimator: checked, read lazily, resized in parallel.

Files, PIL images and arrays become the same RGB pixels, so an image's score does not depend on the
form it is passed in. Anything that would need a guess is refused: pixels of more than 8 bits
without a value range, partly transparent images, animations. The error names the image and says
what to do.
"""

from .batches import ImageBatch, iter_batches
from .source import ImageSource

__all__ = ["ImageBatch", "ImageSource", "iter_batches"]
