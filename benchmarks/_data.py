"""What a benchmark runs on: image data sets, feature tables, or a folder of both, as `Part`s."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skhgad import datasets

LOADERS = {
    "mvtec_ad": datasets.load_mvtec_ad,
    "btad": datasets.load_btad,
    "mvtec_3d": datasets.load_mvtec_3d_ad,
    "visa": datasets.load_visa,
    "mvtec_ad_2": datasets.load_mvtec_ad_2,
    "mvtec_loco_ad": datasets.load_mvtec_loco_ad,
    "real_iad": datasets.load_real_iad,
    "kolektorsdd2": datasets.load_kolektorsdd2,
    "mpdd": datasets.load_mpdd,
    "folder": datasets.load_folder,
}
TEST_SPLITS = ("test", "test_public")  # with labels; the second of MVTec AD 2
_TABLE_ARRAYS = ("X", "class_name", "split", "y")


@dataclass
class Part:
    """One data set: normals to fit on, labelled samples to test on.

    Attributes
    ----------
    name : str
    X_train, X_test : ndarray of paths (object), or of shape (n_samples, n_features)
    class_train, class_test : ndarray of str
        Product class, of anomalies too.
    y : ndarray of int
        Of the test samples: +1 normal, -1 anomaly.
    masks : ndarray of object or None
        Path of each test image's mask, None where it has none; None for tables.
    is_images : bool
    defects : ndarray of str or None
        Defect type of each test image, "good" for normals; None for tables.
    """

    name: str
    X_train: np.ndarray
    class_train: np.ndarray
    X_test: np.ndarray
    class_test: np.ndarray
    y: np.ndarray
    masks: np.ndarray | None
    is_images: bool
    defects: np.ndarray | None = None

    def __post_init__(self):
        unknown = sorted(set(self.class_test) - set(self.class_train))
        if not len(self.X_train) or not len(self.X_test):
            raise ValueError(
                f"{self.name}: {len(self.X_train)} normal samples to fit on and "
                f"{len(self.X_test)} samples to test on; both are needed."
            )
        if unknown:
            raise ValueError(f"{self.name}: no normal training sample of the classes {unknown}.")

    @property
    def classes(self):
        """Distinct classes, sorted: an index into them is the detector's class code."""
        return np.unique(self.class_train)

    def codes(self, labels):
        """Index of each label in `classes`."""
        return np.searchsorted(self.classes, labels)

    def rows_of(self, label):
        """Return the rows of a class among the samples to fit on, and among those to test on."""
        return tuple(
            np.flatnonzero(labels == label) for labels in (self.class_train, self.class_test)
        )

    def taking(self, train, test):
        """Return the part with the rows that two masks choose."""
        return replace(
            self,
            X_train=self.X_train[train],
            class_train=self.class_train[train],
            X_test=self.X_test[test],
            class_test=self.class_test[test],
            y=self.y[test],
            masks=None if self.masks is None else self.masks[test],
            defects=None if self.defects is None else self.defects[test],
        )

    def limited(self, n, by_defect=False):
        """Return the part with at most `n` samples of each class and kind, the first ones.

        Kinds are normals and anomalies, or with `by_defect` normals and the types of defect.
        """
        kinds = self.defects if by_defect and self.defects is not None else self.y
        kinds = np.array([f"{y} {label}" for y, label in zip(kinds, self.class_test, strict=True)])
        return self.taking(first_of_each(self.class_train, n), first_of_each(kinds, n))


