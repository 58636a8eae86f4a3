"""Loaders on small trees with the published naming, and on trees that are not what they should be.

Images have a size of their own, so that a mask matched by position or from another folder shows.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import Bunch
from trees import write, write_text

from skhgad.datasets import (
    load_btad,
    load_folder,
    load_mask,
    load_mvtec_3d_ad,
    load_mvtec_ad,
    load_union,
    load_visa,
)

FIELDS = ("images", "class_label", "y", "target", "defect", "mask", "split")


def rows(data):
    """Return (image, class, y, target, defect, mask, split) per sample, paths below the root."""
    root = Path(data.root)
    for field in FIELDS:
        assert len(data[field]) == len(data.images), field

    def below(path):
        return None if path is None else Path(path).relative_to(root).as_posix()

    columns = [data[f].tolist() for f in FIELDS]
    return [(below(r[0]), *r[1:5], below(r[5]), r[6]) for r in zip(*columns, strict=True)]


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def mvtec_tree(root):
    write(
        root,
        [
            "bottle/train/good/000.png",
            "bottle/train/good/001.png",
            "bottle/test/good/000.png",
            "bottle/test/broken_large/000.png",
            # 001 and 002 differ in size: a mask by sort position would not fit
            ("bottle/test/contamination/001.png", (5, 6)),
            ("bottle/test/contamination/002.png", (6, 5)),
            "bottle/ground_truth/broken_large/000_mask.png",
            ("bottle/ground_truth/contamination/001_mask.png", (5, 6)),
            ("bottle/ground_truth/contamination/002_mask.png", (6, 5)),
            "zipper/train/good/000.png",
            "zipper/test/good/000.png",
            "zipper/test/rough/000.png",
            "zipper/ground_truth/rough/000_mask.png",
        ],
    )
    for name in ["license.txt", "readme.txt", "bottle/license.txt", "bottle/readme.txt"]:
        write_text(root, name, "text")
    return root


def test_mvtec_ad(tmp_path, strict):
    data = load_mvtec_ad(mvtec_tree(tmp_path), classes=["zipper", "bottle"])
    part = "bottle/ground_truth"
    assert rows(data) == [
        ("bottle/train/good/000.png", "bottle", 1, "bottle", "good", None, "train"),
        ("bottle/train/good/001.png", "bottle", 1, "bottle", "good", None, "train"),
        (
            *("bottle/test/broken_large/000.png", "bottle", -1, "-1", "broken_large"),
            *(f"{part}/broken_large/000_mask.png", "test"),
        ),
        (
            *("bottle/test/contamination/001.png", "bottle", -1, "-1", "contamination"),
            *(f"{part}/contamination/001_mask.png", "test"),
        ),
        (
            *("bottle/test/contamination/002.png", "bottle", -1, "-1", "contamination"),
            *(f"{part}/contamination/002_mask.png", "test"),
        ),
        ("bottle/test/good/000.png", "bottle", 1, "bottle", "good", None, "test"),
        ("zipper/train/good/000.png", "zipper", 1, "zipper", "good", None, "train"),
        ("zipper/test/good/000.png", "zipper", 1, "zipper", "good", None, "test"),
        (
            *("zipper/test/rough/000.png", "zipper", -1, "-1", "rough"),
            *("zipper/ground_truth/rough/000_mask.png", "test"),
        ),
    ]
    assert isinstance(data, Bunch)
    assert data.classes.tolist() == ["bottle", "zipper"]
    assert data.images.dtype == object and data.mask.dtype == object
    assert data.y.dtype.kind == "i" and data.class_label.dtype.kind == "U"
    assert "MVTec AD: 9 images of 2 classes" in data.DESCR and "CVPR 2019" in data.DESCR


def test_split_and_classes_choose(tmp_path, strict):
    mvtec_tree(tmp_path)
    data = load_mvtec_ad(tmp_path, classes=["bottle"], split="train")
    assert [r[0] for r in rows(data)] == ["bottle/train/good/000.png", "bottle/train/good/001.png"]
    data = load_mvtec_ad(tmp_path, classes=["zipper"], split="test")
    assert set(data.split) == {"test"} and set(data.class_label) == {"zipper"}


def test_absent_classes_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"lacks 13 of the 15 classes of MVTec AD: \['cable'"):
        data = load_mvtec_ad(mvtec_tree(tmp_path))
    assert data.classes.tolist() == ["bottle", "zipper"]


def test_btad_endings_differ_between_image_and_mask(tmp_path, strict):
    write(
        tmp_path,
        [
            "01/train/ok/0000.bmp",
            "01/test/ok/0000.bmp",
            "01/test/ko/0000.bmp",
            ("01/test/ko/0017.bmp", (9, 9)),
            "01/ground_truth/ko/0000.png",
            ("01/ground_truth/ko/0017.png", (9, 9)),
            "02/train/ok/0000.png",
            "02/test/ok/0000.png",
            "02/test/ko/0000.png",
            "02/ground_truth/ko/0000.png",
            "03/train/ok/0000.bmp",
            "03/test/ok/0000.bmp",
            "03/test/ko/0000.bmp",
            "03/ground_truth/ko/0000.bmp",
        ],
    )
    data = load_btad(tmp_path)
    assert data.classes.tolist() == ["01", "02", "03"]
    anomalies = [r for r in rows(data) if r[2] == -1]
    assert [(r[0], r[5]) for r in anomalies] == [
        ("01/test/ko/0000.bmp", "01/ground_truth/ko/0000.png"),
        ("01/test/ko/0017.bmp", "01/ground_truth/ko/0017.png"),
        ("02/test/ko/0000.png", "02/ground_truth/ko/0000.png"),
        ("03/test/ko/0000.bmp", "03/ground_truth/ko/0000.bmp"),
    ]
    assert {r[4] for r in anomalies} == {"ko"} and {r[3] for r in anomalies} == {"-1"}
    normals = [r for r in rows(data) if r[2] == 1]
    assert len(normals) == 6
    # ok/0000 and ko/0000 share a stem: the mask is the anomaly's alone
    assert all(r[4] == "good" and r[5] is None and r[1] == r[3] for r in normals)


def mvtec_3d_tree(root):
    for name in ["train/good", "validation/good", "test/good", "test/hole"]:
        write(root, [f"bagel/{name}/rgb/000.png", f"bagel/{name}/rgb/001.png"])
        write_text(root, f"bagel/{name}/xyz/000.tiff", "never opened")
        if name.startswith("test"):
            write(root, [f"bagel/{name}/gt/000.png", f"bagel/{name}/gt/001.png"])
    write_text(root, "bagel/calibration/camera_parameters.json", "{}")
    return root


def test_mvtec_3d_ad_reads_rgb_and_gt(tmp_path, strict):
    data = load_mvtec_3d_ad(mvtec_3d_tree(tmp_path), classes=["bagel"])
    assert data.split.tolist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 4
    for image, _, y, _, defect, mask, split in rows(data):
        assert image.split("/")[1:] == [split, defect, "rgb", image[-7:]]
        assert mask == (image.replace("/rgb/", "/gt/") if split == "test" else None)
        assert y == (-1 if defect == "hole" else 1)


def test_mvtec_3d_ad_train_is_without_validation(tmp_path, strict):
    mvtec_3d_tree(tmp_path)
    for split in ("train", "validation"):
        data = load_mvtec_3d_ad(tmp_path, classes=["bagel"], split=split)
        assert data.split.tolist() == [split] * 2
    with pytest.raises(ValueError, match="split must be one of .*'test', 'all'.*got 'validation'"):
        load_mvtec_ad(tmp_path, split="validation")


VISA_CSV = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,test,normal,candle/Data/Images/Normal/0002.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/001.JPG,candle/Data/Masks/Anomaly/001.png
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png
"""


