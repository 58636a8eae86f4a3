"""Which published data set a folder holds, by the names in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .layouts import (
    BTAD,
    KOLEKTORSDD2,
    MPDD,
    MVTEC_3D_AD,
    MVTEC_AD,
    MVTEC_AD_2,
    MVTEC_LOCO_AD,
    REAL_IAD,
    VISA,
    Layout,
)

__all__ = ["Recognised", "recognise"]

# What a class folder of a data set holds, beside the names of its classes. The first that fits.
_MARKS: dict[str, tuple[Layout, str]] = {
    "mvtec_ad_2": (MVTEC_AD_2, "test_public"),
    "mvtec_loco_ad": (MVTEC_LOCO_AD, "defects_config.json"),
    "mvtec_3d_ad": (MVTEC_3D_AD, "train/good/rgb"),
    "btad": (BTAD, "train/ok"),
    "mvtec_ad": (MVTEC_AD, "train/good"),
    "mpdd": (MPDD, "train/good"),
}


class Recognised(NamedTuple):
    """A published data set on disk: load_<name>(root, classes=classes) reads it."""

    name: str
    layout: Layout
    root: Path
    classes: list[str] | None  # the one class that the folder is; None = all


def recognise(folder: str | os.PathLike[str]) -> Recognised | None:
    """Return which published data set, or which class of one, lies in a folder; None if none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        return None
    found = _whole(folder)
    if found is not None:
        name, layout = found
        return Recognised(name, layout, folder, None)
    own = folder.resolve()
    for name, (layout, mark) in _MARKS.items():
        if own.name in (layout.classes or ()) and (own / mark).exists():
            return Recognised(name, layout, own.parent, [own.name])
    return None


def _whole(folder: Path) -> tuple[str, Layout] | None:
    """Return the name and the layout of the data set that a folder holds whole or in part."""
    with os.scandir(folder) as entries:
        # entry.is_dir() raises OSError for a link that leads to itself.
        names = {entry.name for entry in entries if os.path.isdir(entry.path)}
    if any(name.startswith("realiad_jsons") for name in names):
        return "real_iad", REAL_IAD
    if "split_csv" in names and names.intersection(VISA.classes or ()):
        return "visa", VISA
    if names.issuperset(KOLEKTORSDD2.splits) and any((folder / "train").glob("*_GT.png")):
        return "kolektorsdd2", KOLEKTORSDD2
    for name, (layout, mark) in _MARKS.items():
        present = names.intersection(layout.classes or ())
        if any((folder / of_class / mark).exists() for of_class in present):
            return name, layout
    return None
