"""The command line through `main(argv)`, on a folder of two drawn products.

The model is fitted once, by the command itself, with settings small enough for a test.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skhgad
from skhgad import HGADDetector
from skhgad.command_line import score
from skhgad.command_line.arguments import chosen_parameters
from skhgad.command_line.main import build_parser, main
from skhgad.datasets import load_folder
from skhgad.display.heat_maps import HeatScale, overlay
from skhgad.metrics import image_metrics, pixel_metrics
from skhgad.report import findings
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
        "12 normal images: stripe 12" in said and "3 images of train/ are known anomalies" in said
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
    args = argparse.Namespace(**dict.fromkeys(names))
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
    "argv", [[], ["fit", "a"], ["fit", "a", "--out", "b", "--image-size", "2x"], ["paint"]]
)
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and "usage: skhgad" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(products, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.fitting.fit.train_levels", interrupt)
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
    assert list(rows[0]) == ["path", "class", "score", "p_value", "verdict"]
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


def test_files_of_any_name(products, model, detector, tmp_path, capsys):
    names = ["ä ö.png", "模 型.png", "a\tb.png", "-x.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff\xfe.png"))  # no valid text
    (tmp_path / "ü b").mkdir()
    for name in names:
        shutil.copy(products / "stripe/test/blob/0.png", tmp_path / "ü b" / name)
    maps, table = tmp_path / "karten ü", tmp_path / "tabelle ä.csv"
    argv = ["score", model, tmp_path / "ü b", "--maps", maps, "--csv", table]
    assert main([str(word) for word in argv]) == 0
    assert sorted(os.listdir(maps)) == sorted(f"{name}.png" for name in names)
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(str(tmp_path / "ü b" / n) for n in names)
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
    said = refusal(
        capsys, "score", model, products / "stripe/test/good", broken, "--csv", tmp_path / "t.csv"
    )
    assert f"error: {broken} cannot be read as an image" in said
    assert "X[" not in said and not (tmp_path / "t.csv").exists()
    said = refusal(capsys, "score", model, broken, "--csv", tmp_path / "no" / "t.csv")
    assert "--csv" in said and "there is no folder" in said


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


def test_evaluate_names_unknown_classes(products, model, tmp_path, capsys):
    root = tmp_path / "products"
    shutil.copytree(products, root)
    shutil.copytree(root / "stripe", root / "dots")
    said = refusal(capsys, "evaluate", model, root)
    assert "['dots']" in said and "['checker', 'stripe']" in said and "--classes" in said
    assert main(["evaluate", str(model), str(root), "--classes", "stripe"]) == 0
    assert "checker" not in capsys.readouterr().out


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


def test_ctrl_c_while_torch_is_imported(tmp_path):
    """The first seconds; usage and --help do not need them."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    argv = ["fit", str(tmp_path), "--out", str(tmp_path / "model")]
    done = run_module(*argv, before=[tmp_path])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "skhgad: interrupted\n")
    assert run_module("fit", "--help", before=[tmp_path]).returncode == 0
    done = run_module("fit", before=[tmp_path])
    assert done.returncode == 2 and "--out" in done.stderr


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