def visa_tree(root, table=VISA_CSV):
    write_text(root, "split_csv/1cls.csv", table)
    write(root, re.findall(r"\S+?/Data/\w+/\w+/\d+\.(?:JPG|png)", VISA_CSV.replace(",", " ")))
    write_text(
        root,
        "candle/image_anno.csv",
        "image,label,mask\r\ncandle/Data/Images/Normal/0002.JPG,normal,\r\n"
        'candle/Data/Images/Anomaly/001.JPG,"weird candle wick,other",x.png\r\n',
    )
    write_text(root, "LICENSE-DATASET", "CC BY 4.0")
    return root


def test_visa_follows_its_csv(tmp_path, strict):
    data = load_visa(visa_tree(tmp_path), classes=["candle", "pcb1"])
    images, masks = "candle/Data/Images", "candle/Data/Masks/Anomaly"
    assert rows(data)[:4] == [
        (f"{images}/Normal/0836.JPG", "candle", 1, "candle", "good", None, "train"),
        (
            *(f"{images}/Anomaly/000.JPG", "candle", -1, "-1", "anomaly"),
            *(f"{masks}/000.png", "test"),
        ),
        (f"{images}/Normal/0002.JPG", "candle", 1, "candle", "good", None, "test"),
        (
            *(f"{images}/Anomaly/001.JPG", "candle", -1, "-1", "weird candle wick, other"),
            *(f"{masks}/001.png", "test"),
        ),
    ]
    assert data.class_label.tolist() == ["candle"] * 4 + ["pcb1"] * 2
    train = load_visa(tmp_path, classes=["candle"], split="train")
    assert [r[0] for r in rows(train)] == [f"{images}/Normal/0836.JPG"]


