"""Loaders of public industrial data sets: image paths, labels and mask paths from disk.

Nothing is downloaded and no image is decoded. Every loader returns the same kind of `Bunch`, which
`load_mvtec_ad` describes. `load_union` joins several.
"""

from .loaders import load_btad, load_folder, load_mvtec_3d_ad, load_mvtec_ad, load_union
from .masks import load_mask
from .visa import load_visa

__all__ = [
    "load_btad",
    "load_folder",
    "load_mask",
    "load_mvtec_3d_ad",
    "load_mvtec_ad",
    "load_union",
    "load_visa",
]
