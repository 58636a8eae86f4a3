"""The benchmark of public data sets: what it finds, and its figures for maps that are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from trees import (
    kolektor_tree,
    loco_tree,
    mvtec_ad_2_tree,
    real_iad_tree,
    save,
    write,
)

from benchmarks import _data, public
from skhgad import Inspection
from skhgad.datasets import load_mvtec_loco_ad
from skhgad.metrics import SegF1Metrics, SproMetrics

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*lacks .* of the .* classes"),
]


class GreyDetector:
    """Stands in for HGADDetector: an image's anomaly map is its grey values."""

    model_ = SimpleNamespace(value_range=None)

    def __init__(self, **parameters):
        self.parameters = parameters

    def fit(self, images, target):
        assert len(images) and "-1" not in target.tolist()

    def inspect(self, paths, class_labels, maps, roi):
        maps = [np.asarray(Image.open(path), dtype=np.float32) for path in paths]
        scores = np.array([-found.max() for found in maps], dtype=float)
        zeros = np.zeros(len(paths))
        return Inspection(np.array(["?"] * len(paths)), scores, zeros, zeros > 1, maps, zeros)


def noisy(root, seed=0):
    """Replace images below `root` that are no masks by noise; anomalies are brighter at the top."""
    rng = np.random.default_rng(seed)
    for path in sorted(root.rglob("*.png")):
        if "ground_truth" not in path.parts and not path.stem.endswith("_GT"):
            pixels = rng.integers(0, 100, (6, 8))
            if {"bad", "logical_anomalies", "structural_anomalies"} & set(path.parts):
                pixels[:3, :4] += 60
            save(path.parent, path.name, pixels)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    loco_tree(folder / "loco")
    mvtec_ad_2_tree(folder / "second", n=3)
    for path in (folder / "second").rglob("*_mask.png"):
        mask = np.zeros((6, 8))
        mask[:3, :4] = 255
        save(path.parent, path.name, mask)
    noisy(folder)
    return folder


def test_tables_of_what_is_there(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(public, "HGADDetector", GreyDetector)
    places = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    assert public.main(["--data", str(data), "--seeds", "2", "--pixel-size", "6x8", *places]) == 0
    said = capsys.readouterr().out
    assert said == (tmp_path / "a.md").read_text() + "\n"
    assert "| class | image AUROC | pixel AUROC | AUPRO (to 5 %) | SegF1 |" in said
    assert "| class | image AUROC | pixel AUROC | AUPRO (to 30 %) | AU-sPRO (to 5 %) |" in said
    assert "3 images to fit on, 6 to test on; 2 seeds." in said and "| **mean** |" in said
    assert (
        "so not run: MVTec AD, VisA, Real-IAD, MVTec 3D-AD, RGB images, BTAD, MPDD, KolektorSDD2."
    ) in said
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content["data_sets"]) == ["mvtec_ad_2", "mvtec_loco_ad"]
    assert content["not_found"][0] == "MVTec AD"

    # The same figures from the same maps, step by step.
    f1 = SegF1Metrics()
    second, grey = data / "second/can", lambda path: np.asarray(Image.open(path), dtype=float)
    for path in (second / "validation/good").iterdir():
        f1.update_validation(grey(path))
    for path in (second / "test_public/good").iterdir():
        f1.update(None, grey(path), y=1)
    for path in (second / "test_public/bad").iterdir():
        mask = second / "test_public/ground_truth/bad" / f"{path.stem}_mask.png"
        f1.update(mask, grey(path))
    found = content["data_sets"]["mvtec_ad_2"][0]["per_class"]["can"]
    assert found["seg_f1"] == pytest.approx(f1.compute().pooled.f1) and 0 < found["seg_f1"] < 1
    assert found["pixel_auroc"] > 0.8

    spro, test = SproMetrics(), load_mvtec_loco_ad(data / "loco", split="test")
    for path, mask, y, kind in zip(test.images, test.mask, test.y, test.defect, strict=True):
        spro.update(mask, grey(path), "pushpins", y=y, kind=kind)
    (of_seed, _) = content["data_sets"]["mvtec_loco_ad"]
    assert of_seed["mean"]["au_spro"] == pytest.approx(spro.compute().mean.au_spro)
    assert of_seed["mean"] == pytest.approx(of_seed["per_class"]["pushpins"])


