"""What differs between the data sets on disk: names of folders, classes and masks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BTAD",
    "FOLDER",
    "KOLEKTORSDD2",
    "MPDD",
    "MVTEC_3D_AD",
    "MVTEC_AD",
    "MVTEC_AD_2",
    "MVTEC_LOCO_AD",
    "REAL_IAD",
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
    mask_folders: bool = False  # an image's masks lie in a folder named as the image
    other_entries: frozenset[str] = frozenset({"ground_truth"})  # of a class, beside the splits


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
    other_entries=frozenset({"calibration"}),
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
MVTEC_AD_2 = Layout(
    name="MVTec AD 2",
    source='Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised '
    'Anomaly Detection", arXiv:2503.21622, 2025; '
    "https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
    tree="""\
    ROOT/<class>/train/good/000_regular.png
    ROOT/<class>/validation/good/000_regular.png
    ROOT/<class>/test_public/good/000_regular.png
    ROOT/<class>/test_public/bad/000_regular.png
    ROOT/<class>/test_public/ground_truth/bad/000_regular_mask.png
    ROOT/<class>/test_private/000_regular.png        (no labels)
    ROOT/<class>/test_private_mixed/000_mixed.png    (no labels)""",
    classes=(
        *("can", "fabric", "fruit_jelly", "rice"),
        *("sheet_metal", "vial", "wallplugs", "walnuts"),
    ),
    splits=("train", "validation", "test_public", "test_private", "test_private_mixed"),
    other_entries=frozenset(),
)
MVTEC_LOCO_AD = Layout(
    name="MVTec LOCO AD",
    source='Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised '
    'Anomaly Detection and Localization", IJCV 2022; '
    "https://www.mvtec.com/company/research/datasets/mvtec-loco",
    tree="""\
    ROOT/<class>/defects_config.json
    ROOT/<class>/train/good/000.png
    ROOT/<class>/validation/good/000.png
    ROOT/<class>/test/<good, logical_anomalies or structural_anomalies>/000.png
    ROOT/<class>/ground_truth/<kind of anomaly>/000/000.png   (a file a defect: 001.png, ...)""",
    classes=("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"),
    splits=("train", "validation", "test"),
    mask_folders=True,
    other_entries=frozenset({"ground_truth", "defects_config.json"}),
)
REAL_IAD = Layout(
    name="Real-IAD",
    source='Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile '
    'Industrial Anomaly Detection", CVPR 2024; https://realiad4ad.github.io/Real-IAD',
    tree="""\
    ROOT/realiad_jsons/<class>.json            (or ROOT/realiad_jsons/realiad_jsons/<class>.json)
    ROOT/realiad_1024/<class>/OK/S0001/<image>.jpg
    ROOT/realiad_1024/<class>/NG/<defect>/S0001/<image>.jpg
    ROOT/realiad_1024/<class>/NG/<defect>/S0001/<mask>.png   (paths as the JSON file says)""",
    classes=(
        *("audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood"),
        *("mint", "mounts", "pcb", "phone_battery", "plastic_nut", "plastic_plug"),
        *("porcelain_doll", "regulator", "rolled_strip_base", "sim_card_set", "switch", "tape"),
        *("terminalblock", "toothbrush", "toy", "toy_brick", "transistor1", "u_block"),
        *("usb", "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper"),
    ),
)
KOLEKTORSDD2 = Layout(
    name="KolektorSDD2",
    source='Bozic et al., "Mixed supervision for surface-defect detection: from weakly to fully '
    'supervised learning", Computers in Industry 2021; https://www.vicos.si/resources/kolektorsdd2',
    tree="""\
    ROOT/train/10000.png
    ROOT/train/10000_GT.png    (the mask of 10000.png, zero where the image is normal)
    ROOT/test/20000.png
    ROOT/test/20000_GT.png""",
    classes=("KolektorSDD2",),
    mask_names=("{}_GT",),
)
MPDD = MVTEC_AD._replace(
    name="MPDD",
    source='Jezek et al., "Deep learning-based defect detection of metal parts: evaluating current '
    'methods in complex conditions", ICUMT 2021; https://github.com/stepanje/MPDD',
    classes=(
        *("bracket_black", "bracket_brown", "bracket_white"),
        *("connector", "metal_plate", "tubes"),
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
