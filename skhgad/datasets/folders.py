"""Read a data set whose folders name split, class and defect.

Masks are found by name, never by position. Entries that are not read raise a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from .layouts import Layout, expected_layout, layout_error
from .masks import IMAGE_ENDINGS, verify_mask

ANOMALY = "-1"  # the class label that marks a known anomaly in y
# Arrays of the loaders' Bunch, one element a sample.
SAMPLE_FIELDS = ("images", "class_label", "y", "target", "defect", "mask", "split")
_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
_DOCUMENTS = {"license", "license-dataset", "readme", "attribution", "citation"}


class Sample(NamedTuple):
    """One image of a data set and its labels."""

    image: Path
    class_label: str
    defect: str  # "good" for a normal image
    mask: Path | None  # a folder where the layout has `mask_folders`
    split: str
    is_labelled: bool = True


def load_tree(
    layout: Layout,
    root: str | os.PathLike[str],
    classes: Sequence[str] | None,
    split: str,
    verify: bool,
) -> Bunch:
    """Read a data set of folders, as the public loaders document."""
    root = check_root(layout, root)
    splits, wanted = check_choices(split, layout.splits, classes)
    if _is_one_class(layout, root):
        name = root.resolve().name
        if wanted not in (None, [name]):
            raise ValueError(f"classes={wanted}, but root={str(root)!r} is the one class {name!r}.")
        folders = {name: root}
    else:
        folders = class_folders(layout, root, wanted)
    samples = []
    for label, folder in folders.items():
        warn_unexpected(layout, folder)
        of_class = [s for name in splits for s in _read_split(layout, folder, name, label, verify)]
        warn_left_out(of_class, folder, split, label)
        samples += of_class
    return make_bunch(samples, root, layout.name, layout.source)


def warn_unexpected(layout: Layout, folder: Path) -> None:
    """Warn of entries of a class folder that the layout does not have."""
    expected = {*layout.splits, *layout.other_entries}
    folders, files = entries(folder)
    unexpected = [entry for entry in folders + files if entry.name not in expected]
    warn_unread(folder, unexpected, f"{layout.name} has no such entry")


def warn_left_out(samples: Sequence[Sample], place: Path, split: str, label: str) -> None:
    """Warn that a class has no samples, if so; `place` should have had them."""
    if not samples:
        warnings.warn(
            f"{place} holds no image for split={split!r}: class {label!r} is left out.",
            UserWarning,
            stacklevel=2,
        )


def _is_one_class(layout: Layout, root: Path) -> bool:
    """Tell whether `root` is itself a class: its splits hold defects, not splits."""
    if layout.classes is not None:
        return False
    splits = [root / name for name in layout.splits if (root / name).is_dir()]
    inner = [folder / name for folder in splits for name in ("train", "test")]
    return bool(splits) and not any(folder.is_dir() for folder in inner)


def check_root(layout: Layout, root: str | os.PathLike[str]) -> Path:
    """Return `root` as a Path; raise an error if it is no folder."""
    try:
        path = Path(root).expanduser()
    except TypeError:
        raise TypeError(f"root must be a path (str or Path), got {root!r}.") from None
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise FileNotFoundError(f"root={str(path)!r} {problem}.\n{expected_layout(layout)}")
    return path


def check_choices(
    split: str, splits: tuple[str, ...], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str] | None]:
    """Return the splits to read and the wanted classes, None for all."""
    if split not in (*splits, "all"):
        raise ValueError(f"split must be one of {[*splits, 'all']}, got {split!r}.")
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got {classes!r}: use [{classes!r}].")
    wanted = None
    if classes is not None:
        wanted = list(dict.fromkeys(str(name) for name in classes))
        if not wanted:
            raise ValueError("classes is empty: name at least one class, or pass None for all.")
    return (splits if split == "all" else (split,)), wanted


def class_folders(layout: Layout, root: Path, wanted: Collection[str] | None) -> dict[str, Path]:
    """Return {class name: folder} of the classes to read, sorted by name."""
    folders, files = entries(root)
    by_name = {folder.name: folder for folder in folders}
    if layout.classes is None:
        present = sorted(name for name, folder in by_name.items() if holds_a_split(folder))
    else:
        present = [name for name in layout.classes if name in by_name]
    for name in wanted or ():
        if name not in present:
            raise layout_error(layout, f"classes names {name!r}; {root} holds {present}.")
    if not present:
        hint = _other_root(layout, root, folders)
        raise layout_error(layout, f"root={str(root)!r} holds no folder of a class.{hint}")
    if wanted is None:
        unexpected = [f for f in folders + files if f.name not in {*present, "split_csv"}]
        warn_unread(root, unexpected, "it is no folder of a class")
        _warn_absent(layout, root, present)
    return {name: by_name[name] for name in sorted(wanted or present)}


def holds_a_split(folder: Path) -> bool:
    """Tell whether a folder holds train/ or test/."""
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _other_root(layout: Layout, root: Path, folders: list[Path]) -> str:
    """Return a hint at a nearby folder that holds the classes, or ""."""
    names = layout.classes or ()
    candidates = [f for f in folders for name in names if (f / name).is_dir()]
    if root.resolve().name in names:
        candidates.append(root.parent)
    return f" Did you mean root={str(candidates[0])!r}?" if candidates else ""


def _warn_absent(layout: Layout, root: Path, present: list[str]) -> None:
    published = layout.classes or ()
    absent = sorted(set(published) - set(present))
    if absent:
        warnings.warn(
            f"{root} lacks {len(absent)} of the {len(published)} classes of "
            f"{layout.name}: {absent}. Name those you want in classes to silence this.",
            UserWarning,
            stacklevel=2,
        )


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is hidden, or what systems put beside the user's own.

    Such as the thumbnails that a Synology keeps in folders @eaDir.
    """
    return name.startswith(".") or name.lower() in _JUNK


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files of `folder`, sorted, without known junk."""
    entries = sorted(e for e in folder.iterdir() if not is_junk(e.name))
    files = [e for e in entries if not e.is_dir() and not _is_document(e.name)]
    return [e for e in entries if e.is_dir()], files


def _is_document(name: str) -> bool:
    stem, ending = os.path.splitext(name.lower())
    return stem in _DOCUMENTS and ending not in IMAGE_ENDINGS


def image_files(folder: Path, expected: Collection[str] = ()) -> list[Path]:
    """Return the images of `folder`, sorted; warn of other entries but the folders `expected`."""
    folders, files = entries(folder)
    folders = [entry for entry in folders if entry.name not in expected]
    images = [f for f in files if f.suffix.lower() in IMAGE_ENDINGS]
    others = [f for f in files if f.suffix.lower() not in IMAGE_ENDINGS]
    warn_unread(folder, folders + others, "only image files belong there")
    if not images:
        warnings.warn(f"{folder} holds no image.", UserWarning, stacklevel=2)
    return images


def warn_unread(folder: Path, entries: Sequence[Path], why: str) -> None:
    """Warn that `entries` of `folder` are not read, and why."""
    if entries:
        names = ", ".join(repr(entry.name) for entry in entries[:5])
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        message = f"{folder} holds {names}{more}: not read, because {why}."
        warnings.warn(message, UserWarning, stacklevel=2)


def _read_split(
    layout: Layout, class_folder: Path, split: str, label: str, verify: bool
) -> list[Sample]:
    """Return the samples of one folder <class>/<split>."""
    split_folder = class_folder / split
    if not split_folder.is_dir():
        if layout.classes is None:
            return []
        raise layout_error(layout, f"{split_folder} is missing.")
    folders, files = entries(split_folder)
    warn_unread(split_folder, files, "images lie in a folder per defect")
    if split != "test" and layout.normal not in {folder.name for folder in folders}:
        raise layout_error(layout, f"{split_folder / layout.normal} is missing.")
    samples = []
    for folder in folders:
        samples += _read_defect(layout, class_folder, split, folder, label, verify)
    if split == "test" and not layout.nested:
        _check_mask_folders(class_folder / "ground_truth", split_folder, folders)
    return samples


def _check_mask_folders(mask_root: Path, split_folder: Path, defects: Iterable[Path]) -> None:
    """Refuse a folder of masks without a folder of images; warn of files beside them."""
    if not mask_root.is_dir():
        return
    mask_folders, files = entries(mask_root)
    warn_unread(mask_root, files, "masks lie in a folder per defect")
    unmatched = sorted({f.name for f in mask_folders} - {f.name for f in defects})
    if unmatched:
        raise ValueError(
            f"the masks in {mask_root / unmatched[0]} have no images: "
            f"{split_folder / unmatched[0]} is missing."
        )


def _read_defect(
    layout: Layout, class_folder: Path, split: str, folder: Path, label: str, verify: bool
) -> list[Sample]:
    """Return the samples of one folder <class>/<split>/<defect>."""
    is_normal = folder.name == layout.normal
    if not is_normal and layout.classes is not None and (split != "test" or folder.name == "good"):
        raise layout_error(layout, f"{folder} does not belong to the layout.")
    image_folder, mask_folder = folder, class_folder / "ground_truth" / folder.name
    if layout.nested:
        image_folder, mask_folder = folder / "rgb", folder / "gt"
        _check_nested(layout, folder)
    images = image_files(image_folder)
    masks: Sequence[Path | None] = [None] * len(images)
    # Only test images have masks; an image in train may have the same name.
    if split == "test":
        if mask_folder.is_dir() and layout.mask_folders:
            masks = _match_mask_folders(images, mask_folder, verify)
        elif mask_folder.is_dir():
            masks = match_masks(
                images, mask_folder, layout.mask_names, required=not is_normal, verify=verify
            )
        elif not is_normal and (layout.classes is not None or mask_folder.parent.is_dir()):
            warnings.warn(
                f"{folder} has no masks: {mask_folder} is missing, mask is None.",
                UserWarning,
                stacklevel=2,
            )
    defect = "good" if is_normal else folder.name
    return [
        Sample(image, label, defect, mask, split) for image, mask in zip(images, masks, strict=True)
    ]


def _check_nested(layout: Layout, folder: Path) -> None:
    """Refuse a defect folder without rgb/; warn of other entries."""
    if not (folder / "rgb").is_dir():
        raise layout_error(layout, f"{folder / 'rgb'} is missing.")
    folders, files = entries(folder)
    unexpected = [f for f in folders if f.name not in ("rgb", "gt", "xyz")] + files
    warn_unread(folder, unexpected, "only rgb, gt and xyz belong there")


def _match_mask_folders(images: list[Path], folder: Path, verify: bool) -> list[Path]:
    """Return each image's folder of masks in `folder`, which is named as the image."""
    folders, files = entries(folder)
    warn_unread(folder, files, "masks lie in a folder per image")
    for image in images:
        of_image = folder / image.stem
        masks = image_files(of_image) if of_image.is_dir() else []
        if not masks:
            raise ValueError(f"image {image} has no mask: {of_image} is missing or empty.")
        for mask in masks if verify else ():
            verify_mask(image, mask)
    stems = {image.stem for image in images}
    refuse_unmatched([f for f in folders if f.name not in stems])
    return [folder / image.stem for image in images]


