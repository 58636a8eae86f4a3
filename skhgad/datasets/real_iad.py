"""Real-IAD, whose splits, labels and masks are listed in a JSON file per class."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sklearn.utils import Bunch

from .folders import (
    Sample,
    check_choices,
    check_root,
    class_folders,
    entries,
    make_bunch,
    warn_left_out,
)
from .layouts import REAL_IAD, layout_error
from .masks import verify_mask

__all__ = ["load_real_iad"]

_LISTS = "realiad_jsons"


def load_real_iad(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    lists: str = _LISTS,
    images: str | None = None,
    verify: bool = True,
) -> Bunch:
    """Load Real-IAD: 30 products, each part seen by five cameras.

    Parameters
    ----------
    root : str or Path
        The folder that holds ``realiad_jsons`` and ``realiad_1024`` (or another size).
    classes, split, verify
        As in `load_mvtec_ad`.
    lists : str, default="realiad_jsons"
        The folder of JSON files, which say what is in each split: "realiad_jsons" has all cameras,
        "realiad_jsons_sv" the one from above, "realiad_jsons_fuiad_0.1" and others have anomalies
        among the training images. It may lie in ``realiad_jsons``, as the archive has it.
    images : str, default=None
        The folder of images, for example "realiad_256"; None is the only one there.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. `defect` is the published code, for example "AK"; anomalies of the
        training split are known anomalies.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `load_mvtec_ad`; also if a JSON file is broken, or names an image or a mask that is
        missing: the message names the file and the entry.
    """
    root = check_root(REAL_IAD, root)
    splits, wanted = check_choices(split, REAL_IAD.splits, classes)
    list_folder, image_root = _list_folder(root, lists), _image_root(root, images)
    samples = []
    for label in class_folders(REAL_IAD, image_root, wanted):
        file = list_folder / f"{label}.json"
        of_class = _read_list(file, image_root, label, splits, verify)
        warn_left_out(of_class, file, split, label)
        samples += of_class
    return make_bunch(samples, root, REAL_IAD.name, REAL_IAD.source)


def _list_folder(root: Path, name: str) -> Path:
    """Return the folder of JSON files."""
    for folder in (root / _LISTS / name, root / name):
        if folder.is_dir():
            return folder
    raise layout_error(REAL_IAD, f"{root / name} is missing.")


def _image_root(root: Path, name: str | None) -> Path:
    """Return the folder that holds a folder of images per class."""
    if name is not None:
        if not (root / name).is_dir():
            raise layout_error(REAL_IAD, f"{root / name} is missing.")
        return root / name
    folders = [f for f in entries(root)[0] if f.name.startswith("realiad_")]
    found = [f for f in folders if not f.name.startswith(_LISTS)]
    if not found:
        raise layout_error(REAL_IAD, f"{root} holds no images: realiad_1024 or such is missing.")
    if len(found) > 1:
        raise ValueError(
            f"{root} holds {[f.name for f in found]}: choose one by images= of load_real_iad, or "
            "move the others away."
        )
    return found[0]


def _read_list(
    file: Path, image_root: Path, label: str, splits: Sequence[str], verify: bool
) -> list[Sample]:
    """Return the samples of one class."""
    content = _read_json(file)
    meta = content.get("meta", {})
    prefix = str(meta.get("prefix", label))
    normal = meta.get("normal_class", "OK")
    samples: dict[Path, Sample] = {}
    for split in splits:
        rows = content.get(split)
        if not isinstance(rows, list):
            raise ValueError(f"{file} has no list {split!r}.")
        for index, row in enumerate(rows):
            place = f"{file}, {split}[{index}]"
            defect, image_name, mask_name = _entry(row, place, label, normal)
            image, mask = _existing(image_root, f"{prefix}/{image_name}", place), None
            if mask_name is not None:
                mask = _existing(image_root, f"{prefix}/{mask_name}", place)
            if image in samples:
                raise ValueError(f"{place}: {image} is in the file twice.")
            if verify and mask is not None:
                verify_mask(image, mask)
            samples[image] = Sample(image, label, defect, mask, split)
    return sorted(samples.values(), key=lambda s: (s.split != "train", s.defect, str(s.image)))


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise layout_error(REAL_IAD, f"{file} is missing.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no valid JSON: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("meta", {}), dict):
        raise ValueError(f"{file} must hold an object with meta, train and test.")
    return content


def _entry(row: Any, place: str, label: str, normal: Any) -> tuple[str, str, str | None]:
    """Return defect, image path and mask path of one entry; `place` names it in errors."""
    fields = ("image_path", "anomaly_class")
    if not isinstance(row, dict) or not all(isinstance(row.get(f), str) for f in fields):
        raise ValueError(f"{place} must have the texts {' and '.join(fields)}, got {row!r:.80}.")
    if row.get("category", label) != label:
        raise ValueError(f"{place} is of the category {row['category']!r}, not of {label!r}.")
    defect, mask = row["anomaly_class"], row.get("mask_path") or None
    if (mask is None) != (defect == normal):
        raise ValueError(
            f"{place}: anomaly_class {defect!r} with mask_path {mask!r}; an anomaly has a mask, a "
            "normal image has none."
        )
    return "good" if defect == normal else defect, row["image_path"], mask


def _existing(root: Path, name: str, place: str) -> Path:
    """Return the path of a file below `root`; `place` names the entry in errors."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{place}: {name!r} lies outside of {root}.")
    path = root / relative
    if not path.is_file():
        raise ValueError(f"{place}: {path} is missing.")
    return path
