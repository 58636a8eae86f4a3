"""The error of one picture among several."""

__all__ = ["PictureError"]


class PictureError(ValueError):
    """One picture cannot be judged, such as one of another size than its region of interest.

    The other pictures can. What is wrong with all of them, such as a region without pixels, is a
    plain ValueError.
    """
