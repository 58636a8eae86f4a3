"""Regions of interest: masks as users give them, for all pictures, a product or a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..datasets.masks import load_mask, values_of_image
from .picture_error import PictureError

__all__ = ["ProductMasks", "Region", "read_mask", "regions_of_samples"]

_KINDS = (
    "one mask for all pictures, a mapping from product to mask, or a sequence with a mask or None "
    "for each picture; a mask is an array (height, width) of bool or 0 and 1, a path or a PIL image"
)


class Region(NamedTuple):
    """A mask and its name in messages. `item` is what the user gave, read when it is needed."""

    item: Any
    name: str

    def read(self, size: tuple[int, int], picture: str) -> NDArray[np.bool_]:
        """Return the mask, True inside; PictureError unless it has the size of its picture."""
        mask = read_mask(self.item, self.name)
        if mask.shape != tuple(size):
            raise PictureError(
                f"{self.name} has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), but "
                f"{picture} has {size[0]} x {size[1]}: a region of interest must have the size of "
                "its picture. Resize the mask by nearest neighbour, or give each picture its own."
            )
        return mask


class ProductMasks(NamedTuple):
    """Masks that belong to product classes.

    Attributes
    ----------
    masks : tuple of ndarray of shape (height, width), bool
        The distinct ones.
    of_class : tuple of int
        Which of them each class has, by code; -1 = none: the whole picture.
    names : tuple of str
        Of the masks, in messages.
    """

    masks: tuple[NDArray[np.bool_], ...]
    of_class: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def is_common(self) -> bool:
        """Whether all classes have the same mask, so that the class need not be known."""
        return len(set(self.of_class)) == 1

    def region(self, code: int) -> Region | None:
        """Return the region of a class, or None."""
        which = self.of_class[code]
        return None if which < 0 else Region(self.masks[which], self.names[which])

    def regions(self, codes: Sequence[int] | NDArray[np.int64]) -> list[Region | None]:
        """Return the region of each sample, by the codes of their classes; -1 has none."""
        by_class = [self.region(code) for code in range(len(self.of_class))]
        return [by_class[int(code)] if code >= 0 else None for code in codes]

    def of_classes(self, codes: Sequence[int]) -> ProductMasks | None:
        """Return the masks of some classes, in this order and no others; None if they have none."""
        used = sorted({self.of_class[code] for code in codes} - {-1})
        if not used:
            return None
        return ProductMasks(
            tuple(self.masks[which] for which in used),
            tuple(used.index(w) if w >= 0 else -1 for w in (self.of_class[c] for c in codes)),
            tuple(self.names[which] for which in used),
        )

    def common_part(self, size: tuple[int, int], picture: str) -> Region:
        """Return what lies in the masks of all classes that a picture of this size may have.

        Masks of another size belong to other pictures.
        """
        fitting = [mask for mask in self.masks if mask.shape == tuple(size)]
        if not fitting and -1 not in self.of_class:
            found = " or ".join(sorted({f"{m.shape[0]} x {m.shape[1]}" for m in self.masks}))
            raise PictureError(
                f"{picture} has {size[0]} x {size[1]} pixels (height x width), but the regions of "
                f"interest of the products have {found}: pass pictures of that size, or roi=."
            )
        part = np.ones(size, dtype=bool)
        for mask in fitting:
            part &= mask
        if not part.any():
            raise PictureError(
                f"the regions of interest of the products have no pixel in common, so the class of "
                f"{picture} cannot be inferred inside them: pass class_labels, or roi=."
            )
        return Region(part, "the common part of the regions of interest")


def read_mask(item: Any, name: str) -> NDArray[np.bool_]:
    """Return one mask as bool (height, width), True inside.

    Raises TypeError or ValueError, naming the mask, for what is no mask and for an empty one.
    """
    if isinstance(item, str | os.PathLike):
        if not os.path.exists(item):
            raise FileNotFoundError(f"{name} does not exist.")
        mask = load_mask(item)
    else:
        if isinstance(item, Image.Image):
            values = values_of_image(item) != 0
        else:
            values = np.asarray(item)
        if values.ndim == 3 and values.shape[-1] == 1:
            values = values[..., 0]
        if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} has shape {values.shape} and dtype {values.dtype}; a mask is an array "
                "(height, width) of bool, or of 0 outside and 1 or 255 inside."
            )
        if values.dtype != bool and not np.isin(values, (0, 1, 255)).all():
            odd = values[~np.isin(values, (0, 1, 255))].ravel()[0]
            raise ValueError(
                f"{name} holds {odd}; a mask is bool, or 0 outside and 1 or 255 inside."
            )
        mask = values != 0
    if not mask.any():
        raise ValueError(
            f"{name} is empty: no pixel of its {mask.shape[0]} x {mask.shape[1]} is inside. Mark "
            "what is to be inspected by True, 1 or white, or leave the mask out."
        )
    return mask


def regions_of_samples(
    roi: Any, n_samples: int, classes: NDArray[Any] | None, name: str = "roi"
) -> ProductMasks | list[Region | None]:
    """Read `roi` as users give it.

    Parameters
    ----------
    roi : mask, mapping of label to mask, or sequence of n_samples masks or None
    n_samples : int
    classes : ndarray of shape (n_classes,), or None
        Labels of the product classes; None where there are none yet.
    name : str, default="roi"
        In messages.

    Returns
    -------
    ProductMasks, or list of Region or None
        One mask for all, or one a product; or the regions of the samples.
    """
    if isinstance(roi, Mapping):
        return _by_product(roi, classes, name)
    if isinstance(roi, str | os.PathLike | Image.Image) or getattr(roi, "ndim", None) == 2:
        region = _named(roi, name)
        n_classes = 1 if classes is None else len(classes)
        mask = read_mask(region.item, region.name)
        return ProductMasks((mask,), (0,) * n_classes, (region.name,))
    if not hasattr(roi, "__len__") or not hasattr(roi, "__iter__"):
        raise TypeError(f"{name} is a {type(roi).__name__}; expected {_KINDS}.")
    items = list(roi)
    if len(items) != n_samples:
        raise ValueError(
            f"{name} has {len(items)} masks but X has {n_samples} samples; pass one per sample, "
            "None for a whole picture, or a single mask (height, width) for all."
        )
    found: list[Region | None] = []
    for index, item in enumerate(items):
        if item is None:
            found.append(None)
            continue
        region = _named(item, f"{name}[{index}]")
        if isinstance(item, str | os.PathLike):
            if not os.path.exists(item):
                raise FileNotFoundError(f"{region.name} does not exist.")
        elif not isinstance(item, Image.Image):
            read_mask(item, region.name)  # before the work
        found.append(region)
    return found


def _by_product(roi: Mapping[Any, Any], classes: NDArray[Any] | None, name: str) -> ProductMasks:
    if not roi:
        raise ValueError(f"{name} is an empty mapping; expected {_KINDS}.")
    if classes is None:
        raise ValueError(
            f"{name} maps products to masks, but the classes are yet to be discovered: pass y, one "
            "mask for all, or one per picture."
        )
    known = classes.tolist()
    masks: list[NDArray[np.bool_]] = []
    names: list[str] = []
    of_class = [-1] * len(known)
    for label, item in roi.items():
        label = label.item() if isinstance(label, np.generic) else label
        if label not in known:
            raise ValueError(
                f"{name} has a mask for {label!r}, which is no product class. Known classes: "
                f"{', '.join(map(repr, known[:20]))}."
            )
        if item is None:
            continue
        region = _named(item, f"{name}[{label!r}]")
        mask = read_mask(region.item, region.name)
        same = [i for i, other in enumerate(masks) if np.array_equal(mask, other)]
        if not same:
            masks.append(mask)
            names.append(region.name)
        of_class[known.index(label)] = same[0] if same else len(masks) - 1
    return ProductMasks(tuple(masks), tuple(of_class), tuple(names))


def _named(item: Any, name: str) -> Region:
    path = item if isinstance(item, str | os.PathLike) else getattr(item, "filename", "")
    path = os.fspath(path) if path else ""
    return Region(item, f"{name} ({path})" if path else name)
