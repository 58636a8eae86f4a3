"""The command line through `main(argv)`, on a folder of two drawn products.

The model is fitted once, by the command itself, with settings small enough for a test.
"""

import argparse
import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import Bunch

import skhgad
from skhgad import HGADDetector
from skhgad.command_line import score
from skhgad.command_line.arguments import chosen_parameters, parse_rate
from skhgad.command_line.main import build_parser, main
from skhgad.command_line.report import is_labelled
from skhgad.datasets import load_folder
from skhgad.display.heat_maps import HeatScale, overlay
from skhgad.metrics import image_metrics, pixel_metrics
from skhgad.report import findings
from skhgad.report.evaluation import Measurement, figures_text
from skhgad.report.sheet import MOST, ContactSheet
from skhgad.report.verdicts import FIELDS
from skhgad.scoring.certificate import certificate_text
from skhgad.storage.files import whole_file

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--image-size", "64", "--set", "max_iter=2", "--set", "n_blocks=2", "--seed", "3"]
PARAMETERS = {"image_size": 64, "max_iter": 2, "n_blocks": 2, "random_state": 3}
SIZE = 48


def draw(rng, product, *, blob=False, size=(SIZE, SIZE)):
    """Return a stripe or checker texture (height, width, 3) and the mask of its bright blob."""
    row, column = np.mgrid[: size[0], : size[1]]
    wave = np.sin(row / 2) if product == "stripe" else np.sign(np.sin(row / 3) * np.sin(column / 3))
    grey = 100 + 40 * wave + rng.normal(0, 6, size)
    center = rng.integers(14, min(size) - 14, 2)
    mask = np.hypot(row - center[0], column - center[1]) < 8
    if blob:
        grey[mask] = 255
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Two products in the MVTec AD layout: 12 to fit on, 3 normal and 3 blobs to test on, each."""
    root, rng = tmp_path_factory.mktemp("data") / "products", np.random.default_rng(0)
    for product in ("checker", "stripe"):
        folder = root / product
        for i in range(12):
            write(folder / "train/good" / f"{i:02}.png", draw(rng, product)[0])
        for i in range(3):
            write(folder / "test/good" / f"{i}.png", draw(rng, product)[0])
            pixels, mask = draw(rng, product, blob=True)
            write(folder / "test/blob" / f"{i}.png", pixels)
            write(folder / "ground_truth/blob" / f"{i}_mask.png", np.uint8(255) * mask)
    return root


@pytest.fixture(scope="module")
def model(products, tmp_path_factory):
    """The model folder that `fit` wrote."""
    folder = tmp_path_factory.mktemp("models") / "model"
    assert main(["fit", str(products), "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def detector(model):
    return HGADDetector.load(model)


def refusal(capsys, *argv):
    """Run a command that must refuse its input; return what it says on stderr."""
    assert main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("skhgad: error: ") and "Traceback" not in said
    return said


def printed(capsys):
    """The table on stdout as a list of dicts."""
    return list(csv.DictReader(capsys.readouterr().out.splitlines(), delimiter="\t"))


# fit


def test_fit_is_the_estimator(products, detector):
    data = load_folder(products, split="train")
    expected = HGADDetector(**PARAMETERS).fit(data.images, data.target)
    test = load_folder(products, split="test").images
    assert detector.score_samples(test) == pytest.approx(expected.score_samples(test), rel=1e-4)
    assert detector.offset_ == pytest.approx(expected.offset_, rel=1e-4)
    assert detector.n_iter_ == 2 and detector.n_blocks == 2 and detector.verbose == 0
    assert detector.classes_.tolist() == ["checker", "stripe"]


def test_fit_leaves_out_known_anomalies_and_says_so(products, tmp_path, capsys):
    shutil.copytree(products / "stripe/train", tmp_path / "stripe/train")
    shutil.copytree(products / "stripe/test/blob", tmp_path / "stripe/train/blob")
    argv = ["fit", tmp_path / "stripe", "--out", tmp_path / "model", *SMALL]
    assert main([str(word) for word in argv]) == 0
    said = capsys.readouterr().out
    assert (
        "12 normal images of 1 product: stripe 12" in said
        and "3 images of known defects (blob)" in said
    )
    assert HGADDetector.load(tmp_path / "model").classes_.tolist() == ["stripe"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("n_componets=3", "no parameter 'n_componets'; did you mean 'n_components'?"),
        ("max_iter", "write NAME=VALUE"),
        ("image_size=32", "image_size is given twice"),
        ("criterion=entrpy", "criterion must be one of"),
        ("n_blocks=-1", "n_blocks"),
    ],
)
def test_fit_names_a_wrong_setting(products, tmp_path, capsys, setting, expected):
    argv = ["fit", products, "--out", tmp_path / "model", *SMALL[:2], "--set", setting]
    assert expected in refusal(capsys, *argv)
    assert not list(tmp_path.iterdir())


def test_settings_are_python_values_or_words():
    names = ("backbone", "n_components", "image_size", "device", "n_jobs", "random_state")
    args = argparse.Namespace(**dict.fromkeys(names), fast=False)
    args.n_components = 4
    args.set = ["out_indices=(2, 3)", "contamination=0.01", "criterion=likelihood", "weights=None"]
    assert chosen_parameters(args) == {
        "random_state": 0,
        "n_components": 4,
        "out_indices": (2, 3),
        "contamination": 0.01,
        "criterion": "likelihood",
        "weights": None,
    }


def test_fast_is_the_setting_of_that_name_and_can_be_changed():
    def parameters(*options):
        return chosen_parameters(build_parser().parse_args(["fit", "folder", *options]))

    fast = HGADDetector.fast(random_state=0)
    assert HGADDetector(**parameters("--fast")).get_params() == fast.get_params()
    assert parameters("--fast", "--image-size", "9") == {**parameters("--fast"), "image_size": 9}
    assert "image_scales" not in parameters()


def test_a_dry_run_says_what_is_understood_and_fits_nothing(
    products, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(HGADDetector, "fit", None)
    assert main(["fit", str(products), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said == "24 normal images of 2 products: checker 12, stripe 12\n"
    shutil.copytree(products / "stripe/train/good", tmp_path / "stripe")
    shutil.copytree(products / "stripe/test/blob", tmp_path / "stripe/bad")
    argv = ["fit", str(tmp_path / "stripe"), "--dry-run", "--out", str(tmp_path / "model")]
    assert main(argv) == 0 and not (tmp_path / "model").exists()
    said = capsys.readouterr().out
    assert "12 normal images of 1 product: stripe 12\n3 images of known defects (bad)" in said
    assert "--out is missing" in refusal(capsys, "fit", products)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/a.tex").touch()
    assert "is no skhgad model" in refusal(capsys, *argv[:-1], tmp_path / "thesis")


def test_fit_keeps_what_is_no_model(products, tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("text")
    monkeypatch.setattr(HGADDetector, "fit", None)  # the refusal comes before any work
    said = refusal(capsys, "fit", products, "--out", tmp_path / "thesis")
    assert "is no skhgad model" in said and "choose another folder" in said
    assert "is a file" in refusal(
        capsys, "fit", products, "--out", tmp_path / "thesis" / "chapter.tex" / "model"
    )
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "text"


def test_fit_needs_a_folder_of_classes(tmp_path, capsys):
    said = refusal(capsys, "fit", tmp_path / "nowhere", "--out", tmp_path / "model")
    assert "nowhere" in said and "does not exist" in said and "train/good" in said


@pytest.mark.parametrize(("text", "size"), [("96", 96), ("48x96", (48, 96))])
def test_image_size_is_a_side_or_height_x_width(text, size):
    args = build_parser().parse_args(["fit", "a", "--out", "b", "--image-size", text])
    assert args.image_size == size


@pytest.mark.parametrize(
    "argv", [[], ["fit"], ["fit", "a", "--out", "b", "--image-size", "2x"], ["paint"]]
)
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and "usage: skhgad" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(products, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.fitting.recipe.build_scoring_model", interrupt)
    assert main(["fit", str(products), "--out", str(tmp_path / "model"), *SMALL]) == 130
    assert capsys.readouterr().err == "skhgad: interrupted\n"
    assert not list(tmp_path.iterdir())


# score


def test_score_prints_and_writes_what_the_estimator_says(
    products, model, detector, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(findings, "_CHUNK", 4)  # several chunks
    folder, table = products / "stripe/test", tmp_path / "table.csv"
    assert main(["score", str(model), str(folder), "--csv", str(table)]) == 0
    paths = [str(folder / kind / f"{i}.png") for kind in ("blob", "good") for i in range(3)]
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "score", "p_value", "verdict", "error"]
    assert {row["error"] for row in rows} == {""}
    assert [row["path"] for row in rows] == paths
    assert [row["class"] for row in rows] == detector.predict_class(paths).tolist()
    scores = np.array([float(row["score"]) for row in rows])
    assert scores == pytest.approx(detector.score_samples(paths), rel=1e-4)
    p_values = [float(row["p_value"]) for row in rows]
    assert p_values == pytest.approx(detector.p_values(paths))
    flagged = [row["verdict"] == "anomaly" for row in rows]
    assert flagged == (detector.predict(paths) == -1).tolist()
    assert flagged[:3] == [True] * 3  # a white blob on stripes
    said = capsys.readouterr()
    shown = list(csv.DictReader(said.out.splitlines(), delimiter="\t"))
    assert [row["path"] for row in shown] == paths
    assert [float(row["score"]) for row in shown] == pytest.approx(scores, abs=1e-4)
    assert f"{sum(flagged)} of 6 images are anomalies" in said.err
    assert os.listdir(tmp_path) == ["table.csv"]


def test_score_with_the_class_given(products, model, detector, capsys):
    image = str(products / "stripe/test/good/0.png")
    assert main(["score", str(model), image, "--class", "checker"]) == 0
    (row,) = printed(capsys)
    given = detector.score_samples([image], class_labels=["checker"])[0]
    assert row["class"] == "checker" and float(row["score"]) == pytest.approx(given, rel=1e-3)
    assert float(row["score"]) < detector.score_samples([image])[0]  # it is no checker
    said = refusal(capsys, "score", model, image, "--class", "cheker")
    assert "--class 'cheker'" in said and "['checker', 'stripe']" in said


def test_maps_have_the_image_s_size_and_names_of_their_own(model, detector, tmp_path, capsys):
    rng = np.random.default_rng(1)
    pixels, mask = draw(rng, "stripe", blob=True, size=(60, 40))
    first = write(tmp_path / "in/left/1.png", pixels)
    second = write(tmp_path / "in/right/1.png", draw(rng, "stripe")[0])
    third = write(tmp_path / "in/right/1.jpg", draw(rng, "checker")[0])
    maps, table = tmp_path / "maps", tmp_path / "table.csv"
    argv = ["score", model, first, tmp_path / "in/right", "--maps", maps, "--csv", table]
    assert main([str(word) for word in argv]) == 0
    written = {p.relative_to(maps).as_posix() for p in maps.rglob("*") if p.is_file()}
    assert written == {"left/1.png.png", "right/1.png.png", "right/1.jpg.png"}
    for image in (first, second, third):
        with (
            Image.open(image) as source,
            Image.open(
                maps / image.relative_to(tmp_path / "in").with_name(image.name + ".png")
            ) as picture,
        ):
            assert picture.size == source.size and picture.mode == "RGB"
    with open(table, newline="", encoding="utf-8") as file:
        assert [Path(row["map"]) for row in csv.DictReader(file)] == [
            maps / "left/1.png.png", maps / "right/1.jpg.png", maps / "right/1.png.png",
        ]  # fmt: skip
    # The picture is the estimator's own map: its heat, and the grey of the image, pixel by pixel.
    heat = HeatScale.of(detector).heat(detector.anomaly_maps([str(first)])[0])
    with Image.open(maps / "left/1.png.png") as picture:
        assert np.abs(np.asarray(picture, float) - overlay(pixels, heat)).max() <= 1
    assert heat[mask].mean() > heat[~mask].mean()


def test_jsonl_masks_and_sheet_are_the_explanations(products, model, detector, tmp_path, capsys):
    folder, lines, masks = products / "stripe/test", tmp_path / "t.jsonl", tmp_path / "masks"
    argv = [
        "score",
        model,
        folder,
        "--jsonl",
        lines,
        "--masks",
        masks,
        "--sheet",
        tmp_path / "s.png",
    ]
    assert main([str(word) for word in [*argv, "--fail-on-anomaly"]]) == 1
    said = capsys.readouterr().err
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    paths = [str(folder / kind / f"{i}.png") for kind in ("blob", "good") for i in range(3)]
    for record, path, expected in zip(records, paths, detector.explain(paths), strict=True):
        assert list(record) == [*FIELDS, "mask"] and record["path"] == path
        assert record["regions"] == [region.to_dict() for region in expected.regions]
        assert record["area"] == pytest.approx(expected.area)
        assert record["p_value"] == expected.p_value
        side = "below" if expected.is_anomaly else "not below"
        assert record["reason"].startswith(f"The score {record['score']:.4g} is {side} the thresh")
        end = r" above the threshold( \(\d+\.\d% of the image\))?\.$"
        assert re.search(end, record["reason"])
        with Image.open(record["mask"]) as mask:
            assert mask.size == (SIZE, SIZE) and mask.mode == "L"
            assert np.sum(np.asarray(mask) == 255) == sum(r.area for r in expected.regions)
    assert Path(records[0]["mask"]) == masks / "blob/0.png_mask.png"
    n_flagged = sum(record["verdict"] == "anomaly" for record in records)
    assert f"sheet: {n_flagged} flagged images" in said and n_flagged >= 3
    with Image.open(tmp_path / "s.png") as sheet:  # red boxes on white, a column an image
        pixels = np.asarray(sheet).astype(int)
        assert sheet.width == n_flagged * 248 + 8
    assert np.any(np.all(pixels == (235, 0, 0), axis=2))
    good = str(products / "checker/train/good/00.png")
    assert main(["score", str(model), good, "--fail-on-anomaly"]) == 0
    capsys.readouterr()
    said = refusal(capsys, "score", model, good, "--sheet", tmp_path / "s.tif")
    assert "--sheet" in said and ".png, .jpg or .webp" in said
    said = refusal(capsys, "score", model, folder, "--masks", folder / "masks")
    assert "--masks" in said and "each mask for an image" in said


def test_a_sheet_shows_the_most_anomalous(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    sheet = ContactSheet()
    regions = [{"box": [0, 0, 2, 2]}]
    for index in range(MOST + 5):
        record = {"path": str(path), "class": "lid", "score": float(index), "regions": regions}
        sheet.offer({**record, "verdict": "anomaly"})
    sheet.offer({"verdict": "normal"})
    assert sheet.n_flagged == MOST + 5 and sheet.write(tmp_path / "sheet.jpg") == MOST
    assert sorted(-place[0] for place in sheet._tiles) == list(range(MOST))
    assert ContactSheet().write(tmp_path / "none.png") == 0


def test_files_of_any_name(products, model, detector, tmp_path, capsys):
    names = ["ä ö.png", "模 型.png", "a\tb.png", "-x.png", "long" * 62 + ".png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff\xfe.png"))  # no valid text
    (tmp_path / "ü b").mkdir()
    for name in names:
        shutil.copy(products / "stripe/test/blob/0.png", tmp_path / "ü b" / name)
    maps, table = tmp_path / "karten ü", tmp_path / "tabelle ä.csv"
    argv = ["score", model, tmp_path / "ü b", "--maps", maps, "--csv", table]
    assert main([str(word) for word in argv]) == 0
    written = os.listdir(maps)
    assert {f"{name}.png" for name in names if len(name) < 248} < set(written)
    assert len(written) == len(names)
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(str(tmp_path / "ü b" / n) for n in names)
    assert sorted(Path(row["map"]).name for row in rows) == sorted(written)
    expected = detector.score_samples([row["path"] for row in rows])
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, rel=1e-4)


def test_maps_among_the_images_are_refused(products, model, capsys):
    folder = products / "stripe/test"
    before = sorted(products.rglob("*"))
    said = refusal(capsys, "score", model, folder, "--maps", folder / "maps")
    assert "lies in the folder of images" in said
    image = folder / "good/0.png"
    shutil.copy(image, folder / "good/0.png.png")
    try:
        said = refusal(
            capsys, "score", model, image, folder / "good/0.png.png", "--maps", folder / "good"
        )
        assert "would replace the image" in said
    finally:
        (folder / "good/0.png.png").unlink()
    assert sorted(products.rglob("*")) == before


def test_score_names_what_it_cannot_read(products, model, tmp_path, capsys):
    assert "'no.png' does not exist" in refusal(capsys, "score", model, "no.png")
    assert "no model folder" in refusal(
        capsys, "score", tmp_path / "no", products / "stripe/test/good/0.png"
    )
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refusal(capsys, "score", model, tmp_path / "empty")
    broken = tmp_path / "broken.png"
    broken.write_bytes((products / "stripe/test/good/0.png").read_bytes()[:200])
    argv = [model, products / "stripe/test/good", broken, "--csv", tmp_path / "t.csv", "--strict"]
    said = refusal(capsys, "score", *argv)
    assert f"error: {broken} cannot be read as an image" in said
    assert "X[" not in said and not (tmp_path / "t.csv").exists()
    said = refusal(capsys, "score", model, broken, "--csv", tmp_path / "no" / "t.csv")
    assert "--csv" in said and "there is no folder" in said


def test_a_broken_image_is_a_row_and_the_others_are_scored(
    products, model, detector, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(findings, "_CHUNK", 4)
    folder = tmp_path / "in"
    for name in "bdfh":
        folder.mkdir(exist_ok=True)
        shutil.copy(products / "stripe/test/blob/0.png", folder / f"{name}.png")
    content = (folder / "b.png").read_bytes()
    (folder / "a.png").write_bytes(content[:200])  # truncated
    (folder / "c.png").touch()
    (folder / "e.png").write_text("no image")
    table, lines, maps = tmp_path / "t.csv", tmp_path / "t.jsonl", tmp_path / "maps"
    argv = ["score", model, folder, "--csv", table, "--jsonl", lines, "--maps", maps]
    assert main([str(word) for word in argv]) == 3
    said = capsys.readouterr()
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).stem for row in rows] == list("abcdefh")
    assert [row["verdict"] == "error" for row in rows] == [k in "ace" for k in "abcdefh"]
    expected = detector.score_samples([str(folder / "b.png")])[0]
    for row in rows:
        if row["verdict"] == "error":
            assert (row["class"], row["score"], row["p_value"], row["map"]) == ("",) * 4
            assert row["error"].startswith(row["path"]) and "X[" not in row["error"]
        else:
            assert float(row["score"]) == pytest.approx(expected, rel=1e-4) and not row["error"]
    assert "is an empty file" in rows[2]["error"] and "cannot be read" in rows[4]["error"]
    assert sorted(os.listdir(maps)) == [f"{name}.png.png" for name in "bdfh"]
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [list(record) for record in records] == [[*FIELDS, "map"]] * 7
    assert [record["error"] or "" for record in records] == [row["error"] for row in rows]
    assert records[0]["score"] is None and records[1]["score"] == float(rows[1]["score"])
    shown = list(csv.DictReader(said.out.splitlines(), delimiter="\t"))
    assert [row["verdict"] for row in shown] == [row["verdict"] for row in rows]
    assert f"skhgad: error: {folder / 'a.png'} cannot be read as an image" in said.err
    assert "3 of 7 images could not be read" in said.err and "of 4 images are" in said.err


def test_nothing_but_broken_images(model, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    assert main(["score", str(model), str(tmp_path / "a.png")]) == 3
    said = capsys.readouterr()
    assert said.out.endswith("\t\t\t\terror\n") and "1 of 1 images could not" in said.err


def test_control_characters_of_names_do_not_reach_the_terminal(products, model, tmp_path, capsys):
    if os.name != "posix":
        pytest.skip("no such file names")
    image, broken = tmp_path / "a\x1b[2J\n\tb.png", tmp_path / "c\x1b[31m\u202e\n.png"
    shutil.copy(products / "stripe/test/blob/0.png", image)
    broken.write_text("no image")
    assert main(["score", str(model), str(image), str(broken)]) == 3
    assert main(["explain", str(model), str(image)]) == 0
    main(["score", str(model), str(tmp_path / "no\x1b[2J")])
    with pytest.raises(SystemExit):
        main(["score", str(model), str(image), "--no\x1b[2J"])
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set(text) & set("\x1b\u202e")
    assert f"{tmp_path}/a\\x1b[2J\\n\\tb.png\tstripe\t" in said.out
    assert len(said.out.splitlines()) >= 3 and "no\\x1b[2J" in said.err
    assert f"skhgad: error: {tmp_path}/c\\x1b[31m\\u202e\\n.png cannot be read" in said.err


def test_control_characters_of_classes_do_not_break_the_table():
    names = np.repeat(["a\n\x1b[2J", "b"], 2)
    data = Bunch(class_label=names, y=np.array([1, -1] * 2), mask=np.full(4, None), defect=names)
    measurement = Measurement(data, 1.5, class_offsets={"b\t": -3.0})
    for index, value in enumerate([1.0, 2.0, 1.0, 2.0]):  # every verdict wrong: warnings
        finding = findings.Finding("a.png", str(names[index]), value, 0.5, value < 1.5, None)
        measurement.update(index, finding)
    figures = measurement.figures()
    assert figures["warnings"] and figures["image"].pooled.false_alarm_rate == 1
    text = figures_text(figures, measurement.unmasked)
    header, first, second, *_ = text.splitlines()
    assert "\x1b" not in text and "\t" not in text
    assert first.startswith(r"a\n\x1b[2J") and len(first) == len(second) == len(header)
    assert r"threshold 1.5 (b\t: -3)" in text
    assert not any(line.startswith("\x1b") or line == "[2J" for line in text.splitlines())


def test_no_spreadsheet_runs_what_csv_holds(products, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(products / "stripe/test/blob/0.png", "=1+1.png")
    assert main(["score", str(model), "=1+1.png", "--csv", "t.csv", "--jsonl", "t.jsonl"]) == 0
    with open("t.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "'=1+1.png" and float(row["score"]) < 0  # a number has no apostrophe
    assert json.loads(Path("t.jsonl").read_text())["path"] == "=1+1.png"


def test_score_tells_of_files_that_are_no_images(products, model, tmp_path, capsys):
    shutil.copy(products / "stripe/test/good/0.png", tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("x")
    assert main(["score", str(model), str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "skhgad: warning:" in said.err and "notes.txt" in said.err
    assert len(said.out.splitlines()) == 2


def test_score_refuses_a_damaged_model(products, model, tmp_path, capsys):
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    image = products / "stripe/test/good/0.png"
    assert "does not match the hash" in refusal(capsys, "score", damaged, image)
    assert "is no skhgad model" in refusal(capsys, "score", products, image)


def test_score_refuses_a_model_of_vectors(products, tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(20, 3))
    HGADDetector(max_iter=1, random_state=0).fit(X).save(tmp_path / "model")
    image = products / "stripe/test/good/0.png"
    assert "fitted on feature vectors" in refusal(capsys, "score", tmp_path / "model", image)


def test_traceback_on_demand(model, capsys):
    assert main(["--traceback", "score", str(model), "no.png"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("\n") and "skhgad: error:" in said


def test_a_reader_that_leaves_is_no_success(model, tmp_path, monkeypatch):
    def broken(args):
        raise BrokenPipeError

    monkeypatch.setattr(score, "run", broken)
    with open(tmp_path / "stdout", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["score", str(model), "a.png"]) == 141


# evaluate


def test_evaluate_is_the_metrics_of_the_estimator(products, model, detector, tmp_path, capsys):
    assert main(["evaluate", str(model), str(products), "--json", str(tmp_path / "f.json")]) == 0
    data = load_folder(products, split="test")
    scores = detector.score_samples(data.images)
    image = image_metrics(data.y, scores, data.class_label, offset=detector.offset_)
    maps = detector.anomaly_maps(data.images)
    pixel = pixel_metrics(data.mask, maps, data.class_label, y=data.y)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["n_images"] == 12 and found["n_anomalies"] == 6
    assert found["class_found"] == np.mean(detector.predict_class(data.images) == data.class_label)
    for part, expected in (("image", image), ("pixel", pixel)):
        for name in ("mean", "pooled"):
            assert found[part][name] == pytest.approx(dict(expected[name]), abs=1e-3)
        for name in ("checker", "stripe"):
            own = dict(expected.per_class[name])
            assert found[part]["per_class"][name] == pytest.approx(own, abs=1e-3)
    assert found["expected_false_alarm_rate"] == 0.05
    said = capsys.readouterr().out
    assert all(f"warning: {warned['text']}" in said for warned in found["warnings"])
    assert set(found["misses_at"]["per_class"]) == {"checker", "stripe"}
    assert all(note in said for note in found["notes"]) and "checker has 3" in found["notes"][-1]
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    row = image.pooled
    assert lines["pooled"][1:] == [
        *(f"{row[key]:.3f}" for key in ("auroc", "ap", "f1_max", "false_alarm_rate", "miss_rate")),
        *("-" * 3),  # 6 normals are too few for misses at 1, 5 and 10 %
        *(f"{found['pixel']['pooled'][key]:.3f}" for key in ("auroc", "aupro")),
    ]


def test_evaluate_without_masks_of_one_class(products, model, tmp_path, capsys):
    root = tmp_path / "products"
    shutil.copytree(products, root)
    shutil.rmtree(root / "checker/ground_truth")
    assert main(["evaluate", str(model), str(root), "--json", str(tmp_path / "f.json")]) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert list(found["pixel"]["per_class"]) == ["stripe"]
    assert found["pixel"]["pooled"] == found["pixel"]["per_class"]["stripe"]
    assert list(found["image"]["per_class"]) == ["checker", "stripe"]
    said = capsys.readouterr().out
    assert "no pixel figures of checker" in said
    row = next(line for line in said.splitlines() if line.startswith("checker"))
    assert row.split()[-2:] == ["-", "-"]


def test_evaluate_leaves_out_unknown_classes_and_says_so(products, model, tmp_path, capsys):
    root = tmp_path / "products"
    shutil.copytree(products, root)
    shutil.copytree(root / "stripe", root / "dots")
    figures = tmp_path / "f.json"
    assert main(["evaluate", str(model), str(root), "--json", str(figures)]) == 0
    said = capsys.readouterr()
    assert "warning:" in said.err and "the classes ['dots'], which the model does not" in said.err
    assert "6 of 18 images are left out" in said.err and "dots" not in said.out
    found = json.loads(figures.read_text())
    assert found["n_images"] == 12 and set(found["image"]["per_class"]) == {"checker", "stripe"}
    assert set(found["pixel"]["per_class"]) == {"checker", "stripe"}
    assert main(["evaluate", str(model), str(root), "--classes", "stripe"]) == 0
    assert "checker" not in capsys.readouterr().out
    said = refusal(capsys, "evaluate", model, root, "--classes", "dots")
    assert "['dots']" in said and "and no other; it knows ['checker', 'stripe']" in said


# false-alarm rates


def test_fit_saves_the_rates(products, detector, tmp_path, capsys):
    out = tmp_path / "model"
    rates = ["--false-alarm-rate", "0.3", "stripe=0.4"]
    assert main(["fit", str(products), "--out", str(out), *SMALL, *rates]) == 0
    said = capsys.readouterr().out
    expected = copy.deepcopy(detector).set_threshold(false_alarm_rate=0.3)
    expected.set_threshold(false_alarm_rate={"stripe": 0.4})
    found = HGADDetector.load(out)
    assert found.offset_ == pytest.approx(expected.offset_, rel=1e-4)
    assert found.class_offsets_ == pytest.approx(expected.class_offsets_, rel=1e-4)
    own = found.class_offsets_["stripe"]
    assert f"anomaly = score below {found.offset_:.4g} (stripe: {own:.4g})" in said
    assert f"\n{certificate_text(found.certificate(0.95), 0.95)}\n" in said


@pytest.mark.once
def test_rates_of_a_run_leave_the_model_alone(products, model, detector, tmp_path, capsys):
    before = (model / "model.safetensors").read_bytes()
    expected = copy.deepcopy(detector).set_threshold(false_alarm_rate=0.4)
    expected.set_threshold(false_alarm_rate={"stripe": 0.9})
    data = load_folder(products, split="test")
    flagged = expected.predict(data.images) == -1
    assert expected.class_offsets_["stripe"] > detector.offset_
    rates = ["--false-alarm-rate", "0.4", "--false-alarm-rate", "stripe=0.9"]
    assert main(["score", str(model), *data.images, *rates]) == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(said.out.splitlines(), delimiter="\t"))
    assert [row["verdict"] == "anomaly" for row in rows] == flagged.tolist()
    assert f"(stripe: {expected.class_offsets_['stripe']:.4g})" in said.err
    argv = ["evaluate", str(model), str(products), "--json", str(tmp_path / "f.json"), *rates]
    assert main(argv) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    for name in ("checker", "stripe"):
        normal = (data.y == 1) & (data.class_label == name)
        own = found["image"]["per_class"][name]
        assert own["false_alarm_rate"] == flagged[normal].mean()
    assert found["class_offsets"] == pytest.approx(expected.class_offsets_)
    capsys.readouterr()
    argv = ["report", str(model), str(products), "--out", str(tmp_path / "report"), *rates]
    assert main([*argv, "--top", "1"]) == 0
    assert f"{flagged.sum()} of 12 images are anomalies" in capsys.readouterr().out
    assert (model / "model.safetensors").read_bytes() == before


def test_rates_that_cannot_be_are_named(products, model, tmp_path, capsys, monkeypatch):
    image = products / "stripe/test/good/0.png"
    said = refusal(capsys, "score", model, image, "--false-alarm-rate", "blot=0.1")
    assert "--false-alarm-rate 'blot'" in said and "['checker', 'stripe']" in said
    said = refusal(capsys, "score", model, image, "--false-alarm-rate", "0.1", "0.2")
    assert "two rates for all products, 0.1 and 0.2" in said
    assert main(["score", str(model), str(image), "--false-alarm-rate", "stripe=0.01"]) == 0
    assert "warning: false_alarm_rate=0.01 of class 'stripe' needs" in capsys.readouterr().err
    monkeypatch.setattr(HGADDetector, "fit", None)  # the refusal comes before any work
    argv = ["fit", products, "--out", tmp_path / "model", "--false-alarm-rate", "blot=0.1"]
    assert "the products to fit are ['checker', 'stripe']" in refusal(capsys, *argv)
    for rate in ("0", "1.5", "bolt=", "=0.1", "bolt", "nan"):
        with pytest.raises(SystemExit) as caught:
            main(["score", str(model), str(image), "--false-alarm-rate", rate])
        assert caught.value.code == 2 and "neither RATE nor NAME=RATE" in capsys.readouterr().err


def test_a_product_s_name_may_hold_an_equals_sign():
    assert parse_rate("a=b=0.2") == ("a=b", 0.2) and parse_rate("0.2") == (None, 0.2)


# explain, add-class, export


def test_explain_in_words_and_as_json(products, model, detector, tmp_path, capsys):
    images = [str(products / "stripe/test" / name) for name in ("blob/0.png", "good/0.png")]
    file = tmp_path / "e.json"
    assert main(["explain", str(model), *images, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    records = json.loads(file.read_text())
    for record, path, expected in zip(records, images, detector.explain(images), strict=True):
        assert record["path"] == path and record["class"] == expected.class_label == "stripe"
        assert record["score"] == pytest.approx(expected.score, rel=1e-4)
        assert record["threshold"] == detector.offset_
        assert record["verdict"] == ("anomaly" if expected.is_anomaly else "normal")
        assert record["peak_position"] == list(expected.peak_position)
        assert [region["box"] for region in record["regions"]] == [
            list(region.box) for region in expected.regions
        ]
        assert record["term"] == expected.term and record["level"] == expected.level
    assert f"{images[0]}: an anomaly, taken for the product stripe" in said
    assert f"below the threshold {detector.offset_:.4g}. At most about " in said
    top, left, bottom, right = records[0]["regions"][0]["box"]
    assert f"rows {top} to {bottom - 1}, columns {left} to {right - 1}: " in said
    row, column = records[0]["peak_position"]
    assert f"most unusual at row {row}, column {column}, where " in said
    assert main(["explain", str(model), images[0], "--json", "-", "--class", "checker"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    (expected,) = detector.explain(images[:1], class_labels=["checker"])
    assert record["class"] == "checker"
    assert record["score"] == pytest.approx(expected.score, rel=1e-4)


@pytest.mark.once
def test_add_class_is_the_estimator_s(products, model, detector, tmp_path, capsys):
    rng = np.random.default_rng(5)
    folder, copied = tmp_path / "lids", tmp_path / "model"
    for i in range(8):
        pixels = draw(rng, "stripe")[0].transpose(1, 0, 2)
        write(folder / f"{i}.png", pixels)
    shutil.copytree(model, copied)
    before = (copied / "model.safetensors").read_bytes()
    argv = ["add-class", copied, folder, "--name", "lid", "--out", tmp_path / "new"]
    assert main([str(word) for word in argv]) == 0
    assert "8 normal images of lid; the model knows checker, lid, stripe" in capsys.readouterr().out
    assert (copied / "model.safetensors").read_bytes() == before
    paths = sorted(map(str, folder.iterdir()))
    expected = copy.deepcopy(detector).add_class(paths, "lid")
    found = HGADDetector.load(tmp_path / "new")
    assert found.classes_.tolist() == ["checker", "lid", "stripe"]
    assert found.score_samples(paths) == pytest.approx(expected.score_samples(paths), rel=1e-4)
    assert found.get_params() == detector.get_params()
    assert main([str(word) for word in argv[:-2]]) == 0  # replaces the model
    assert HGADDetector.load(copied).classes_.tolist() == ["checker", "lid", "stripe"]
    capsys.readouterr()
    assert "knows: ['lid']" in refusal(capsys, *argv[:1], copied, *argv[2:])
    said = refusal(capsys, "add-class", model, products, "--name", "both")
    assert "holds 2 products, ['checker', 'stripe']" in said


@pytest.mark.once
def test_update_and_forget_are_the_estimator_s(products, model, detector, tmp_path, capsys):
    rng = np.random.default_rng(5)
    folder, copied, decided = tmp_path / "more", tmp_path / "model", tmp_path / "decided"
    for i in range(6):
        write(folder / f"{i}.png", draw(rng, "stripe")[0])
    shutil.copytree(model, copied)
    argv = ["update", copied, folder, "--class", "stripe", "--out", tmp_path / "new"]
    assert main([str(word) for word in argv]) == 0
    said = capsys.readouterr().out
    assert "6 normal images of stripe" in said and "mean score" in said
    paths = sorted(map(str, folder.iterdir()))
    expected = copy.deepcopy(detector)
    (_, change) = expected.update(paths, "stripe", return_changes=True)
    assert f"{change.n_normals_before} -> {change.n_normals_after}" in said
    found = HGADDetector.load(tmp_path / "new")
    assert found.score_samples(paths) == pytest.approx(expected.score_samples(paths), rel=1e-3)
    decisions = tmp_path / "decisions.csv"
    lines = [f"{path},good,stripe" for path in paths] + [f"{paths[0]}.png,defect,checker"]
    shutil.copy(paths[0], f"{paths[0]}.png")
    decisions.write_text("\n".join(["path,decision,product", *lines]))
    assert main(["update", str(copied), "--out", str(decided), "--decisions", str(decisions)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 image is a defect, left out\n6 normal images of stripe\n")
    again = HGADDetector.load(decided).score_samples(paths)
    assert again.tolist() == found.score_samples(paths).tolist()
    assert "give either FOLDER or --decisions" in refusal(capsys, "update", copied)
    assert "--class is missing: the model knows checker, stripe" in refusal(
        capsys, "update", copied, folder
    )
    assert "--class 'lid' is no product" in refusal(
        capsys, "update", copied, folder, "--class", "lid"
    )
    assert "at least one must stay" in refusal(capsys, "forget", copied, "checker", "stripe")
    assert refusal(capsys, "forget", copied, "lid").endswith("knows checker, stripe.\n")
    assert main(["forget", str(copied), "checker"]) == 0  # replaces the model
    assert "checker" in capsys.readouterr().out
    assert HGADDetector.load(copied).classes_.tolist() == ["stripe"]


def test_export_writes_what_onnxruntime_reads(products, model, detector, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    assert main(["export", str(model), str(file)]) == 0
    said = capsys.readouterr().out
    assert "classes: checker, stripe" in said and str(file) in said
    session = onnxruntime.InferenceSession(file)
    path = str(products / "stripe/test/blob/0.png")
    with Image.open(path) as image:
        (score,) = session.run(["score"], {"image": np.asarray(image)[None]})[0]
    assert score == pytest.approx(detector.score_samples([path])[0], rel=1e-3)
    assert "there is no folder" in refusal(capsys, "export", model, tmp_path / "no" / "m.onnx")


def test_fit_takes_plain_folders(products, tmp_path, capsys):
    argv = ["fit", products / "stripe/train/good", "--out", tmp_path / "model", *SMALL]
    assert main([str(word) for word in argv]) == 0
    assert "12 normal images of 1 product: stripe 12" in capsys.readouterr().out


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*lacks 7 of the 8 classes")
def test_published_layouts_are_read_by_their_names(tmp_path, capsys):
    rng, folder, model = np.random.default_rng(0), tmp_path / "ad2/can", tmp_path / "model"
    for i in range(12):
        write(folder / "train/good" / f"{i}.png", draw(rng, "stripe")[0])
    write(folder / "validation/good/0.png", draw(rng, "stripe")[0])
    for i in range(2):
        pixels, mask = draw(rng, "stripe", blob=True)
        write(folder / "test_public/good" / f"{i}.png", draw(rng, "stripe")[0])
        write(folder / "test_public/bad" / f"{i}.png", pixels)
        write(folder / "test_public/ground_truth/bad" / f"{i}_mask.png", np.uint8(255) * mask)
    assert main(["fit", str(tmp_path / "ad2"), "--out", str(model), *SMALL]) == 0
    assert "12 normal images of 1 product: can 12" in capsys.readouterr().out
    for place in (tmp_path / "ad2", folder):
        assert main(["evaluate", str(model), str(place)]) == 0
        said = capsys.readouterr().out
        assert "4 images, 2 of them anomalies" in said and "AUPRO" in said
        assert is_labelled(place)


# output


def test_whole_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["table.csv"]


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "table.csv"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond 1000 bytes
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"), whole_file(path) as part:
            part.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError, match="'another.png'"), whole_file(path):
        (tmp_path / "another.png").touch()
        raise OSError(2, "No such file", "another.png")
    assert os.listdir(tmp_path) == ["another.png"]


def test_heat_is_half_at_the_threshold():
    scale = HeatScale(typical=1.0, threshold=3.0)
    assert scale.heat([0.0, 1.0, 3.0, 7.0]).tolist() == pytest.approx([0, 0, 1 / 2, 2 / 3])
    assert HeatScale(2.0, 2.0).heat([1.0, 2.0, 3.0]) == pytest.approx([0, 0, 1], abs=0.01)
    grey = np.full((2, 2), 0.5)
    assert overlay(grey, np.zeros((2, 2))).tolist() == np.full((2, 2, 3), 128).tolist()


@pytest.mark.once
def test_a_region_of_interest_is_fitted_and_scored(products, tmp_path, capsys):
    some = products / "stripe/train/good/00.png"
    size = Image.open(some).size
    white = np.zeros(size[::-1], dtype=np.uint8)
    white[: size[1] // 2] = 255
    masks = tmp_path / "masks"
    masks.mkdir()
    for product in ("checker", "stripe"):
        Image.fromarray(white).save(masks / f"{product}.png")
    fitted = {}
    for name, roi in {"one": masks / "stripe.png", "folder": masks}.items():
        arguments = ["fit", str(products), "--out", str(tmp_path / name), "--roi", str(roi)]
        assert main([*arguments, *SMALL]) == 0
        fitted[name] = HGADDetector.load(tmp_path / name)
        assert fitted[name].model_.roi.of_class == (0, 0)
        np.testing.assert_array_equal(fitted[name].model_.roi.masks[0], white > 0)
    changed = np.array(Image.open(some))
    changed[white == 0] = 255 - changed[white == 0]
    Image.fromarray(changed).save(tmp_path / "changed.png")
    capsys.readouterr()
    rows = []
    for path in (some, tmp_path / "changed.png"):
        assert main(["score", str(tmp_path / "one"), str(path)]) == 0
        rows.append(capsys.readouterr().out.splitlines()[1].split("\t")[1:])
    assert rows[0] == rows[1]
    everything = tmp_path / "all.png"
    Image.fromarray(np.full_like(white, 255)).save(everything)
    command = ["score", str(tmp_path / "one"), str(tmp_path / "changed.png")]
    assert main([*command, "--roi", str(everything)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t")[1:] != rows[1]
    (masks / "bolt.png").write_bytes((masks / "stripe.png").read_bytes())
    assert main([*command, "--roi", str(masks)]) == 2
    assert "bolt.png is named like none of the products" in capsys.readouterr().err
    assert main([*command, "--roi", str(tmp_path / "one")]) == 2
    assert "holds no mask" in capsys.readouterr().err


def run_module(*argv, before=()):
    # PYTHONPATH: the package under test, wherever pytest found it, and what goes before it.
    places = [*map(str, before), str(Path(skhgad.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(
        [sys.executable, "-m", "skhgad", *argv],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip


def test_the_module_runs():
    done = run_module("--version")
    assert (done.returncode, done.stdout) == (0, f"skhgad {skhgad.__version__}\n")


def test_ctrl_c_while_arguments_are_read(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.command_line.main.build_parser", interrupt)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "skhgad: interrupted\n"


def test_ctrl_c_while_torch_is_imported(tmp_path):
    """The first seconds; usage and --help do not need them."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    argv = ["fit", str(tmp_path), "--out", str(tmp_path / "model")]
    done = run_module(*argv, before=[tmp_path])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "skhgad: interrupted\n")
    assert run_module("fit", "--help", before=[tmp_path]).returncode == 0
    done = run_module("fit", before=[tmp_path])
    assert done.returncode == 2 and "--out" in done.stderr


@pytest.mark.once
def test_what_is_public_is_there_without_a_further_import():
    """And only that: a name that does not exist is an AttributeError."""
    code = (
        "import skhgad\n"
        "print(skhgad.metrics.unified_roc_auc.__name__, skhgad.HGADDetector.__name__,"
        " sorted(set(skhgad.__all__) - set(dir(skhgad))), hasattr(skhgad, 'nonsense'))"
    )
    place = str(Path(skhgad.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place}, check=True,
    )  # fmt: skip
    assert done.stdout == "unified_roc_auc HGADDetector [] False\n"
