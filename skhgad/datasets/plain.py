"""Read folders without splits: their images are normal, except for those in a folder `bad`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sklearn.utils import Bunch

from .folders import (
    IMAGE_ENDINGS,
    Sample,
    check_choices,
    entries,
    holds_a_split,
    image_files,
    make_bunch,
    warn_unread,
)
from .layouts import FOLDER, layout_error

__all__ = ["DEFECTS", "is_plain", "load_plain"]

DEFECTS = "bad"  # the folder of known defects


class _Product(NamedTuple):
    """Where the images of a product lie."""

    normal: Path
    defects: Path | None


def is_plain(root: Path) -> bool:
    """Tell whether images lie in `root` or in its folders, and no train/ or test/ is there."""
    if not root.is_dir():
        return False
    folders, _ = entries(root)
    if any(holds_a_split(folder) for folder in (root, *folders)):
        return False
    return any(_product_of(folder) is not None for folder in (root, *folders))


def load_plain(root: Path, classes: Sequence[str] | None, split: str) -> Bunch:
    """Read a folder for which `is_plain` holds, as `load_folder` documents."""
    splits, wanted = check_choices(split, FOLDER.splits, classes)
    if "train" not in splits:
        raise layout_error(
            FOLDER,
            f"root={str(root)!r} has neither train/ nor test/: all its images are normal ones, of "
            f"the split 'train', and none is of the split {split!r}.",
        )
    products = _products(root)
    for name in wanted or ():
        if name not in products:
            raise ValueError(f"classes names {name!r}; {root} holds {sorted(products)}.")
    samples = []
    for name in sorted(wanted or products):
        normal, defects = products[name]
        expected = () if defects is None else (DEFECTS,)
        samples += [
            Sample(image, name, "good", None, "train") for image in image_files(normal, expected)
        ]
        if defects is not None:
            samples += [
                Sample(image, name, DEFECTS, None, "train") for image in image_files(defects)
            ]
    return make_bunch(samples, root, FOLDER.name, FOLDER.source)


def _products(root: Path) -> dict[str, _Product]:
    """Return {name of a product: where its images lie}."""
    folders, files = entries(root)
    found = {folder.name: _product_of(folder) for folder in folders}
    products = {name: product for name, product in found.items() if product is not None}
    others = sorted(set(products) - {DEFECTS})
    whole = _product_of(root)
    if whole is not None and others == ([] if whole.normal == root else [FOLDER.normal]):
        if whole.normal != root:
            unread = [folder for folder in folders if folder.name not in products]
            warn_unread(root, unread + files, "only the folders good and bad belong there")
        return {_class_name(root): whole}
    if _has_images(files):
        raise ValueError(
            f"root={str(root)!r} holds images and folders of images ({others}), so "
            "the products are not clear: give the images a folder of their own."
        )
    if FOLDER.normal in products:
        raise layout_error(
            FOLDER,
            f"root={str(root)!r} holds a folder {FOLDER.normal!r}, as train/ and test/ do, so its "
            f"folders are no products. Pass the folder above, and call this one train or test; or "
            f"keep only {FOLDER.normal!r} and {DEFECTS!r}, for known defects, in a product.",
        )
    if DEFECTS in products:
        raise ValueError(
            f"root={str(root)!r} holds a folder {DEFECTS!r}, which means known defects, and it is "
            f"not clear of which product (there are {others}): move it to <product>/{DEFECTS}."
        )
    warn_unread(
        root,
        [folder for folder in folders if folder.name not in products] + files,
        "only folders of images belong there",
    )
    return products


def _product_of(folder: Path) -> _Product | None:
    """Return where the images lie in the folder of one product; None if there are none."""
    folders, files = entries(folder)
    by_name = {entry.name: entry for entry in folders if _has_images(entries(entry)[1])}
    defects = by_name.get(DEFECTS)
    if _has_images(files):
        return _Product(folder, defects)
    normal = by_name.get(FOLDER.normal)
    return None if normal is None else _Product(normal, defects)


def _class_name(root: Path) -> str:
    """Return the folder's name; that of the product for <class>/good and <class>/train/good."""
    folder = root.resolve()
    if folder.name == FOLDER.normal:
        folder = folder.parent
    if folder.name in FOLDER.splits:
        folder = folder.parent
    return folder.name or root.resolve().name


def _has_images(files: Sequence[Path]) -> bool:
    return any(file.suffix.lower() in IMAGE_ENDINGS for file in files)
