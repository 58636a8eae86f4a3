"""Loaders of data sets whose folders name split, class and defect; unions of data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from .folders import ANOMALY, SAMPLE_FIELDS, check_choices, check_root, load_tree
from .kolektorsdd2 import load_kolektorsdd2
from .layouts import BTAD, FOLDER, MPDD, MVTEC_3D_AD, MVTEC_AD, MVTEC_LOCO_AD
from .mvtec_ad_2 import load_mvtec_ad_2
from .plain import is_plain, load_plain
from .real_iad import load_real_iad
from .recognition import Recognised, recognise
from .visa import load_visa

__all__ = [
    "load_btad",
    "load_folder",
    "load_mpdd",
    "load_mvtec_3d_ad",
    "load_mvtec_ad",
    "load_mvtec_loco_ad",
    "load_union",
]


def load_mvtec_ad(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load MVTec AD: 15 objects and textures, train normals, test normals and defects.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class:
        ``<class>/{train/good,test/<defect>}/000.png`` and
        ``<class>/ground_truth/<defect>/000_mask.png``.
    classes : sequence of str, default=None
        The classes to read; None reads all, and warns of absent ones.
    split : {"train", "test", "all"}, default="all"
        The published split to read.
    verify : bool, default=True
        Compare the sizes of every mask and its image, as their headers give them.

    Returns
    -------
    data : Bunch
        Arrays of equal length: `images` (paths, object), `class_label` (str), `y` (+1 normal,
        -1 anomaly), `target` (the y for `HGADDetector.fit`: the class label, or "-1" for an
        anomaly), `defect` (str, "good" for normals), `mask` (path or None, object), `split` (str);
        also `classes` (ndarray of str), `root` and `DESCR`. Sorted by class, split, defect
        and name.

    Raises
    ------
    FileNotFoundError
        If `root` is not a folder; the message says where the data set comes from.
    ValueError
        If the layout differs, an anomaly lacks its mask, a mask lacks its image or has another
        size.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skhgad.datasets import load_mvtec_ad
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for part in ["train/good/000", "test/cut/000", "ground_truth/cut/000_mask"]:
    ...         path = Path(root, "wood", f"{part}.png")
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("L", (8, 8)).save(path)
    ...     data = load_mvtec_ad(root, classes=["wood"])
    >>> data.target.tolist(), data.defect.tolist(), Path(data.mask[1]).name
    (['wood', '-1'], ['good', 'cut'], '000_mask.png')
    """
    return load_tree(MVTEC_AD, root, classes, split, verify)


