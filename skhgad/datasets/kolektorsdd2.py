"""KolektorSDD2, whose masks lie beside the images and tell which of them are normal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sklearn.utils import Bunch

from .folders import (
    Sample,
    check_choices,
    check_root,
    entries,
    image_files,
    make_bunch,
    refuse_unmatched,
    warn_left_out,
    warn_unread,
)
from .layouts import KOLEKTORSDD2, layout_error
from .masks import load_mask, verify_mask

__all__ = ["load_kolektorsdd2"]

_MARK = "_GT"


def load_kolektorsdd2(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load KolektorSDD2: one surface, the class "KolektorSDD2".

    An image is an anomaly if its mask marks any pixel, so the masks are read; the images are not.
    The training split holds anomalies too, as known anomalies.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds ``train`` and ``test``, both with images as ``10000.png``
        and their masks as ``10000_GT.png``.
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. Anomalies have the defect "anomaly"; normal images have masks too
        (all zero), as published.
    """
    root = check_root(KOLEKTORSDD2, root)
    splits, wanted = check_choices(split, KOLEKTORSDD2.splits, classes)
    (label,) = KOLEKTORSDD2.classes or ()
    if wanted not in (None, [label]):
        raise ValueError(f"classes={wanted}, but {KOLEKTORSDD2.name} has the one class {label!r}.")
    folders, files = entries(root)
    unexpected = [f for f in folders if f.name not in KOLEKTORSDD2.splits] + files
    warn_unread(root, unexpected, "only train and test belong there")
    samples = [s for name in splits for s in _read_split(root / name, label, verify)]
    warn_left_out(samples, root, split, label)
    return make_bunch(samples, root, KOLEKTORSDD2.name, KOLEKTORSDD2.source)


def _read_split(folder: Path, label: str, verify: bool) -> list[Sample]:
    """Return the samples of train or test."""
    if not folder.is_dir():
        raise layout_error(KOLEKTORSDD2, f"{folder} is missing.")
    files = image_files(folder)
    masks = {file.stem: file for file in files if file.stem.endswith(_MARK)}
    images = [file for file in files if _MARK not in file.stem]
    strays = [file for file in files if _MARK in file.stem and file.stem not in masks]
    warn_unread(folder, strays, f"masks are named <image>{_MARK}.png")
    samples = []
    for image in images:
        mask = masks.pop(f"{image.stem}{_MARK}", None)
        if mask is None:
            raise ValueError(f"image {image} has no mask: {image.stem}{_MARK}.* is missing.")
        if verify:
            verify_mask(image, mask)
        defect = "anomaly" if load_mask(mask).any() else "good"
        samples.append(Sample(image, label, defect, mask, folder.name))
    refuse_unmatched(list(masks.values()))
    return sorted(samples, key=lambda s: (s.defect, s.image.name))
