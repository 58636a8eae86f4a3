"""VisA, whose splits and masks are listed in a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sklearn.utils import Bunch

from .folders import (
    Sample,
    check_choices,
    check_root,
    class_folders,
    image_files,
    make_bunch,
    refuse_unmatched,
    warn_unread,
)
from .layouts import VISA, layout_error
from .masks import verify_mask

__all__ = ["load_visa"]


def load_visa(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    split_csv: str | os.PathLike[str] = "1cls",
    verify: bool = True,
) -> Bunch:
    """Load VisA: 12 objects, split as its ``split_csv/1cls.csv`` says.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds ``split_csv`` and one folder per object.
    classes, split, verify
        As in `load_mvtec_ad`.
    split_csv : {"1cls", "2cls_fewshot", "2cls_highshot"} or path, default="1cls"
        The published split, or a file with the same columns (paths relative to `root`). In the
        two-class splits ``train`` holds known anomalies too.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. `defect` is the label in the object's ``image_anno.csv`` (several
        joined by ", "), or "anomaly" where it has none.
    """
    root = check_root(VISA, root)
    splits, wanted = check_choices(split, ("train", "test"), classes)
    table = Path(split_csv)
    if table.suffix.lower() != ".csv":
        table = root / "split_csv" / f"{split_csv}.csv"
    folders = class_folders(VISA, root, wanted)
    if not table.is_file():
        raise layout_error(VISA, f"{table} is missing.")
    samples = _read_table(table, root, folders, verified_splits=splits if verify else ())
    named = {sample.image for sample in samples}
    for folder in folders.values():
        _check_object(folder / "Data", named, table)
    samples = [sample for sample in samples if sample.split in splits]
    samples.sort(key=lambda s: (s.class_label, s.split != "train", s.defect, s.image.name))
    return make_bunch(samples, root, VISA.name, VISA.source)


def _read_table(
    table: Path, root: Path, folders: Mapping[str, Path], *, verified_splits: tuple[str, ...]
) -> list[Sample]:
    """Return the samples of the objects in `folders`, of all splits."""
    defects = {image: d for f in folders.values() for image, d in _read_defects(f).items()}
    samples: list[Sample] = []
    line_of: dict[Path, int] = {}
    rows = _read_csv(table, ("object", "split", "label", "image", "mask"))
    for line, row in enumerate(rows, start=2):
        place = f"{table}, line {line}"
        if row["object"] not in (VISA.classes or ()):
            raise ValueError(f"{place}: VisA has no object {row['object']!r}.")
        if row["object"] not in folders:
            continue
        sample = _sample(root, row, place, defects, verify=row["split"] in verified_splits)
        if sample.image in line_of:
            raise ValueError(f"{place}: {sample.image} is already on line {line_of[sample.image]}.")
        line_of[sample.image] = line
        samples.append(sample)
    return samples


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"{path} lacks the columns {absent}; it has {reader.fieldnames}.")
        return [{name: (row[name] or "").strip() for name in columns} for row in reader]


def _read_defects(folder: Path) -> dict[str, str]:
    """Return {image: defect} from an object's image_anno.csv, if there is one."""
    table = folder / "image_anno.csv"
    rows = _read_csv(table, ("image", "label")) if table.is_file() else []
    labels = {r["image"]: ", ".join(p.strip() for p in r["label"].split(",")) for r in rows}
    return {image: label for image, label in labels.items() if label not in ("", "normal", "good")}


def _sample(
    root: Path, row: Mapping[str, str], place: str, defects: Mapping[str, str], *, verify: bool
) -> Sample:
    """Return the sample of one row; `place` names it in errors."""
    image = root / row["image"]
    is_anomaly = row["label"] == "anomaly"
    if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
        raise ValueError(
            f"{place}: split must be train or test and label normal or anomaly, got "
            f"{row['split']!r} and {row['label']!r}."
        )
    if not row["image"] or not image.is_file():
        raise ValueError(f"{place}: image {image} is missing.")
    if bool(row["mask"]) != is_anomaly:
        raise ValueError(
            f"{place}: label {row['label']!r} with mask {row['mask']!r}; an anomaly has a mask, a "
            "normal image has none."
        )
    if not is_anomaly:
        return Sample(image, row["object"], "good", None, row["split"])
    mask = root / row["mask"]
    if mask.stem != image.stem or not mask.is_file():
        raise ValueError(f"{place}: {mask} is missing or not named as its image {image}.")
    if verify:
        verify_mask(image, mask)
    defect = defects.get(row["image"], "anomaly")
    return Sample(image, row["object"], defect, mask, row["split"])


def _check_object(folder: Path, named: set[Path], table: Path) -> None:
    """Warn of images that the split does not name; refuse masks without an image."""
    normal_folder, anomaly_folder = folder / "Images" / "Normal", folder / "Images" / "Anomaly"
    normal, anomalous, masks = (
        image_files(kind) if kind.is_dir() else []
        for kind in (normal_folder, anomaly_folder, folder / "Masks" / "Anomaly")
    )
    for kind, images in ((normal_folder, normal), (anomaly_folder, anomalous)):
        unnamed = [image for image in images if image not in named]
        warn_unread(kind, unnamed, f"{table} does not name it")
    stems = {image.stem for image in anomalous}
    refuse_unmatched([mask for mask in masks if mask.stem not in stems])
