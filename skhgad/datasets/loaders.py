"""The public industrial data sets, read from disk as paths, labels and mask paths.

Nothing is downloaded and no image is decoded. Every loader returns the same `Bunch` (described in
`load_mvtec_ad`), so that a benchmark can take any of them, or several together by `load_union`.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.utils import Bunch

from .folders import (
    ANOMALY,
    BTAD,
    FOLDER,
    MVTEC_3D_AD,
    MVTEC_AD,
    VISA,
    Sample,
    check_choices,
    check_root,
    class_folders,
    image_files,
    load_tree,
    make_bunch,
    misshapen,
    verify_mask,
    warn_unread,
)

__all__ = [
    "load_btad",
    "load_folder",
    "load_mask",
    "load_mvtec_3d_ad",
    "load_mvtec_ad",
    "load_union",
    "load_visa",
]

_FIELDS = ("images", "class_label", "y", "target", "defect", "mask", "split")


def load_mvtec_ad(root, *, classes=None, split="all", verify=True):
    """Load MVTec AD: 15 objects and textures, train normals, test normals and defects.

    Parameters
    ----------
    root : str or Path
        The unpacked folder, which holds one folder per class:
        ``<class>/{train/good,test/<defect>}/000.png`` and
        ``<class>/ground_truth/<defect>/000_mask.png``.
    classes : sequence of str, default=None
        The classes to read; None reads all and warns of those that are absent.
    split : {"train", "test", "all"}, default="all"
        The published split to read.
    verify : bool, default=True
        Compare every mask's size with its image's (from the files' headers).

    Returns
    -------
    data : Bunch
        Arrays of equal length: `images` (paths, object), `class_label` (str), `y` (+1 normal,
        -1 anomaly), `target` (the y for `HGADDetector.fit`: the class label, "-1" for an anomaly),
        `defect` (str, "good" for normals), `mask` (path or None, object), `split` (str); further
        `classes` (ndarray of str), `root` and `DESCR`. Sorted by class, split, defect and name.

    Raises
    ------
    FileNotFoundError
        If `root` is not a folder; the message says where the data set comes from.
    ValueError
        If the folder has another layout, an anomaly lacks its mask, a mask lacks its image or has
        another size.

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


def load_btad(root, *, classes=None, split="all", verify=True):
    """Load BTAD: the products "01", "02" and "03", with ``ok`` and ``ko`` images.

    Images are .bmp (02: .png), masks .png (03: .bmp); a mask is found by its image's stem within
    ``ground_truth/ko``. Normal images (``ok``) get the defect "good".

    Parameters
    ----------
    root : str or Path
        The unpacked folder (``BTech_Dataset_transformed``), which holds 01, 02 and 03.
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`, which also lists what is raised.
    """
    return load_tree(BTAD, root, classes, split, verify)


def load_mvtec_3d_ad(root, *, classes=None, split="all", verify=True):
    """Load the RGB part of MVTec 3D-AD; the position maps (xyz) are left alone.

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
        As in `load_mvtec_ad`, which also lists what is raised. Normal test images have masks
        too (all zero), as published.
    """
    return load_tree(MVTEC_3D_AD, root, classes, split, verify)


def load_folder(root, *, classes=None, split="all", verify=True):
    """Load your own images from folders named as in MVTec AD.

    Any common image ending will do. The folder may hold several classes, or be one class itself
    (it then has ``train/good`` or ``test`` directly, and its name is the class). A class may lack
    ``train`` or ``test``, ``ground_truth`` may be absent (all masks None), and ``train`` may hold
    known anomalies beside ``good``.

    Parameters
    ----------
    root : str or Path
        Folder with ``<class>/train/good/<image>``, ``<class>/test/<defect>/<image>`` and
        ``<class>/ground_truth/<defect>/<image>_mask.png`` (or ``<image>.png``).
    classes, split, verify
        As in `load_mvtec_ad`.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`, which also lists what is raised.

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
    return load_tree(FOLDER, root, classes, split, verify)


def _read_csv(path, columns):
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"{path} lacks the columns {absent}; it has {reader.fieldnames}.")
        return [{name: (row[name] or "").strip() for name in columns} for row in reader]


def _visa_defects(folder):
    """Return {image: defect} from the object's image_anno.csv, empty where there is none."""
    table = folder / "image_anno.csv"
    rows = _read_csv(table, ("image", "label")) if table.is_file() else []
    named = {r["image"]: ", ".join(p.strip() for p in r["label"].split(",")) for r in rows}
    return {image: label for image, label in named.items() if label not in ("", "normal", "good")}


def _visa_sample(root, row, place, defects, verify):
    image, anomalous = root / row["image"], row["label"] == "anomaly"
    mask = root / row["mask"] if row["mask"] else None
    if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
        raise ValueError(
            f"{place}: split must be train or test and label normal or anomaly, got "
            f"{row['split']!r} and {row['label']!r}."
        )
    if not row["image"] or not image.is_file():
        raise ValueError(f"{place}: image {image} is missing.")
    if (mask is not None) != anomalous:
        raise ValueError(
            f"{place}: label {row['label']!r} with mask {row['mask']!r}; an anomaly has a mask, a "
            "normal image has none."
        )
    if anomalous:
        if mask.stem != image.stem or not mask.is_file():
            raise ValueError(f"{place}: {mask} is missing or not named as its image {image}.")
        if verify:
            verify_mask(image, mask)
    defect = defects.get(row["image"], "anomaly") if anomalous else "good"
    return Sample(image, row["object"], defect, mask, row["split"])


def load_visa(root, *, classes=None, split="all", split_csv="1cls", verify=True):
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
        As in `load_mvtec_ad`, which also lists what is raised. `defect` is the label of the
        object's ``image_anno.csv`` (several joined by ", "), "anomaly" where that says nothing.
    """
    root = check_root(VISA, root)
    splits, wanted = check_choices(split, ("train", "test"), classes)
    table = Path(split_csv)
    if table.suffix.lower() != ".csv":
        table = root / "split_csv" / f"{split_csv}.csv"
    folders = class_folders(VISA, root, wanted)
    if not table.is_file():
        raise misshapen(VISA, f"{table} is missing.")
    defects = {image: d for f in folders.values() for image, d in _visa_defects(f).items()}
    rows = _read_csv(table, ("object", "split", "label", "image", "mask"))
    samples, named = [], {}
    for line, row in enumerate(rows, start=2):
        place = f"{table}, line {line}"
        if row["object"] not in VISA.classes:
            raise ValueError(f"{place}: VisA has no object {row['object']!r}.")
        if row["object"] in folders:
            sample = _visa_sample(root, row, place, defects, verify and row["split"] in splits)
            if sample.image in named:
                raise ValueError(
                    f"{place}: {sample.image} is already on line {named[sample.image]}."
                )
            named[sample.image] = line
            samples.append(sample)
    for folder in folders.values():
        _check_visa_object(folder / "Data", named, table)
    samples = [sample for sample in samples if sample.split in splits]
    samples.sort(key=lambda s: (s.class_label, s.split != "train", s.defect, s.image.name))
    return make_bunch(samples, root, VISA.name, VISA.source)


def _check_visa_object(folder, named, table):
    """Tell of images that the split does not name, and of masks without an image."""
    kinds = (
        folder / "Images" / "Normal",
        folder / "Images" / "Anomaly",
        folder / "Masks" / "Anomaly",
    )
    normal, anomalous, masks = (image_files(kind) if kind.is_dir() else [] for kind in kinds)
    for kind, images in zip(kinds, (normal, anomalous), strict=False):
        unnamed = [image for image in images if image not in named]
        warn_unread(kind, unnamed, f"{table} does not name it")
    lonely = [mask for mask in masks if mask.stem not in {image.stem for image in anomalous}]
    if lonely:
        raise ValueError(f"mask {lonely[0]} ({len(lonely)} such) has no image of its name.")


def load_union(datasets):
    """Join data sets into one; class ``bottle`` of ``mvtec`` becomes ``mvtec/bottle``.

    Parameters
    ----------
    datasets : mapping of str to Bunch, or sequence of (str, Bunch)
        Names and what the loaders of this module returned.

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
    pairs = list(datasets.items() if isinstance(datasets, Mapping) else datasets)
    if not pairs:
        raise ValueError("datasets is empty: give at least one (name, Bunch).")
    for index, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"datasets[{index}] must be a pair (name, Bunch), got {pair!r:.80}.")
        fields = pair[1] if isinstance(pair[1], Mapping) else ()
        absent = [field for field in (*_FIELDS, "root", "DESCR") if field not in fields]
        if absent:
            raise ValueError(
                f"datasets[{index}] ({pair[0]!r}) lacks {absent}: use a loader's Bunch."
            )
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"datasets must have different names, got {names}.")
    union = Bunch(
        **{field: np.concatenate([np.asarray(d[field]) for _, d in pairs]) for field in _FIELDS}
    )
    union.class_label = np.concatenate(
        [np.array([f"{name}/{label}" for label in d.class_label]) for name, d in pairs]
    )
    union.target = np.where(union.y == 1, union.class_label, ANOMALY)
    union.classes = np.unique(union.class_label)
    union.root = {name: d.root for name, d in pairs}
    union.DESCR = "\n".join(f"{name}: {d.DESCR}" for name, d in pairs)
    return union