def test_visa_takes_another_split_file(tmp_path, strict):
    visa_tree(tmp_path)
    table = VISA_CSV.replace("candle,test,anomaly", "candle,train,anomaly")
    write_text(tmp_path, "split_csv/2cls_fewshot.csv", table)
    for split_csv in ("2cls_fewshot", tmp_path / "split_csv" / "2cls_fewshot.csv"):
        data = load_visa(tmp_path, classes=["candle"], split="train", split_csv=split_csv)
        got = {row[0][-16:]: (row[2], row[3], row[5] and row[5][-7:]) for row in rows(data)}
        assert got == {
            "/Normal/0836.JPG": (1, "candle", None),
            "/Anomaly/000.JPG": (-1, "-1", "000.png"),
            "/Anomaly/001.JPG": (-1, "-1", "001.png"),
        }


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("object,split", "product,split", r"lacks the columns \['object'\]"),
        ("candle,test,normal", "candle,val,normal", "line 3: split must be train or test"),
        (
            "candle,test,normal",
            "candle,test,bad",
            "line 3: .* label normal or anomaly, got .*'bad'",
        ),
        ("Normal/0002", "Normal/0009", r"line 3: image .*0009\.JPG is missing"),
        ("Masks/Anomaly/001", "Masks/Anomaly/009", r"line 4: .*009\.png is missing"),
        ("Masks/Anomaly/001", "Masks/Anomaly/000", "not named as its image .*001.JPG"),
        (",candle/Data/Masks/Anomaly/001.png", ",", "line 4: label 'anomaly' with mask ''"),
        ("Normal/0836", "Normal/0002", "line 3: .*0002.JPG is already on line 2"),
        ("pcb1,train", "pcb9,train", "line 6: VisA has no object 'pcb9'"),
    ],
)
def test_visa_rows_that_are_wrong_are_named(tmp_path, old, new, message):
    visa_tree(tmp_path, VISA_CSV.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_visa(tmp_path, classes=["candle", "pcb1"])


def test_visa_tells_of_images_and_masks_outside_its_csv(tmp_path):
    visa_tree(tmp_path)
    write(tmp_path, ["candle/Data/Images/Normal/0999.JPG"])
    with pytest.warns(UserWarning, match=r"'0999.JPG': not read, because .*1cls.csv does not name"):
        load_visa(tmp_path, classes=["candle"])
    write(tmp_path, ["candle/Data/Masks/Anomaly/777.png"])
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"777.png \(1 such\) has no image"),
    ):
        load_visa(tmp_path, classes=["candle"])


