"""The public industrial data sets, read from disk as paths, labels and mask paths.

Nothing is downloaded and no image is decoded. Every loader returns the same `Bunch` (described in
`load_mvtec_ad`), so that a benchmark can take any of them, or several together by `load_union`.
"""

from .loaders import (
    load_btad,
    load_folder,
    load_mask,
    load_mvtec_3d_ad,
    load_mvtec_ad,
    load_union,
    load_visa,
)

__all__ = [
    "load_btad",
    "load_folder",
    "load_mask",
    "load_mvtec_3d_ad",
    "load_mvtec_ad",
    "load_union",
    "load_visa",
]