def load_mask(path, size=None):
    """Read a mask: True where a pixel is marked as defect.

    Every value but zero marks a defect (VisA numbers its defect types); in JPEG files, whose
    compression leaves noise around zero, values from 128. An alpha channel is ignored and an EXIF
    rotation applied, as for images.

    Parameters
    ----------
    path : str or Path
        The mask file.
    size : tuple (height, width), default=None
        Size to return, by nearest neighbour; None keeps the file's.

    Returns
    -------
    mask : ndarray of bool, shape (height, width)
        The mask.

    Raises
    ------
    ValueError
        If the file cannot be read; the message names it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skhgad.datasets import load_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "000_mask.png")
    ...     Image.new("L", (4, 2), color=3).save(path)
    ...     load_mask(path, size=(1, 2))
    array([[ True,  True]])
    """
    try:
        with Image.open(path) as image:
            lossy = image.format in ("JPEG", "MPO")
            values = np.asarray(ImageOps.exif_transpose(image))
            alpha = image.mode in ("LA", "PA", "RGBA")
    except OSError as error:
        raise ValueError(f"mask {path} cannot be read: {error}") from error
    if values.ndim == 3:
        values = (values[..., :-1] if alpha else values).max(axis=-1)
    mask = values >= 128 if lossy else values != 0
    if size is not None and tuple(size) != mask.shape:
        height, width = size
        resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.NEAREST)
        mask = np.asarray(resized) != 0
    return mask
