"""How the public data sets lie on disk, and reading such folders into paths, labels and masks.

`Layout` says what differs between the data sets; everything else is read by the same functions.
Masks are found by name, never by position, and every file that is not read is told of.
"""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

ANOMALY = "-1"
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
_DOCUMENTS = {"license", "license-dataset", "readme", "attribution", "citation"}


class Sample(NamedTuple):
    """One image of a data set and what its folder says of it."""

    """One image of a data set and what its folder says of it."""

    image: Path
    class_label: str
    defect: str  # "good" for a normal image
    mask: Path | None
    split: str


class Layout(NamedTuple):
    """How the folders of a data set are named, and where it comes from."""

    """How the folders of a data set are named, and where it comes from."""

    name: str
    source: str
    tree: str
    classes: tuple[str, ...] | None  # None: any folder is a class
    normal: str = "good"
    splits: tuple[str, ...] = ("train", "test")
    mask_names: tuple[str, ...] = ("{}_mask",)  # of an image's stem
    nested: bool = False  # rgb/ and gt/ inside every defect folder
    known: frozenset[str] = frozenset({"ground_truth"})  # further folders of a class


MVTEC_AD = Layout(
    name="MVTec AD",
    source='Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised '
    'Anomaly Detection", CVPR 2019; https://www.mvtec.com/company/research/datasets/mvtec-ad',
    tree="""\
    ROOT/<class>/train/good/000.png
    ROOT/<class>/test/good/000.png
    ROOT/<class>/test/<defect>/000.png
    ROOT/<class>/ground_truth/<defect>/000_mask.png""",
    classes=(
        *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
        *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
    ),
)
BTAD = Layout(
    name="BTAD",
    source='Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and '
    'Localization", ISIE 2021 (beanTech); http://avires.dimi.uniud.it/papers/btad/btad.zip',
    tree="""\
    ROOT/<01|02|03>/train/ok/0000.bmp          (02: .png)
    ROOT/<01|02|03>/test/ok/0000.bmp
    ROOT/<01|02|03>/test/ko/0000.bmp
    ROOT/<01|02|03>/ground_truth/ko/0000.png   (03: .bmp)""",
    classes=("01", "02", "03"),
    normal="ok",
    mask_names=("{}",),
)
MVTEC_3D_AD = Layout(
    name="MVTec 3D-AD",
    source='Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and '
    'Localization", VISAPP 2022; https://www.mvtec.com/company/research/datasets/mvtec-3d-ad',
    tree="""\
    ROOT/<class>/train/good/rgb/000.png
    ROOT/<class>/validation/good/rgb/000.png
    ROOT/<class>/test/<good or defect>/rgb/000.png
    ROOT/<class>/test/<good or defect>/gt/000.png""",
    classes=(
        *("bagel", "cable_gland", "carrot", "cookie", "dowel"),
        *("foam", "peach", "potato", "rope", "tire"),
    ),
    splits=("train", "validation", "test"),
    mask_names=("{}",),
    nested=True,
    known=frozenset({"calibration"}),
)
VISA = Layout(
    name="VisA",
    source='Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection '
    'and Segmentation", ECCV 2022; https://github.com/amazon-science/spot-diff',
    tree="""\
    ROOT/split_csv/1cls.csv                    (columns object,split,label,image,mask)
    ROOT/<object>/Data/Images/Normal/0000.JPG
    ROOT/<object>/Data/Images/Anomaly/000.JPG
    ROOT/<object>/Data/Masks/Anomaly/000.png""",
    classes=(
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1"),
        *("macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    ),
)
FOLDER = Layout(
    name="folder",
    source="your own images",
    tree="""\
    ROOT/<class>/train/good/<image>
    ROOT/<class>/test/good/<image>
    ROOT/<class>/test/<defect>/<image>
    ROOT/<class>/ground_truth/<defect>/<image>_mask.png   (or <image>.png; optional)""",
    classes=None,
    mask_names=("{}_mask", "{}"),
)


def _warn(message):
    warnings.warn(message, UserWarning, stacklevel=2)


def misshapen(layout, problem):
    """Return the error for a folder of another layout: what is wrong, and what it should be."""
    return ValueError(f"{problem}\n{_origin(layout)}")


def _origin(layout):
    if layout.classes is None:
        return f"The folder must look like\n{layout.tree}"
    return (
        f"skhgad downloads nothing: {layout.name} comes from {layout.source}. Unpacked, the folder "
        f"must look like\n{layout.tree}"
    )


def check_root(layout, root):
    """Return `root` as a Path; raise an error that shows the layout if it is no folder."""
    """Return `root` as a Path; raise an error that shows the layout if it is no folder."""
    try:
        root = Path(root).expanduser()
    except TypeError:
        raise TypeError(f"root must be a path (str or Path), got {root!r}.") from None
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"root={str(root)!r} {found}.\n{_origin(layout)}")
    return root


def check_choices(split, splits, classes):
    """Return the splits to read and the wanted classes, a list of str or None for all."""
    if split not in (*splits, "all"):
        raise ValueError(f"split must be one of {[*splits, 'all']}, got {split!r}.")
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got {classes!r}: use [{classes!r}].")
    if classes is not None:
        classes = list(dict.fromkeys(str(name) for name in classes))
        if not classes:
            raise ValueError("classes is empty: name at least one class, or pass None for all.")
    return (splits if split == "all" else (split,)), classes


def _is_document(name):
    stem, ending = os.path.splitext(name.lower())
    return stem in _DOCUMENTS and ending not in _IMAGE_ENDINGS


def _entries(folder):
    """Return the folders and the files of `folder`, each sorted by name, without known junk."""
    entries = sorted(
        e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in _JUNK
    )
    files = [e for e in entries if not e.is_dir() and not _is_document(e.name)]
    return [e for e in entries if e.is_dir()], files


def warn_unread(folder, entries, why):
    """Warn that `entries` of `folder` are not read, and why."""
    """Warn that `entries` of `folder` are not read, and why."""
    if entries:
        names = ", ".join(repr(entry.name) for entry in entries[:5])
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        _warn(f"{folder} holds {names}{more}: not read, because {why}.")


def image_files(folder):
    """Return the images right in `folder`, sorted by name, and warn of whatever else it holds."""
    folders, files = _entries(folder)
    images = [f for f in files if f.suffix.lower() in _IMAGE_ENDINGS]
    others = [f for f in files if f.suffix.lower() not in _IMAGE_ENDINGS]
    warn_unread(folder, folders + others, "only image files belong there")
    if not images:
        _warn(f"{folder} holds no image.")
    return images


def _displayed_size(path):
    """Return (height, width) as displayed, from the file's header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow decodes a whole PNG to look for EXIF at its end; these formats keep it in front
            rotated = image.format in {"JPEG", "MPO", "TIFF"} and image.getexif().get(0x0112, 1) > 4
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if rotated else (height, width)


def verify_mask(image, mask):
    """Raise ValueError unless the two files have the same size."""
    sizes = _displayed_size(image), _displayed_size(mask)
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"mask {mask} has (height, width) {sizes[1]}, its image {image} has {sizes[0]}. Mend "
            "the mask, or pass verify=False to take it as it is."
        )


def _match_masks(images, folder, names, *, required, verify):
    """Return each image's mask in `folder`, found by the image's stem and the patterns `names`."""
    masks = {}
    for mask in image_files(folder):
        if mask.stem in masks:
            raise ValueError(f"{masks[mask.stem]} and {mask} are masks of the same name: keep one.")
        masks[mask.stem] = mask
    matched, owner = [], {}
    for image in images:
        hits = [masks[n] for n in (name.format(image.stem) for name in names) if n in masks]
        if len(hits) > 1:
            raise ValueError(f"image {image} has two masks, {hits[0]} and {hits[1]}: keep one.")
        if not hits and required:
            wanted = " or ".join(f"{name.format(image.stem)}.*" for name in names)
            raise ValueError(f"image {image} has no mask: {folder} holds no {wanted}.")
        mask = hits[0] if hits else None
        if mask is not None:
            if mask in owner:
                raise ValueError(f"images {owner[mask]} and {image} share the mask {mask}.")
            owner[mask] = image
            if verify:
                verify_mask(image, mask)
        matched.append(mask)
    lonely = [mask for mask in masks.values() if mask not in owner]
    if lonely:
        raise ValueError(f"mask {lonely[0]} ({len(lonely)} such) has no image of its name.")
    return matched


def _read_defect(layout, class_folder, split, folder, label, verify):
    """Return the samples of one folder <class>/<split>/<defect>."""
    normal = folder.name == layout.normal
    if not normal and layout.classes is not None and (split != "test" or folder.name == "good"):
        raise misshapen(layout, f"{folder} does not belong to the layout.")
    image_folder, mask_folder = folder, class_folder / "ground_truth" / folder.name
    if layout.nested:
        image_folder, mask_folder = folder / "rgb", folder / "gt"
        if not image_folder.is_dir():
            raise misshapen(layout, f"{image_folder} is missing.")
        folders, files = _entries(folder)
        other = [f for f in folders if f.name not in ("rgb", "gt", "xyz")] + files
        warn_unread(folder, other, "only rgb, gt and xyz belong there")
    images = image_files(image_folder)
    masks = [None] * len(images)
    # only test images have masks: the stems of train/<defect> would meet those of test/<defect>
    if split == "test":
        if mask_folder.is_dir():
            masks = _match_masks(
                images, mask_folder, layout.mask_names, required=not normal, verify=verify
            )
        elif not normal and (layout.classes is not None or mask_folder.parent.is_dir()):
            _warn(f"{folder} has no masks: {mask_folder} is missing, mask is None.")
    defect = "good" if normal else folder.name
    return [
        Sample(image, label, defect, mask, split) for image, mask in zip(images, masks, strict=True)
    ]


def _read_split(layout, class_folder, split, label, verify):
    split_folder = class_folder / split
    if not split_folder.is_dir():
        if layout.classes is None:
            return []
        raise misshapen(layout, f"{split_folder} is missing.")
    folders, files = _entries(split_folder)
    warn_unread(split_folder, files, "images lie in a folder per defect")
    if split != "test" and layout.normal not in {folder.name for folder in folders}:
        raise misshapen(layout, f"{split_folder / layout.normal} is missing.")
    samples = []
    for folder in folders:
        samples += _read_defect(layout, class_folder, split, folder, label, verify)
    mask_root = class_folder / "ground_truth"
    if split == "test" and not layout.nested and mask_root.is_dir():
        mask_folders, mask_files = _entries(mask_root)
        warn_unread(mask_root, mask_files, "masks lie in a folder per defect")
        lonely = sorted({f.name for f in mask_folders} - {f.name for f in folders})
        if lonely:
            raise ValueError(
                f"the masks in {mask_root / lonely[0]} have no images: "
                f"{split_folder / lonely[0]} is missing."
            )
    return samples


def class_folders(layout, root, wanted):
    """Return {class name: folder} of the classes to read."""
    folders, files = _entries(root)
    found = {folder.name: folder for folder in folders}
    if layout.classes is None:
        is_class = {n for n, f in found.items() if (f / "train").is_dir() or (f / "test").is_dir()}
        known = sorted(is_class)
    else:
        known = [name for name in layout.classes if name in found]
    for name in wanted or ():
        if name not in known:
            raise misshapen(layout, f"classes names {name!r}; {root} holds {known}.")
    if not known:
        names = layout.classes or ()
        meant = [f for f in folders for name in names if (f / name).is_dir()]
        meant += [root.parent] if root.resolve().name in names else []
        hint = f" Did you mean root={str(meant[0])!r}?" if meant else ""
        raise misshapen(layout, f"root={str(root)!r} holds no class of {layout.name}.{hint}")
    if wanted is None:
        other = [f for f in folders + files if f.name not in {*known, "split_csv"}]
        warn_unread(root, other, f"it is no class folder of {layout.name}")
        absent = sorted(set(layout.classes or ()) - set(known))
        if absent:
            _warn(
                f"{root} lacks {len(absent)} of the {len(layout.classes)} classes of "
                f"{layout.name}: {absent}. Name those you want in classes to silence this."
            )
    return {name: found[name] for name in sorted(wanted or known)}


def make_bunch(samples, root, name, source):
    """Return the Bunch that `load_mvtec_ad` documents."""
    if not samples:
        raise ValueError(f"root={str(root)!r} holds no image of the classes and split asked for.")
    label = np.array([s.class_label for s in samples])
    if ANOMALY in label:
        raise ValueError(f"a class cannot be named {ANOMALY!r}: it marks known anomalies.")
    defect = np.array([s.defect for s in samples])
    y = np.where(defect == "good", 1, -1)
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


def load_tree(layout, root, classes, split, verify):
    """Read a data set of folders; the public loaders document parameters, result and errors."""
    root = check_root(layout, root)
    splits, wanted = check_choices(split, layout.splits, classes)
    # a root that is itself one class: its train/ or test/ holds defects, not splits
    inside = [root / s for s in layout.splits if (root / s).is_dir()]
    inner = {name for folder in inside for name in ("train", "test") if (folder / name).is_dir()}
    if layout.classes is None and inside and not inner:
        name = root.resolve().name
        if wanted not in (None, [name]):
            raise ValueError(f"classes={wanted}, but root={str(root)!r} is the one class {name!r}.")
        folders = {name: root}
    else:
        folders = class_folders(layout, root, wanted)
    samples = []
    for label, folder in folders.items():
        subfolders, files = _entries(folder)
        other = [f for f in subfolders if f.name not in {*layout.splits, *layout.known}] + files
        warn_unread(folder, other, f"{layout.name} has no such entry")
        found = [s for name in splits for s in _read_split(layout, folder, name, label, verify)]
        if not found:
            _warn(f"{folder} holds no image for split={split!r}: class {label!r} is left out.")
        samples += found
    return make_bunch(samples, root, layout.name, layout.source)
