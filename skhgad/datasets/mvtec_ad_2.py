"""MVTec AD 2, whose public test set holds its own masks, and whose private ones have no labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sklearn.utils import Bunch

from .folders import (
    Sample,
    check_choices,
    check_root,
    class_folders,
    entries,
    image_files,
    make_bunch,
    match_masks,
    warn_left_out,
    warn_unexpected,
    warn_unread,
)
from .layouts import MVTEC_AD_2, layout_error

__all__ = ["load_mvtec_ad_2"]

_PRIVATE = ("test_private", "test_private_mixed")
_PARTS = {"train": {"good"}, "validation": {"good"}, "test_public": {"good", "bad", "ground_truth"}}


def load_mvtec_ad_2(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load MVTec AD 2: 8 products under changing light.

    The images of ``test_private`` and ``test_private_mixed`` have no labels: `y` is 0, `defect` is
    "unknown", and `target` is "-1", so that `HGADDetector.fit` leaves them out.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class: ``<class>/{train,validation}/good``,
        ``<class>/test_public/{good,bad}``, ``<class>/test_public/ground_truth/bad`` (masks),
        ``<class>/test_private`` and ``<class>/test_private_mixed``.
    classes, verify
        As in `load_mvtec_ad`.
    split : str, default="all"
        "train", "validation", "test_public", "test_private" or "test_private_mixed"; "all" is the
        first three, which have labels.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. Anomalies have the defect "bad".
    """
    root = check_root(MVTEC_AD_2, root)
    splits, wanted = check_choices(split, MVTEC_AD_2.splits, classes)
    if split == "all":
        splits = tuple(name for name in splits if name not in _PRIVATE)
    samples = []
    for label, folder in class_folders(MVTEC_AD_2, root, wanted).items():
        warn_unexpected(MVTEC_AD_2, folder)
        of_class = [s for name in splits for s in _read_split(folder / name, label, verify)]
        warn_left_out(of_class, folder, split, label)
        samples += of_class
    return make_bunch(samples, root, MVTEC_AD_2.name, MVTEC_AD_2.source)


def _read_split(folder: Path, label: str, verify: bool) -> list[Sample]:
    """Return the samples of one folder <class>/<split>."""
    split = folder.name
    if not folder.is_dir():
        raise layout_error(MVTEC_AD_2, f"{folder} is missing.")
    if split in _PRIVATE:
        return [
            Sample(image, label, "unknown", None, split, is_labelled=False)
            for image in image_files(folder)
        ]
    folders, files = entries(folder)
    unexpected = [f for f in folders if f.name not in _PARTS[split]] + files
    warn_unread(folder, unexpected, f"only {', '.join(sorted(_PARTS[split]))} belong there")
    for name in sorted(_PARTS[split]):
        if not (folder / name).is_dir():
            raise layout_error(MVTEC_AD_2, f"{folder / name} is missing.")
    samples = _read_bad(folder, label, verify) if split == "test_public" else []
    normal = image_files(folder / "good")
    return samples + [Sample(image, label, "good", None, split) for image in normal]


def _read_bad(folder: Path, label: str, verify: bool) -> list[Sample]:
    """Return the anomalies of <class>/test_public."""
    images, mask_folder = image_files(folder / "bad"), folder / "ground_truth" / "bad"
    if not mask_folder.is_dir():
        raise layout_error(MVTEC_AD_2, f"{mask_folder} is missing.")
    masks = match_masks(images, mask_folder, MVTEC_AD_2.mask_names, required=True, verify=verify)
    return [
        Sample(image, label, "bad", mask, folder.name)
        for image, mask in zip(images, masks, strict=True)
    ]
