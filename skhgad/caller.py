"""Warnings that name the line of the user's code, however deep in the package they arise."""

import os
import sys
import warnings

_PACKAGE = os.path.join(os.path.dirname(__file__), "")  # with the last separator


def warn_caller(text):
    """Give a UserWarning at the nearest line that is not of this package."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)