def load_btad(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load BTAD: the products "01", "02" and "03", with ``ok`` and ``ko`` images.

    Images are .bmp (02: .png), masks .png (03: .bmp) in ``ground_truth/ko``, named as their images.
    Normal images (``ok``) get the defect "good".

    Parameters
    ----------
    root : str or Path
        The unpacked folder (``BTech_Dataset_transformed``), which holds 01, 02 and 03.
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`.
    """
    return load_tree(BTAD, root, classes, split, verify)


def load_mvtec_3d_ad(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load the RGB images of MVTec 3D-AD; the position maps (xyz) are not read.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class:
        ``<class>/{train/good,validation/good,test/<defect>}/rgb/000.png`` and
        ``<class>/test/<defect>/gt/000.png``.
    classes, verify
        As in `load_mvtec_ad`.
    split : {"train", "validation", "test", "all"}, default="all"
        The published split to read; "train" does not include "validation".

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. Normal test images have masks too (all zero), as published.
    """
    return load_tree(MVTEC_3D_AD, root, classes, split, verify)


def load_mvtec_loco_ad(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load MVTec LOCO AD: 5 products with logical and structural anomalies.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class:
        ``<class>/{train/good,validation/good,test/<kind>}/000.png``, the masks of that image in
        ``<class>/ground_truth/<kind>/000/``, and ``<class>/defects_config.json``.
    classes, verify
        As in `load_mvtec_ad`.
    split : {"train", "validation", "test", "all"}, default="all"
        The published split to read; "train" does not include "validation".

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`. `defect` is "good", "logical_anomalies" or "structural_anomalies".
        `mask` is the folder of the image's masks, which `load_mask` reads as one and
        `load_saturated_regions` defect by defect.
    """
    return load_tree(MVTEC_LOCO_AD, root, classes, split, verify)


def load_mpdd(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load MPDD: 6 kinds of painted metal parts, laid out as MVTec AD.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class.
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`.
    """
    return load_tree(MPDD, root, classes, split, verify)


# The published data sets that are not laid out as MVTec AD.
_PUBLISHED: dict[str, Callable[..., Bunch]] = {
    "btad": load_btad,
    "kolektorsdd2": load_kolektorsdd2,
    "mvtec_3d_ad": load_mvtec_3d_ad,
    "mvtec_ad_2": load_mvtec_ad_2,
    "mvtec_loco_ad": load_mvtec_loco_ad,
    "real_iad": load_real_iad,
    "visa": load_visa,
}


def load_folder(
    root: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str = "all",
    verify: bool = True,
) -> Bunch:
    """Load your own images, or a published data set that is recognised by its names.

    Your own lie in folders named as in MVTec AD, or in plain folders of normal images.

    The folder may hold several classes, or be one class itself: it then has ``train/good`` or
    ``test`` directly, and its name is the class. A class may lack ``train`` or ``test``. Without
    ``ground_truth`` all masks are None. ``train`` may hold known anomalies beside ``good``. Images
    may be png, jpg, jpeg, bmp, tif, tiff and webp files.

    Where neither the folder nor those in it have ``train`` or ``test``, all images are normal ones
    of the split "train": those of ``<class>/<image>``, or those in the folder itself, which are one
    class with the folder's name (for ``<class>/train/good``, with that of the class). Beside the
    images of a class may lie a folder ``bad`` of known defects, which get the label "-1"; the
    normal images then may lie in a folder ``good`` beside it.

    A folder of BTAD, KolektorSDD2, MVTec 3D-AD, MVTec AD 2, MVTec LOCO AD, Real-IAD or VisA is read
    by the loader of that data set; of BTAD and those of MVTec, also the folder of one class. Of
    MVTec AD 2, "test" is the public test set. "all" includes a published validation split.

    Parameters
    ----------
    root : str or Path
        Folder with ``<class>/train/good/<image>``, ``<class>/test/<defect>/<image>`` and
        ``<class>/ground_truth/<defect>/<image>_mask.png`` (or ``<image>.png``); or with
        ``<class>/<image>``; or with images.
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skhgad.datasets import load_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ["train/good/a.png", "test/good/b.png", "test/dent/c.png"]:
    ...         path = Path(root, "lid", name)
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("RGB", (8, 8)).save(path)
    ...     data = load_folder(root)
    >>> data.split.tolist(), data.y.tolist(), data.target.tolist()
    (['train', 'test', 'test'], [1, -1, 1], ['lid', '-1', 'lid'])
    """
    folder = check_root(FOLDER, root)
    published = recognise(folder)
    if published is not None and published.name in _PUBLISHED:
        return _load_published(published, classes, split, verify)
    if is_plain(folder):
        return load_plain(folder, classes, split)
    return load_tree(FOLDER, root, classes, split, verify)


def _load_published(
    published: Recognised, classes: Sequence[str] | None, split: str, verify: bool
) -> Bunch:
    """Read a published data set with the splits "train" and "test"."""
    check_choices(split, FOLDER.splits, classes)
    if (
        published.classes is not None
        and classes is not None
        and set(classes) != set(published.classes)
    ):
        name = published.classes[0]
        raise ValueError(f"classes={list(classes)}, but the folder is the one class {name!r}.")
    of_public = published.name == "mvtec_ad_2" and split == "test"
    data = _PUBLISHED[published.name](
        published.root,
        classes=classes if published.classes is None else published.classes,
        split="test_public" if of_public else split,
        verify=verify,
    )
    data.split = np.where(data.split == "test_public", "test", data.split)
    return data


def load_union(datasets: Mapping[str, Bunch] | Sequence[tuple[str, Bunch]]) -> Bunch:
    """Join data sets into one; class ``bottle`` of ``mvtec`` becomes ``mvtec/bottle``.

    Parameters
    ----------
    datasets : mapping of str to Bunch, or sequence of (str, Bunch)
        Names and what the loaders returned.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`; `root` is a dict from name to root.

    Raises
    ------
    ValueError
        If no data set is given, two have the same name, or one lacks a field.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.utils import Bunch
    >>> from skhgad.datasets import load_union
    >>> one = Bunch(
    ...     images=np.array(["a.png"], dtype=object), class_label=np.array(["lid"]),
    ...     y=np.array([1]), target=np.array(["lid"]), defect=np.array(["good"]),
    ...     mask=np.array([None]), split=np.array(["train"]), root="a", DESCR="one image",
    ... )
    >>> load_union({"mine": one, "yours": one}).target.tolist()
    ['mine/lid', 'yours/lid']
    """
    pairs: list[Any] = list(datasets.items() if isinstance(datasets, Mapping) else datasets)
    _check_pairs(pairs)
    union = Bunch(
        **{
            field: np.concatenate([np.asarray(d[field]) for _, d in pairs])
            for field in SAMPLE_FIELDS
        }
    )
    union.class_label = np.concatenate(
        [np.array([f"{name}/{label}" for label in d.class_label]) for name, d in pairs]
    )
    union.target = np.where(union.y == 1, union.class_label, ANOMALY)
    union.classes = np.unique(union.class_label)
    union.root = {name: d.root for name, d in pairs}
    union.DESCR = "\n".join(f"{name}: {d.DESCR}" for name, d in pairs)
    return union


def _check_pairs(pairs: Sequence[Any]) -> None:
    if not pairs:
        raise ValueError("datasets is empty: give at least one (name, Bunch).")
    for index, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"datasets[{index}] must be a pair (name, Bunch), got {pair!r:.80}.")
        fields = pair[1] if isinstance(pair[1], Mapping) else ()
        absent = [field for field in (*SAMPLE_FIELDS, "root", "DESCR") if field not in fields]
        if absent:
            raise ValueError(
                f"datasets[{index}] ({pair[0]!r}) lacks {absent}: use a loader's Bunch."
            )
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"datasets must have different names, got {names}.")