def load_parts(data, loader="auto", classes=None):
    """Read what `--data` names.

    Parameters
    ----------
    data : list of str
        One folder or .npz file; for the loader "union", several NAME=FOLDER, where NAME is
        another loader.
    loader : {"auto", "union"} or a key of `LOADERS`
        "auto": an .npz file is a feature table (arrays X, class_name, split and y, 1 = anomaly);
        a folder holds ``images/`` in the MVTec AD layout and ``features/*.npz``, or either.
    classes : list of str, default=None
        Classes to keep; None = all.

    Returns
    -------
    list of Part

    Raises
    ------
    ValueError, FileNotFoundError
        If the data cannot be read so; the message says what was expected.
    """
    if loader == "union":
        return _union(data, classes)
    if len(data) != 1 or "=" in data[0] and not Path(data[0]).exists():
        raise ValueError(
            f"{len(data)} x --data with --loader {loader}: give one folder or file, or --loader "
            f"union with NAME=FOLDER, NAME one of {', '.join(LOADERS)}."
        )
    path = Path(data[0])
    if not path.exists():
        raise FileNotFoundError(f"--data: {str(path)!r} does not exist.")
    if loader != "auto":
        return [image_part(loader, LOADERS[loader](path, classes=classes))]
    if path.suffix == ".npz":
        return keep_classes([load_table(path)], classes)
    tables = sorted((path / "features").glob("*.npz"))
    has_images = (path / "images").is_dir()
    if not has_images and not tables:
        raise ValueError(
            f"--data: {str(path)!r} holds neither images/ nor features/*.npz; name the layout "
            f"of another folder with --loader {{{','.join([*LOADERS, 'union'])}}}."
        )
    parts = [image_part("images", datasets.load_folder(path / "images"))] if has_images else []
    return keep_classes(parts + [load_table(table) for table in tables], classes)


def image_part(name, data):
    """Turn a loader's Bunch into a Part; known anomalies of the training split are left out."""
    train = (data.split == "train") & (data.y == 1)
    test = np.isin(data.split, TEST_SPLITS)
    return Part(
        name,
        data.images[train],
        data.class_label[train],
        data.images[test],
        data.class_label[test],
        data.y[test],
        data.mask[test],
        is_images=True,
        defects=data.defect[test],
    )


def load_table(path):
    """Read a feature table, an .npz file with X, class_name, split and y (1 = anomaly)."""
    with np.load(path, allow_pickle=False) as table:
        absent = [name for name in _TABLE_ARRAYS if name not in table]
        if absent:
            raise ValueError(f"{path} lacks the arrays {absent}; it has {sorted(table)}.")
        X, labels, split, y = (table[name] for name in _TABLE_ARRAYS)
    if X.ndim != 2 or {labels.shape, split.shape, y.shape} != {(len(X),)}:
        shapes = [array.shape for array in (X, labels, split, y)]
        raise ValueError(
            f"{path}: X must have shape (n, n_features), {', '.join(_TABLE_ARRAYS[1:])} (n,); got "
            f"{shapes}."
        )
    for name, values, known in (("split", split, ["train", "test"]), ("y", y, [0, 1])):
        other = np.setdiff1d(values, known)
        if len(other):
            raise ValueError(f"{path}: {name} must be one of {known}, got {other.tolist()[:5]}.")
    labels = labels.astype(str)
    train, test = (split == "train") & (y == 0), split == "test"
    return Part(
        Path(path).stem,
        X[train],
        labels[train],
        X[test],
        labels[test],
        np.where(y[test] == 1, -1, 1),
        None,
        is_images=False,
    )


def keep_classes(parts, classes):
    """Cut parts down to `classes` (None = all); a part that holds none of them goes."""
    if classes is None:
        return parts
    known = sorted({name for part in parts for name in part.classes.tolist()})
    missing = sorted(set(classes) - set(known))
    if missing:
        raise ValueError(f"--classes: {missing} are not in the data, which has {known}.")
    kept = []
    for part in parts:
        train, test = np.isin(part.class_train, classes), np.isin(part.class_test, classes)
        if train.any():
            kept.append(part.taking(train, test))
    return kept


def _union(data, classes):
    """Join data sets given as NAME=FOLDER; their classes become NAME/class."""
    bunches = []
    for item in data:
        name, equals, folder = item.partition("=")
        if not equals or name not in LOADERS:
            raise ValueError(
                f"--data {item!r} with --loader union: write NAME=FOLDER, NAME one of "
                f"{', '.join(LOADERS)}."
            )
        bunches.append((name, LOADERS[name](folder)))
    return keep_classes([image_part("union", datasets.load_union(bunches))], classes)


def first_of_each(labels, n):
    """Mask of the first `n` samples of each label."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[:n]] = True
    return mask