def test_visa_without_its_csv_says_where_it_comes_from(tmp_path):
    visa_tree(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(ValueError, match="(?s)1cls.csv is missing.*spot-diff.*object,split,label"):
        load_visa(tmp_path, classes=["candle"])


@pytest.mark.parametrize(
    "load, source, part",
    [
        (load_mvtec_ad, "mvtec.com", "ground_truth/<defect>/000_mask.png"),
        (load_btad, "VT-ADL", "ground_truth/ko/0000.png"),
        (load_mvtec_3d_ad, "VISAPP 2022", "gt/000.png"),
        (load_visa, "amazon-science/spot-diff", "split_csv/1cls.csv"),
        (load_folder, "must look like", "<class>/train/good"),
    ],
)
def test_missing_or_empty_root_says_where_the_data_come_from(tmp_path, load, source, part):
    for root, error in ((tmp_path / "nowhere", FileNotFoundError), (tmp_path, ValueError)):
        with pytest.raises(error) as told:
            load(root)
        assert source in str(told.value) and part in str(told.value)
        assert str(root) in str(told.value)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load(tmp_path / "file")
    with pytest.raises(TypeError, match="root must be a path"):
        load(3)


def test_root_one_level_off_is_recognised(tmp_path):
    mvtec_tree(tmp_path / "mvtec_anomaly_detection")
    with pytest.raises(ValueError, match="Did you mean root='.*mvtec_anomaly_detection'"):
        load_mvtec_ad(tmp_path)
    with pytest.raises(ValueError, match="Did you mean root='.*mvtec_anomaly_detection'"):
        load_mvtec_ad(tmp_path / "mvtec_anomaly_detection" / "bottle")


@pytest.mark.parametrize(
    "classes, error, message",
    [
        ("bottle", TypeError, r"use \['bottle'\]"),
        (["bottle", "vial"], ValueError, r"classes names 'vial'; .* holds \['bottle', 'zipper'\]"),
        (["cable"], ValueError, "classes names 'cable'"),
        ([], ValueError, "classes is empty"),
    ],
)
def test_bad_classes_are_named(tmp_path, classes, error, message):
    with pytest.raises(error, match=message):
        load_mvtec_ad(mvtec_tree(tmp_path), classes=classes)


MASKS = "bottle/ground_truth/contamination"


def test_image_without_mask_is_named(tmp_path):
    (mvtec_tree(tmp_path) / MASKS / "001_mask.png").unlink()
    with pytest.raises(ValueError, match=r"contamination/001.png has no mask: .*no 001_mask\.\*"):
        load_mvtec_ad(tmp_path, classes=["bottle"])
    assert len(load_mvtec_ad(tmp_path, classes=["bottle"], split="train").images) == 2


def test_mask_without_image_is_named(tmp_path):
    mvtec_tree(tmp_path)
    (tmp_path / "bottle/test/contamination/001.png").unlink()
    with pytest.raises(ValueError, match=r"contamination/001_mask.png \(1 such\) has no image"):
        load_mvtec_ad(tmp_path, classes=["bottle"])


def test_mask_folder_without_images_is_named(tmp_path):
    write(mvtec_tree(tmp_path), ["bottle/ground_truth/crack/000_mask.png"])
    with pytest.raises(ValueError, match="masks in .*ground_truth/crack have no images"):
        load_mvtec_ad(tmp_path, classes=["bottle"])


def test_mask_of_another_size_is_named_unless_verify_is_off(tmp_path, strict):
    write(mvtec_tree(tmp_path), [(f"{MASKS}/001_mask.png", (6, 5))])
    with pytest.raises(
        ValueError, match=r"001_mask.png has \(height, width\) \(5, 6\), .* \(6, 5\)"
    ):
        load_mvtec_ad(tmp_path, classes=["bottle"])
    data = load_mvtec_ad(tmp_path, classes=["bottle"], verify=False)
    assert len(data.images) == 6


def test_unreadable_mask_is_named(tmp_path):
    write_text(mvtec_tree(tmp_path), f"{MASKS}/001_mask.png", "no image")
    with pytest.raises(ValueError, match="001_mask.png cannot be read as an image"):
        load_mvtec_ad(tmp_path, classes=["bottle"])


def test_exif_rotation_counts_for_the_size_of_an_image(tmp_path, strict):
    write(tmp_path, ["lid/train/good/a.png", ("lid/ground_truth/dent/b_mask.png", (6, 8))])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees: 6 wide, 8 high, as the mask
    (tmp_path / "lid/test/dent").mkdir(parents=True)
    Image.new("L", (8, 6)).save(tmp_path / "lid/test/dent/b.jpg", exif=exif)
    assert load_folder(tmp_path).mask[1].endswith("b_mask.png")


def test_defect_without_mask_folder_is_told(tmp_path):
    write(mvtec_tree(tmp_path), ["bottle/test/dirty/000.png"])
    with pytest.warns(
        UserWarning, match="test/dirty has no masks: .*ground_truth/dirty is missing"
    ):
        data = load_mvtec_ad(tmp_path, classes=["bottle"])
    assert data.mask[data.defect == "dirty"].tolist() == [None]


@pytest.mark.parametrize("gone", ["bottle/train", "bottle/test", "bottle/train/good"])
def test_published_layout_must_be_whole(tmp_path, gone):
    mvtec_tree(tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"(?s){gone}.* is missing.*CVPR 2019"):
        load_mvtec_ad(tmp_path, classes=["bottle"])


def test_published_train_holds_normals_only(tmp_path):
    write(mvtec_tree(tmp_path), ["bottle/train/crack/000.png"])
    with pytest.raises(ValueError, match="train/crack does not belong"):
        load_mvtec_ad(tmp_path, classes=["bottle"])


@pytest.mark.filterwarnings("ignore:.*lacks 13 of the 15")
def test_known_junk_is_skipped_and_other_files_are_told(tmp_path):
    mvtec_tree(tmp_path)
    for name in ("Thumbs.db", ".DS_Store", "._000.png", "desktop.ini", "readme.txt"):
        write_text(tmp_path, f"bottle/train/good/{name}", "junk")
    write_text(tmp_path, "bottle/.ipynb_checkpoints/x.png", "junk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_mvtec_ad(tmp_path, classes=["bottle"]).images) == 6
    for place in ("", "bottle", "bottle/train", "bottle/train/good", MASKS):
        extra = tmp_path / place / "notes.dat"
        extra.write_text("x")
        with pytest.warns(UserWarning, match=f"{tmp_path / place} holds .*'notes.dat'.*: not read"):
            data = load_mvtec_ad(tmp_path, classes=["bottle"] if place else None)
        assert sum(data.class_label == "bottle") == 6
        extra.unlink()


# --- own folders


def test_folder_with_any_endings_and_both_mask_names(tmp_path, strict):
    write(
        tmp_path,
        [
            "cap/train/good/a.JPG",
            "cap/train/good/b.webp",
            "cap/train/scratch/a.png",  # a known anomaly: its stem is also in test
            "cap/test/good/a.tif",
            ("cap/test/scratch/a.jpeg", (5, 5)),
            ("cap/test/scratch/b.bmp", (4, 4)),
            ("cap/ground_truth/scratch/a_mask.png", (5, 5)),
            ("cap/ground_truth/scratch/b.tiff", (4, 4)),
            "lid/train/good/a.png",
            "nut/test/good/a.png",
            "nut/test/dent/a.png",  # no ground_truth at all
        ],
    )
    data = load_folder(tmp_path)
    got = {r[0]: (r[2], r[3], r[5]) for r in rows(data)}
    assert got == {
        "cap/train/good/a.JPG": (1, "cap", None),
        "cap/train/good/b.webp": (1, "cap", None),
        "cap/train/scratch/a.png": (-1, "-1", None),
        "cap/test/good/a.tif": (1, "cap", None),
        "cap/test/scratch/a.jpeg": (-1, "-1", "cap/ground_truth/scratch/a_mask.png"),
        "cap/test/scratch/b.bmp": (-1, "-1", "cap/ground_truth/scratch/b.tiff"),
        "lid/train/good/a.png": (1, "lid", None),
        "nut/test/good/a.png": (1, "nut", None),
        "nut/test/dent/a.png": (-1, "-1", None),
    }
    assert data.classes.tolist() == ["cap", "lid", "nut"]


@pytest.mark.parametrize("parts", [("train/good", "test/dent"), ("train/good",), ("test/dent",)])
def test_folder_that_is_one_class(tmp_path, parts, strict):
    write(tmp_path / "lid", [f"{part}/a.png" for part in parts])
    data = load_folder(tmp_path / "lid")
    assert data.class_label.tolist() == ["lid"] * len(parts)
    assert data.defect.tolist() == [part.split("/")[1] for part in parts]
    with pytest.raises(ValueError, match="is the one class 'lid'"):
        load_folder(tmp_path / "lid", classes=["cap"])


@pytest.mark.parametrize("folder", ["lid/good", "lid/train/good"])
def test_a_folder_called_good_has_the_name_of_its_product(tmp_path, folder):
    write(tmp_path, [f"{folder}/a.png"])
    data = load_folder(tmp_path / folder, split="train")
    assert data.classes.tolist() == ["lid"]


def test_folder_class_without_the_split_is_told(tmp_path):
    write(tmp_path, ["cap/train/good/a.png", "lid/test/good/a.png"])
    with pytest.warns(UserWarning, match="split='train': class 'lid' is left out"):
        assert load_folder(tmp_path, split="train").classes.tolist() == ["cap"]
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="holds no image of the classes"),
    ):
        load_folder(tmp_path, classes=["lid"], split="train")


