"""Loaders of public industrial data sets: image paths, labels and mask paths from disk.

Nothing is downloaded and no image is decoded. Every loader returns the same kind of `Bunch`, which
`load_mvtec_ad` describes. `load_union` joins several.
"""

from .decisions import load_decisions
from .kolektorsdd2 import load_kolektorsdd2
from .loaders import (
    load_btad,
    load_folder,
    load_mpdd,
    load_mvtec_3d_ad,
    load_mvtec_ad,
    load_mvtec_loco_ad,
    load_union,
)
from .masks import load_mask
from .mvtec_ad_2 import load_mvtec_ad_2
from .real_iad import load_real_iad
from .saturation import load_saturated_regions
from .visa import load_visa

__all__ = [
    "load_btad",
    "load_decisions",
    "load_folder",
    "load_kolektorsdd2",
    "load_mask",
    "load_mpdd",
    "load_mvtec_3d_ad",
    "load_mvtec_ad",
    "load_mvtec_ad_2",
    "load_mvtec_loco_ad",
    "load_real_iad",
    "load_saturated_regions",
    "load_union",
    "load_visa",
]
