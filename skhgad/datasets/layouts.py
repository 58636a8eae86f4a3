"""What differs between the data sets on disk: names of folders, classes and masks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BTAD",
    "FOLDER",
    "MVTEC_3D_AD",
    "MVTEC_AD",
    "VISA",
    "Layout",
    "expected_layout",
    "layout_error",
]


class Layout(NamedTuple):
    """How the folders of a data set are named, and where it comes from."""

    name: str
    source: str
    tree: str
    classes: tuple[str, ...] | None  # None: any folder is a class
    normal: str = "good"  # the folder of normal images
    splits: tuple[str, ...] = ("train", "test")
    mask_names: tuple[str, ...] = ("{}_mask",)  # a mask's stem, given its image's stem
    nested: bool = False  # every defect folder holds rgb/ and gt/
    other_folders: frozenset[str] = frozenset({"ground_truth"})  # of a class, beside the splits


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
    other_folders=frozenset({"calibration"}),
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
    ROOT/<class>/ground_truth/<defect>/<image>_mask.png   (or <image>.png; optional)
or, where all images are normal,
    ROOT/<image>                                          (one class)
    ROOT/<class>/<image>""",
    classes=None,
    mask_names=("{}_mask", "{}"),
)


def layout_error(layout: Layout, problem: str) -> ValueError:
    """Return the error for a folder of another layout."""
    return ValueError(f"{problem}\n{expected_layout(layout)}")


def expected_layout(layout: Layout) -> str:
    """Return the end of an error message: a data set's source and layout."""
    if layout.classes is None:
        return f"The folder must look like\n{layout.tree}"
    return (
        f"skhgad downloads nothing: {layout.name} comes from {layout.source}. Unpacked, the folder "
        f"must look like\n{layout.tree}"
    )