@pytest.mark.parametrize(
    "names, message",
    [
        (["test/dent/a.png", "test/dent/a.jpg", "ground_truth/dent/a.png"], "share the mask"),
        (
            ["test/dent/a.png", "ground_truth/dent/a.png", "ground_truth/dent/a_mask.png"],
            "has two masks",
        ),
        (
            ["test/dent/a.png", "ground_truth/dent/a.png", "ground_truth/dent/a.bmp"],
            "masks of the same name",
        ),
        (["train/ok/a.png"], "train/good is missing"),
    ],
)
def test_folder_that_is_ambiguous_or_misnamed(tmp_path, names, message):
    write(tmp_path, [f"lid/{name}" for name in names])
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)


def test_empty_folder_of_images_is_told(tmp_path):
    write(tmp_path, ["lid/train/good/a.png"])
    (tmp_path / "lid/test/good").mkdir(parents=True)
    with pytest.warns(UserWarning, match="test/good holds no image"):
        assert len(load_folder(tmp_path).images) == 1


def test_a_plain_folder_of_images_is_one_class(tmp_path, strict):
    write(tmp_path / "lid", ["b.png", "a.JPG"])
    for split in ("all", "train"):
        data = load_folder(tmp_path / "lid", split=split)
        assert [Path(path).name for path in data.images] == ["a.JPG", "b.png"]
        assert data.target.tolist() == ["lid", "lid"] and data.split.tolist() == ["train"] * 2
        assert data.y.tolist() == [1, 1] and data.mask.tolist() == [None, None]
    with pytest.raises(ValueError, match="has neither train/ nor test/.*split 'test'"):
        load_folder(tmp_path / "lid", split="test")
    with pytest.raises(ValueError, match=r"classes names 'cap'; .* holds \['lid'\]"):
        load_folder(tmp_path / "lid", classes=["cap"])
    write(tmp_path, ["nut/train/good/a.png"])
    assert load_folder(tmp_path / "nut/train/good").target.tolist() == ["nut"]