def test_auroc_of_loco_is_the_mean_over_the_kinds():
    test = SimpleNamespace(
        classes=np.array(["a"]),
        class_label=np.array(["a"] * 5),
        y=np.array([1, 1, -1, -1, -1]),
        defect=np.array(["good", "good", "logical", "structural", "structural"]),
    )
    scores = [2.0, 4.0, 1.0, 3.0, 5.0]  # higher = more normal
    (found,) = public._aurocs(public.DATA_SETS["mvtec_loco_ad"], test, scores)
    assert found == ("a", pytest.approx((1 + 1 / 4) / 2))
    (found,) = public._aurocs(public.DATA_SETS["mvtec_ad"], test, scores)
    assert found == ("a", pytest.approx((2 + 1 + 0) / 6))


def test_data_sets_are_found_below_a_folder_or_are_the_folder(data, tmp_path, capsys):
    real_iad_tree(data / "real")
    kolektor_tree(data / "steel")
    kolektor_tree(data / "steel_again")
    write(data, ["own/lid/train/good/a.png", "a.png"])
    found = public.find_data_sets(data)
    names = {name: place.root.name for name, place in found.items()}
    assert names == {
        "mvtec_loco_ad": "loco",
        "real_iad": "real",
        "mvtec_ad_2": "second",
        "kolektorsdd2": "steel",
    }
    assert "steel_again is left out" in capsys.readouterr().err
    (only,) = public.find_data_sets(data / "loco").values()
    assert only.root == data / "loco"


def test_nothing_found_is_said_and_no_success(tmp_path, capsys):
    assert public.main(["--data", str(tmp_path), "--sets", "visa", "mpdd"]) == 1
    assert f"Not found in {tmp_path}, so not run: VisA, MPDD." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        public.main(["--data", str(tmp_path / "nowhere")])
    assert "is no folder" in capsys.readouterr().err


def test_a_data_set_that_is_broken_does_not_stop_the_others(data, monkeypatch, capsys):
    monkeypatch.setattr(public, "HGADDetector", GreyDetector)
    (data / "second/can/validation").rename(data / "gone")
    sets = ["--sets", "mvtec_ad_2", "mvtec_loco_ad"]
    assert public.main(["--data", str(data), "--pixel-size", "6x8", *sets]) == 1
    said = capsys.readouterr().out
    assert "MVTec AD 2 cannot be read, so it was not run: " in said
    assert "can/validation is missing" in said and "### MVTec LOCO AD" in said
    assert "Not found" not in said


def test_limit_keeps_the_first_of_each_kind_and_lacking_classes_are_named(data):
    train, validation, test = public.load("mvtec_ad_2", data / "second", limit=1)
    assert [len(part.images) for part in (train, validation, test)] == [1, 1, 2]
    mvtec_ad_2_tree(data / "second", "rice")
    for path in (data / "second/rice/train/good").iterdir():
        path.unlink()
    with (
        pytest.warns(UserWarning, match="holds no image"),
        pytest.raises(ValueError, match=r"no training normals of \['rice'\]"),
    ):
        public.load("mvtec_ad_2", data / "second")


def test_the_detector_itself(tmp_path, capsys):
    """A whole run of the detector on tiny images."""
    rng, root = np.random.default_rng(0), tmp_path / "mpdd"
    for kind, n in (("train/good", 8), ("test/good", 2), ("test/hole", 2)):
        for index in range(n):
            pixels = rng.normal(120, 8, (48, 48, 3))
            if kind == "test/hole":
                mask = np.zeros((48, 48))
                mask[10:30, 10:30] = 255
                pixels[mask > 0] = rng.choice([0, 255], (400, 3))
                save(root, f"tubes/ground_truth/hole/{index}_mask.png", mask)
            save(root, f"tubes/{kind}/{index}.png", pixels.clip(0, 255))
    small = "--image-size 64 --set max_iter=0 --set n_blocks=1 --device cpu --pixel-size 64"
    arguments = ["--data", str(root), "--json", str(tmp_path / "a.json"), *small.split()]
    assert public.main(arguments) == 0
    (record,) = json.loads((tmp_path / "a.json").read_text())["data_sets"]["mpdd"]
    assert record["mean"]["image_auroc"] == 1.0 and record["mean"]["pixel_auroc"] > 0.9
    assert "### MPDD" in capsys.readouterr().out


def test_the_other_benchmarks_read_them_too(data):
    (part,) = _data.load_parts([str(data / "second")], "mvtec_ad_2")
    assert len(part.X_train) == 3 and part.y.tolist() == [-1] * 3 + [1] * 3