def match_masks(
    images: list[Path], folder: Path, names: tuple[str, ...], *, required: bool, verify: bool
) -> list[Path | None]:
    """Return each image's mask in `folder`, or None; `names` as in `Layout.mask_names`."""
    masks = _by_stem(image_files(folder))
    matched: list[Path | None] = []
    image_of: dict[Path, Path] = {}
    for image in images:
        stems = [name.format(image.stem) for name in names]
        candidates = [masks[stem] for stem in stems if stem in masks]
        if len(candidates) > 1:
            raise ValueError(
                f"image {image} has two masks, {candidates[0]} and {candidates[1]}: keep one."
            )
        if not candidates and required:
            wanted = " or ".join(f"{stem}.*" for stem in stems)
            raise ValueError(f"image {image} has no mask: {folder} holds no {wanted}.")
        mask = candidates[0] if candidates else None
        if mask is not None:
            if mask in image_of:
                raise ValueError(f"images {image_of[mask]} and {image} share the mask {mask}.")
            image_of[mask] = image
            if verify:
                verify_mask(image, mask)
        matched.append(mask)
    refuse_unmatched([mask for mask in masks.values() if mask not in image_of])
    return matched


def _by_stem(masks: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for mask in masks:
        if mask.stem in by_stem:
            raise ValueError(
                f"{by_stem[mask.stem]} and {mask} are masks of the same name: keep one."
            )
        by_stem[mask.stem] = mask
    return by_stem


def refuse_unmatched(masks: Sequence[Path]) -> None:
    """Raise ValueError if there is a mask without an image."""
    if masks:
        raise ValueError(f"mask {masks[0]} ({len(masks)} such) has no image of its name.")


def make_bunch(samples: Sequence[Sample], root: Path, name: str, source: str) -> Bunch:
    """Return the Bunch that `load_mvtec_ad` documents."""
    if not samples:
        raise ValueError(f"root={str(root)!r} holds no image of the classes and split asked for.")
    label = np.array([s.class_label for s in samples])
    if ANOMALY in label:
        raise ValueError(f"a class cannot be named {ANOMALY!r}: it marks known anomalies.")
    defect = np.array([s.defect for s in samples])
    y = np.where(defect == "good", 1, -1)
    y[[not s.is_labelled for s in samples]] = 0
    masks = np.empty(len(samples), dtype=object)
    masks[:] = [None if s.mask is None else str(s.mask) for s in samples]
    return Bunch(
        images=np.array([str(s.image) for s in samples], dtype=object),
        class_label=label,
        y=y,
        target=np.where(y == 1, label, ANOMALY),
        defect=defect,
        mask=masks,
        split=np.array([s.split for s in samples]),
        classes=np.unique(label),
        root=str(root),
        DESCR=f"{name}: {len(samples)} images of {len(set(label))} classes. Source: {source}.",
    )


def chosen_samples(data: Bunch, chosen: NDArray[np.bool_]) -> Bunch:
    """Return the Bunch of some samples, True in `chosen`, of a loader's Bunch."""
    fields = {name: data[name][chosen] for name in SAMPLE_FIELDS}
    return Bunch(**{**data, **fields, "classes": np.unique(fields["class_label"])})