def test_a_plain_folder_of_folders_holds_a_class_each(tmp_path, strict):
    write(tmp_path, ["lid/a.png", "cap/a.png", "cap/b.png"])
    assert load_folder(tmp_path).target.tolist() == ["cap", "cap", "lid"]
    assert load_folder(tmp_path, classes=["lid"]).target.tolist() == ["lid"]
    write_text(tmp_path, "notes.dat", "x")
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="holds 'empty', 'notes.dat': not read"):
        assert len(load_folder(tmp_path).images) == 3


def test_a_folder_bad_holds_known_defects(tmp_path, strict):
    write(tmp_path, ["flat/a.png", "flat/bad/a.png", "two/good/a.png", "two/bad/b.png"])
    for name in ("flat", "two"):
        data = load_folder(tmp_path / name)
        assert data.target.tolist() == [name, "-1"] and data.y.tolist() == [1, -1]
        assert data.class_label.tolist() == [name, name] and data.defect[1] == "bad"
    assert load_folder(tmp_path).target.tolist() == ["flat", "-1", "two", "-1"]
    assert load_folder(tmp_path, classes=["two"]).target.tolist() == ["two", "-1"]
    write(tmp_path, ["bad/a.png"])
    with pytest.raises(ValueError, match=r"not clear of which product \(there are \['flat', 'two'"):
        load_folder(tmp_path)
    write(tmp_path, ["flat/good/a.png"])
    with pytest.raises(ValueError, match=r"images and folders of images \(\['good'\]\)"):
        load_folder(tmp_path / "flat")


def test_plain_folders_that_are_not_clear_are_refused(tmp_path):
    write(tmp_path, ["lid/a.png", "a.png"])
    with pytest.raises(ValueError, match=r"images and folders of images \(\['lid'\]\)"):
        load_folder(tmp_path)
    write(tmp_path, ["bottle/parts/good/a.png", "bottle/parts/crack/a.png"])
    with pytest.raises(ValueError, match="holds a folder 'good', as train/ and test/ do"):
        load_folder(tmp_path / "bottle/parts")


def test_class_must_not_be_named_as_the_anomaly_marker(tmp_path):
    write(tmp_path, ["-1/train/good/a.png"])
    with pytest.raises(ValueError, match="cannot be named '-1'"):
        load_folder(tmp_path)


# --- union and masks


