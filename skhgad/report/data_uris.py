"""Images and figures as data URIs, for pages that load nothing."""

import base64
import io

import numpy as np
from PIL import Image


def eight_bit(pixels):
    """Return pixels as uint8; floats are in [0, 1]."""
    return pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels).astype(np.uint8)


def reduced(pixels, longest, resample=Image.Resampling.BILINEAR):
    """Return pixels as a PIL image, no side longer than `longest`."""
    image = Image.fromarray(eight_bit(pixels))
    image.thumbnail((longest, longest), resample)
    return image


def jpeg_uri(image, quality=80):
    """Return a PIL image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return _data_uri(buffer, "jpeg")


def png_uri(figure):
    """Return a figure of matplotlib as the data URI of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return _data_uri(buffer, "png")


def _data_uri(buffer, kind):
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
