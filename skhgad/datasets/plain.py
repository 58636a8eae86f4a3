"""Read folders without splits: all their images are normal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

__all__ = ["is_plain", "load_plain"]


def is_plain(root: Path) -> bool:
    """Tell whether images lie in `root` or in its folders, and no train/ or test/ is there."""
    if not root.is_dir():
        return False
    folders, files = entries(root)
    if any(holds_a_split(folder) for folder in (root, *folders)):
        return False
    return _has_images(files) or any(_has_images(entries(folder)[1]) for folder in folders)


def load_plain(root: Path, classes: Sequence[str] | None, split: str) -> Bunch:
    """Read a folder for which `is_plain` holds, as `load_folder` documents."""
    splits, wanted = check_choices(split, FOLDER.splits, classes)
    if "train" not in splits:
        raise layout_error(
            FOLDER,
            f"root={str(root)!r} has neither train/ nor test/: all its images are normal ones, of "
            f"the split 'train', and none is of the split {split!r}.",
        )
    folders = _class_folders(root)
    for name in wanted or ():
        if name not in folders:
            raise ValueError(f"classes names {name!r}; {root} holds {sorted(folders)}.")
    samples = [
        Sample(image, name, "good", None, "train")
        for name in sorted(wanted or folders)
        for image in image_files(folders[name])
    ]
    return make_bunch(samples, root, FOLDER.name, FOLDER.source)


def _class_folders(root: Path) -> dict[str, Path]:
    """Return {class name: folder of its images}."""
    folders, files = entries(root)
    by_name = {folder.name: folder for folder in folders if _has_images(entries(folder)[1])}
    if _has_images(files):
        if by_name:
            raise ValueError(
                f"root={str(root)!r} holds images and folders of images ({sorted(by_name)}), so "
                "the products are not clear: give the images a folder of their own."
            )
        return {_class_name(root): root}
    if FOLDER.normal in by_name:
        raise layout_error(
            FOLDER,
            f"root={str(root)!r} holds a folder {FOLDER.normal!r}, as train/ and test/ do, so its "
            f"folders are no products. Pass the folder above, and call this one train or test.",
        )
    others = [folder for folder in folders if folder.name not in by_name]
    warn_unread(root, others + files, "only folders of images belong there")
    return by_name


def _class_name(root: Path) -> str:
    """Return the folder's name; that of the product for <class>/train/good."""
    root = root.resolve()
    if root.name == FOLDER.normal and root.parent.name in FOLDER.splits:
        root = root.parent.parent
    return root.name


def _has_images(files: Sequence[Path]) -> bool:
    return any(file.suffix.lower() in IMAGE_ENDINGS for file in files)