def test_union_keeps_class_names_apart(tmp_path, strict):
    one = load_mvtec_ad(mvtec_tree(tmp_path / "a"), classes=["bottle", "zipper"])
    two = load_folder(mvtec_tree(tmp_path / "b"), classes=["bottle"])
    for datasets in ({"mvtec": one, "mine": two}, [("mvtec", one), ("mine", two)]):
        data = load_union(datasets)
        assert data.classes.tolist() == ["mine/bottle", "mvtec/bottle", "mvtec/zipper"]
        assert len(data.images) == 15
        for field in ("images", "y", "defect", "mask", "split"):
            assert data[field].tolist() == one[field].tolist() + two[field].tolist()
        assert data.class_label[0] == "mvtec/bottle" and data.class_label[-1] == "mine/bottle"
        assert data.target.tolist() == np.where(data.y == 1, data.class_label, "-1").tolist()
        assert data.root == {"mvtec": str(tmp_path / "a"), "mine": str(tmp_path / "b")}
        assert data.mask.dtype == object
    again = load_union({"all": data, "more": two})
    assert "all/mvtec/zipper" in again.classes


@pytest.mark.parametrize(
    "datasets, error, message",
    [
        ({}, ValueError, "datasets is empty"),
        ([("a", Bunch(images=[]))], ValueError, r"datasets\[0\] \('a'\) lacks \['class_label'"),
        ([Bunch()], TypeError, r"datasets\[0\] must be a pair"),
        ({"a": "a.png"}, ValueError, r"datasets\[0\] \('a'\) lacks \['images'"),
    ],
)
def test_bad_unions_are_named(datasets, error, message):
    with pytest.raises(error, match=message):
        load_union(datasets)


def test_union_of_equal_names_is_refused(tmp_path):
    data = load_folder(mvtec_tree(tmp_path), classes=["bottle"])
    with pytest.raises(ValueError, match=r"different names, got \['a', 'a'\]"):
        load_union([("a", data), ("a", data)])


def test_load_mask_takes_any_nonzero_value(tmp_path):
    values = np.array([[0, 1, 0], [5, 255, 0]], dtype=np.uint8)
    grey = Image.fromarray(values)
    colour = Image.fromarray(np.dstack([0 * values, values, 0 * values]))
    alpha = Image.fromarray(np.dstack([values] * 3 + [0 * values + 255]))
    palette = Image.fromarray(values).convert("L").point(lambda v: min(v, 3)).convert("P")
    palette.putpalette([200, 0, 0] * 256)  # indices mark the defect, whatever their colours
    for name, image in [("g", grey), ("c", colour), ("a", alpha), ("p", palette)]:
        image.save(tmp_path / f"{name}.png")
        mask = load_mask(tmp_path / f"{name}.png")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, values > 0)


def test_load_mask_resizes_by_nearest_neighbour(tmp_path):
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2, :3] = True
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png", size=(2, 2)), [[1, 0], [0, 0]])
    large = load_mask(tmp_path / "m.png", size=(8, 12))
    np.testing.assert_array_equal(large, np.kron(mask, np.ones((2, 2), dtype=bool)))


def test_load_mask_ignores_jpeg_noise(tmp_path):
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[5:18, 5:18] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=60)
    with Image.open(tmp_path / "m.jpg") as image:
        assert np.any((np.asarray(image) != 0) != (mask != 0))  # there is noise to ignore
    np.testing.assert_array_equal(load_mask(tmp_path / "m.jpg"), mask != 0)


def test_load_mask_names_an_unreadable_file(tmp_path):
    (tmp_path / "m.png").write_text("x")
    for name in ("m.png", "none.png"):
        with pytest.raises(ValueError, match=f"mask .*{name} cannot be read"):
            load_mask(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [23, 10])  # Pillow warns up to twice the limit, then raises
def test_a_mask_over_pillows_limit_is_named(tmp_path, monkeypatch, limit):
    write(tmp_path, [("lid/test/dent/a.png", (4, 6)), ("lid/ground_truth/dent/a.png", (4, 6))])
    mask = tmp_path / "lid/ground_truth/dent/a.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"mask .*a\.png cannot be read: .*MAX_IMAGE_PIXELS"):
        load_mask(mask)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .*MAX_IMAGE_PIXELS"):
        load_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    assert load_mask(mask).shape == (6, 4)
    assert len(load_folder(tmp_path).images) == 1
