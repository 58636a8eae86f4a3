"""Loaders of MVTec AD 2, MVTec LOCO AD, Real-IAD, KolektorSDD2, MPDD; how they are recognised."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from trees import (
    LOGICAL,
    STRUCTURAL,
    kolektor_tree,
    loco_tree,
    mvtec_ad_2_tree,
    real_iad_list,
    real_iad_tree,
    save,
    write,
    write_text,
)

from skhgad.datasets import (
    load_folder,
    load_kolektorsdd2,
    load_mask,
    load_mpdd,
    load_mvtec_ad_2,
    load_mvtec_loco_ad,
    load_real_iad,
    load_saturated_regions,
    load_union,
)
from skhgad.datasets.recognition import recognise


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rows(data):
    """Return (image, y, target, defect, mask, split) per sample, paths below the root."""
    root = Path(data.root)

    def below(path):
        return None if path is None else Path(path).relative_to(root).as_posix()

    fields = ("images", "y", "target", "defect", "mask", "split")
    table = zip(*(data[field].tolist() for field in fields), strict=True)
    return [(below(r[0]), *r[1:4], below(r[4]), r[5]) for r in table]


# --- MVTec AD 2


def test_mvtec_ad_2(tmp_path, strict):
    data = load_mvtec_ad_2(mvtec_ad_2_tree(tmp_path), classes=["can"])
    public = "can/test_public"
    assert rows(data) == [
        ("can/train/good/000_regular.png", 1, "can", "good", None, "train"),
        ("can/validation/good/000_regular.png", 1, "can", "good", None, "validation"),
        (
            *(f"{public}/bad/000_regular.png", -1, "-1", "bad"),
            *(f"{public}/ground_truth/bad/000_regular_mask.png", "test_public"),
        ),
        (f"{public}/good/000_regular.png", 1, "can", "good", None, "test_public"),
    ]
    assert "MVTec AD 2: 4 images" in data.DESCR and "2503.21622" in data.DESCR


@pytest.mark.parametrize(
    "split, image",
    [("test_private", "000_regular.png"), ("test_private_mixed", "000_mixed.png")],
)
def test_private_test_sets_have_no_labels(tmp_path, split, image, strict):
    data = load_mvtec_ad_2(mvtec_ad_2_tree(tmp_path), classes=["can"], split=split)
    assert rows(data) == [(f"can/{split}/{image}", 0, "-1", "unknown", None, split)]
    assert load_union({"ad2": data}).target.tolist() == ["-1"]


def test_mvtec_ad_2_that_is_not_whole_is_named(tmp_path):
    mvtec_ad_2_tree(tmp_path)
    bad = tmp_path / "can/test_public/ground_truth/bad/000_regular_mask.png"
    write(tmp_path, [(str(bad), (5, 5))])
    with pytest.raises(ValueError, match=r"000_regular_mask.png has \(height, width\) \(5, 5\)"):
        load_mvtec_ad_2(tmp_path, classes=["can"])
    assert len(load_mvtec_ad_2(tmp_path, classes=["can"], verify=False).images) == 4
    bad.unlink()
    with (
        pytest.warns(UserWarning, match="holds no image"),
        pytest.raises(ValueError, match=r"bad/000_regular.png has no mask: .* 000_regular_mask"),
    ):
        load_mvtec_ad_2(tmp_path, classes=["can"])
    bad.parent.rmdir()
    with pytest.raises(ValueError, match="(?s)ground_truth/bad is missing.*test_private_mixed"):
        load_mvtec_ad_2(tmp_path, classes=["can"])
    (tmp_path / "can/validation").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="can/validation is missing"):
        load_mvtec_ad_2(tmp_path, classes=["can"])
    assert len(load_mvtec_ad_2(tmp_path, classes=["can"], split="train").images) == 1


def test_an_empty_class_is_left_out_and_told(tmp_path):
    mvtec_ad_2_tree(tmp_path)
    (tmp_path / "rice/train/good").mkdir(parents=True)
    with (
        pytest.warns(UserWarning, match="good holds no image"),
        pytest.warns(UserWarning, match="class 'rice' is left out"),
    ):
        data = load_mvtec_ad_2(tmp_path, classes=["can", "rice"], split="train")
    assert data.classes.tolist() == ["can"]


# --- MVTec LOCO AD


def test_mvtec_loco_ad(tmp_path, strict):
    data = load_mvtec_loco_ad(loco_tree(tmp_path), classes=["pushpins"])
    truth = "pushpins/ground_truth"
    assert rows(data) == [
        ("pushpins/train/good/000.png", 1, "pushpins", "good", None, "train"),
        ("pushpins/validation/good/000.png", 1, "pushpins", "good", None, "validation"),
        ("pushpins/test/good/000.png", 1, "pushpins", "good", None, "test"),
        *(
            (f"pushpins/test/{kind}/{i}.png", -1, "-1", kind, f"{truth}/{kind}/{i}", "test")
            for kind in ("logical_anomalies", "structural_anomalies")
            for i in ("000", "001")
        ),
    ]
    union = load_mask(data.mask[3])
    first, second = (region.mask for region in load_saturated_regions(data.mask[3]))
    assert first.sum() == 8 and second.sum() == 6 and (first & second).sum() == 1
    np.testing.assert_array_equal(union, first | second)
    assert load_mask(data.mask[3], size=(12, 16)).sum() == 4 * union.sum()


def test_saturations_are_pixels_or_a_share(tmp_path, strict):
    loco_tree(tmp_path)
    folder = tmp_path / "pushpins/ground_truth/logical_anomalies/000"
    assert [r.saturation for r in load_saturated_regions(folder)] == [3, 6]
    kinds = [{**LOGICAL, "saturation_threshold": 99}, {**STRUCTURAL, "saturation_threshold": 0.6}]
    write_text(tmp_path, "own.json", json.dumps(kinds))
    found = load_saturated_regions(folder, tmp_path / "own.json")
    assert [r.saturation for r in found] == [8, 3]  # at most the area; 3.6 rounded down


@pytest.mark.parametrize(
    "content, message",
    [
        ("[{", r"defects_config.json is no valid JSON"),
        ("{}", "defects_config.json must hold a list"),
        ('[{"pixel_value": 255}]', r"entry 0 lacks \['saturation_threshold', 'relative_"),
        (json.dumps([LOGICAL, LOGICAL]), "entry 1: pixel_value 255 is there twice"),
        (json.dumps([{**STRUCTURAL, "saturation_threshold": 2}]), r"a share in \(0, 1\]"),
        (json.dumps([{**LOGICAL, "saturation_threshold": "3"}]), "entry 0: .* got 255, False"),
        (json.dumps([LOGICAL]), r"001.png has the value 200; .*defects_config.json has \[255\]"),
    ],
)
def test_a_broken_defects_config_is_named(tmp_path, content, message):
    write_text(loco_tree(tmp_path), "pushpins/defects_config.json", content)
    with pytest.raises(ValueError, match=message):
        load_saturated_regions(tmp_path / "pushpins/ground_truth/logical_anomalies/000")


def test_loco_masks_that_are_wrong_are_named(tmp_path):
    loco_tree(tmp_path)
    folder = tmp_path / "pushpins/ground_truth/logical_anomalies/001"
    save(folder, "000.png", [[255, 200]])
    with pytest.raises(ValueError, match=r"000.png has the values \[200, 255\] beside 0"):
        load_saturated_regions(folder)
    with pytest.raises(ValueError, match=r"001/000.png has \(height, width\) \(1, 2\)"):
        load_mvtec_loco_ad(tmp_path, classes=["pushpins"])
    write(folder, ["001.png"])
    with pytest.raises(ValueError, match=r"001.png has .* \(6, 8\), .*000.png of the same image"):
        load_mask(folder)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="logical_anomalies/001 cannot be read: .* no image"):
        load_mask(folder)
    folder.rmdir()
    with pytest.raises(ValueError, match=r"001.png has no mask: .*/001 is missing or empty"):
        load_mvtec_loco_ad(tmp_path, classes=["pushpins"])
    write(folder.parent, ["001/000.png", "777/000.png"])
    with pytest.raises(ValueError, match=r"logical_anomalies/777 \(1 such\) has no image"):
        load_mvtec_loco_ad(tmp_path, classes=["pushpins"])
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        load_saturated_regions(tmp_path / "nowhere")
    (tmp_path / "pushpins/defects_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="defects_config.json is missing"):
        load_saturated_regions(folder.parent / "000")


# --- Real-IAD


@pytest.mark.parametrize("lists", ["realiad_jsons", "realiad_jsons/realiad_jsons"])
def test_real_iad(tmp_path, lists, strict):
    data = load_real_iad(real_iad_tree(tmp_path, lists=lists), classes=["audiojack"])
    folder = "realiad_1024/audiojack"
    bad = f"{folder}/NG/AK/S0001/audiojack_0001_NG_AK_C1_1"
    good = "audiojack", "good", None
    assert rows(data) == [
        (f"{folder}/OK/S0001/audiojack_0001_OK_C1_1.jpg", 1, *good, "train"),
        (f"{folder}/OK/S0001/audiojack_0001_OK_C2_1.jpg", 1, *good, "train"),
        (f"{bad}.jpg", -1, "-1", "AK", f"{bad}.png", "test"),
        (f"{folder}/OK/S0002/audiojack_0002_OK_C1_1.jpg", 1, *good, "test"),
    ]


def test_real_iad_chooses_lists_and_images(tmp_path, strict):
    real_iad_tree(tmp_path)
    real_iad_tree(tmp_path, images="realiad_256")
    content = real_iad_list()
    content["train"].pop()
    write_text(tmp_path, "realiad_jsons_sv/audiojack.json", json.dumps(content))
    with pytest.raises(ValueError, match=r"\['realiad_1024', 'realiad_256'\]: choose one by imag"):
        load_real_iad(tmp_path, classes=["audiojack"])
    arguments = {"classes": ["audiojack"], "images": "realiad_256", "lists": "realiad_jsons_sv"}
    data = load_real_iad(tmp_path, split="train", **arguments)
    assert len(data.images) == 1 and "realiad_256" in data.images[0]
    for name in ("lists", "images"):
        with pytest.raises(ValueError, match="(?s)realiad_none is missing.*realiad_1024/<class>"):
            load_real_iad(tmp_path, **{**arguments, name: "realiad_none"})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("test"), r"audiojack.json has no list 'test'"),
        (lambda c: c.update(meta=[]), "must hold an object with meta"),
        (lambda c: c["train"].append(3), r"train\[2\] must have the texts image_path and .*got 3"),
        (lambda c: c["train"][1].update(category="usb"), r"train\[1\] is of the category 'usb'"),
        (
            lambda c: c["test"][1].update(mask_path=None),
            r"test\[1\]: anomaly_class 'AK' with mask_",
        ),
        (lambda c: c["test"][1].update(mask_path="NG/x.png"), r"test\[1\]: .*NG/x.png is missing"),
        (lambda c: c["test"][0].update(image_path="../../x"), r"test\[0\]: .* lies outside"),
        (lambda c: c["meta"].update(prefix="/etc"), r"train\[0\]: .* lies outside"),
        (
            lambda c: c["train"].append(c["train"][0]),
            r"train\[2\]: .*C1_1.jpg is in the file twice",
        ),
    ],
)
def test_wrong_entries_of_real_iad_are_named(tmp_path, change, message):
    real_iad_tree(tmp_path)
    content = real_iad_list()
    change(content)
    write_text(tmp_path, "realiad_jsons/audiojack.json", json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_real_iad(tmp_path, classes=["audiojack"])


def test_files_of_real_iad_that_are_wrong_are_named(tmp_path):
    real_iad_tree(tmp_path)
    mask = next(tmp_path.rglob("*_NG_*.png"))
    write(tmp_path, [(str(mask), (3, 3))])
    with pytest.raises(ValueError, match=rf"{mask.name} has \(height, width\) \(3, 3\)"):
        load_real_iad(tmp_path, classes=["audiojack"])
    content = {**real_iad_list(), "train": [], "test": []}
    write_text(tmp_path, "realiad_jsons/audiojack.json", json.dumps(content))
    with (
        pytest.warns(UserWarning, match="audiojack.json holds no image .* 'audiojack' is left out"),
        pytest.raises(ValueError, match="holds no image of the classes"),
    ):
        load_real_iad(tmp_path, classes=["audiojack"])
    write_text(tmp_path, "realiad_jsons/audiojack.json", '{"train": [')
    with pytest.raises(ValueError, match="audiojack.json is no valid JSON: .* column"):
        load_real_iad(tmp_path, classes=["audiojack"])
    (tmp_path / "realiad_jsons/audiojack.json").unlink()
    with pytest.raises(ValueError, match="audiojack.json is missing"):
        load_real_iad(tmp_path, classes=["audiojack"])


# --- KolektorSDD2 and MPDD


def test_kolektorsdd2_is_labelled_by_its_masks(tmp_path, strict):
    data = load_kolektorsdd2(kolektor_tree(tmp_path))
    name = "KolektorSDD2"
    assert rows(data) == [
        ("train/10000.png", -1, "-1", "anomaly", "train/10000_GT.png", "train"),
        ("train/10001.png", 1, name, "good", "train/10001_GT.png", "train"),
        ("test/20000.png", -1, "-1", "anomaly", "test/20000_GT.png", "test"),
        ("test/20001.png", 1, name, "good", "test/20001_GT.png", "test"),
    ]
    assert data.classes.tolist() == [name]
    assert load_kolektorsdd2(tmp_path, classes=[name], split="test").split.tolist() == ["test"] * 2


def test_kolektorsdd2_that_is_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match="(?s)train is missing.*10000_GT.png"):
        load_kolektorsdd2(tmp_path)
    kolektor_tree(tmp_path)
    with pytest.raises(ValueError, match="has the one class 'KolektorSDD2'"):
        load_kolektorsdd2(tmp_path, classes=["lid"])
    write(tmp_path, ["train/10001_GT(1).png"])
    with pytest.warns(UserWarning, match=r"'10001_GT\(1\).png': not read, because masks are named"):
        assert len(load_kolektorsdd2(tmp_path).images) == 4
    (tmp_path / "train/10001_GT(1).png").unlink()
    write(tmp_path, [("test/20000_GT.png", (3, 3))])
    with pytest.raises(ValueError, match=r"20000_GT.png has \(height, width\) \(3, 3\)"):
        load_kolektorsdd2(tmp_path)
    (tmp_path / "test/20000_GT.png").write_text("no image")
    with pytest.raises(ValueError, match="mask .*20000_GT.png cannot be read"):
        load_kolektorsdd2(tmp_path, verify=False)
    (tmp_path / "test/20000_GT.png").unlink()
    with pytest.raises(ValueError, match=r"20000.png has no mask: 20000_GT\.\* is missing"):
        load_kolektorsdd2(tmp_path)
    (tmp_path / "test/20000.png").rename(tmp_path / "test/30000_GT.png")
    with pytest.raises(ValueError, match=r"30000_GT.png \(1 such\) has no image"):
        load_kolektorsdd2(tmp_path)


def mpdd_tree(root):
    write(root, [f"tubes/{name}/000.png" for name in ("train/good", "test/good", "test/anomalous")])
    write(root, ["tubes/ground_truth/anomalous/000_mask.png"])
    return root


def test_mpdd_is_laid_out_as_mvtec_ad(tmp_path, strict):
    data = load_mpdd(mpdd_tree(tmp_path), classes=["tubes"])
    assert data.defect.tolist() == ["good", "anomalous", "good"]
    assert data.mask[1].endswith("ground_truth/anomalous/000_mask.png") and "MPDD" in data.DESCR
    with pytest.raises(ValueError, match="classes names 'bottle'"):
        load_mpdd(tmp_path, classes=["bottle"])


# --- recognition


def visa_tree(root):
    table = "object,split,label,image,mask\n"
    for split in ("train", "test"):
        image = f"pcb1/Data/Images/Normal/{split}.JPG"
        write(root, [image])
        table += f"pcb1,{split},normal,{image},\n"
    write_text(root, "split_csv/1cls.csv", table)


def mvtec_3d_tree(root):
    parts = ("train/good", "validation/good", "test/hole")
    write(root, [f"bagel/{part}/rgb/000.png" for part in parts])
    write(root, ["bagel/test/hole/gt/000.png"])


def btad_tree(root):
    write(root, [f"01/{part}/0000.png" for part in ("train/ok", "test/ko", "ground_truth/ko")])


@pytest.mark.filterwarnings("ignore:.*lacks .* of the .* classes")
@pytest.mark.parametrize(
    "name, tree, n_train, n_test, of_class",
    [
        ("mvtec_ad_2", mvtec_ad_2_tree, 1, 2, "can"),
        ("mvtec_loco_ad", loco_tree, 1, 5, "pushpins"),
        ("mvtec_3d_ad", mvtec_3d_tree, 1, 1, "bagel"),
        ("btad", btad_tree, 1, 1, "01"),
        ("mpdd", mpdd_tree, 1, 2, "tubes"),
        ("real_iad", real_iad_tree, 2, 2, None),
        ("visa", visa_tree, 1, 1, None),
        ("kolektorsdd2", kolektor_tree, 2, 2, None),
    ],
)
def test_published_data_sets_are_recognised(tmp_path, name, tree, n_train, n_test, of_class):
    tree(tmp_path)
    assert recognise(tmp_path)[0] == name
    for root in (tmp_path, tmp_path / of_class) if of_class else (tmp_path,):
        for split, n in (("train", n_train), ("test", n_test)):
            data = load_folder(root, split=split)
            assert data.split.tolist() == [split] * n
    if of_class:
        assert recognise(tmp_path / of_class).classes == [of_class]
        with pytest.raises(ValueError, match=f"is the one class '{of_class}'"):
            load_folder(tmp_path / of_class, classes=["lid"])


def test_own_folders_are_not_taken_for_published_ones(tmp_path, strict):
    write(tmp_path, ["lid/train/good/a.png", "lid/test/good/a.png", "cap/train/good/a.png"])
    assert recognise(tmp_path) is None and recognise(tmp_path / "lid") is None
    assert recognise(tmp_path / "nowhere") is None
    assert len(load_folder(tmp_path).images) == 3
