"""``--roi`` on the commands that inspect and learn: what counts, exit statuses and messages."""

import json
import shutil

import numpy as np
import pytest
from backbones import RandomFilters
from fastapi.testclient import TestClient
from PIL import Image
from small_pictures import SIDE, draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import build_parser, main
from skhgad.command_line.serve import build
from skhgad.report import contents, findings

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.once]
LEFT = np.zeros((SIDE, SIDE), dtype=np.uint8)
LEFT[:, :9] = 255  # defects lie at the columns 10 to 19
PRODUCTS = ("check", "stripe")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Products to fit and to test on, a model, and masks: of the left, by product, and bad ones."""
    root, rng = tmp_path_factory.mktemp("roi"), np.random.default_rng(0)
    for product in PRODUCTS:
        folder = root / "products" / product
        for i in range(10):
            write(folder / "train/good" / f"{i}.png", draw(rng, product))
        for i in range(3):
            write(folder / "test/good" / f"{i}.png", draw(rng, product))
            write(folder / "test/square" / f"{i}.png", draw(rng, product, defect=True))
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[10:20, 10:20] = 255
            write(folder / "ground_truth/square" / f"{i}_mask.png", mask)
        write(root / "masks" / f"{product}.png", LEFT)
        for i in range(5):
            write(root / "more" / product / f"{i}.png", draw(rng, product))
    write(root / "left.png", LEFT)
    write(root / "small.png", LEFT[:8, :8])
    write(root / "empty.png", np.zeros_like(LEFT))
    write(root / "unknown" / "bolt.png", LEFT)
    (root / "nothing").mkdir()
    options = ["--image-size", "64", "--set", "image_scales=(1.0,)"]
    assert main(["fit", str(root / "products"), "--out", str(root / "model"), *options]) == 0
    return root


@pytest.fixture(scope="module")
def commands(place):
    """Arguments of each command; what changes a model writes another."""
    model = str(place / "model")
    tested, more = str(place / "products"), str(place / "more" / "stripe")
    out = ["--out", str(place / "out")]
    return {
        "evaluate": ["evaluate", model, tested],
        "report": ["report", model, tested, *out, "--top", "1"],
        "explain": ["explain", model, str(place / "products/stripe/test/square/0.png")],
        "update": ["update", model, more, "--class", "stripe", *out],
        "add-class": ["add-class", model, more, "--name", "bolt", *out],
    }


ALL = ("evaluate", "report", "explain", "update", "add-class")


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("nowhere.png", "nowhere.png' does not exist"),
        ("small.png", "has 8 x 8 pixels (height x width), but"),
        ("empty.png", "is empty: no pixel"),
        ("nothing", "nothing holds no mask: name them like the products"),
        ("unknown", "bolt.png is named like none of the products"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(place, commands, command, mask, message, capsys):
    if command == "add-class" and mask == "unknown":
        pytest.skip("the mask of the new product")
    shutil.rmtree(place / "out", ignore_errors=True)
    # a picture that does not fit is one that cannot be read, after which these go on
    goes_on = command in ("explain", "evaluate", "report") and mask == "small.png"
    expected = 3 if goes_on else 2
    assert main([*commands[command], "--roi", str(place / mask)]) == expected
    said = capsys.readouterr().err
    assert message in said and "X[" not in said
    assert any(line.startswith("skhgad: error") for line in said.splitlines()[-2:])
    assert not (place / "out").exists()


def test_evaluate_measures_what_lies_inside(place, commands, tmp_path, capsys):
    figures = {}
    for roi in (None, place / "left.png", place / "masks"):
        file = tmp_path / "figures.json"
        option = [] if roi is None else ["--roi", str(roi)]
        assert main([*commands["evaluate"], "--json", str(file), *option]) == 0
        figures[roi] = json.loads(file.read_text())["image"]
    whole, one, by_product = figures.values()
    assert whole["mean"]["auroc"] == 1 and one["mean"]["auroc"] < 0.95
    assert by_product == one


def test_explain_finds_nothing_outside(commands, place, capsys):
    found = []
    for option in ([], ["--roi", str(place / "left.png")]):
        assert main([*commands["explain"], "--json", "-", *option]) == 0
        said = capsys.readouterr()
        assert ("this model was not fitted with --roi" in said.err) == bool(option)
        found.append(json.loads(said.out)[0])
    assert found[0]["peak_position"][1] >= 9 > found[1]["peak_position"][1]
    assert found[1]["score"] > found[0]["score"]


def test_report_draws_the_region(commands, place, monkeypatch, capsys):
    drawn = []
    display = contents.AnomalyMapDisplay
    monkeypatch.setattr(
        contents, "AnomalyMapDisplay", lambda **given: drawn.append(given) or display(**given)
    )
    assert main([*commands["report"], "--roi", str(place / "masks")]) == 0
    assert (place / "out" / "report.html").exists() and drawn
    for given in drawn:
        np.testing.assert_array_equal(given["roi"], LEFT > 0)
    said = capsys.readouterr().out
    assert main(commands["report"]) == 0
    assert capsys.readouterr().out != said and drawn[-1]["roi"] is None
    shutil.rmtree(place / "out")


def test_update_learns_what_lies_inside(commands, place, tmp_path):
    models = []
    for name in ("clean", "noisy"):
        folder = tmp_path / name
        shutil.copytree(place / "more" / "stripe", folder)
        if name == "noisy":
            for path in folder.iterdir():
                pixels = np.array(Image.open(path))
                pixels[LEFT == 0] = 255 - pixels[LEFT == 0]
                Image.fromarray(pixels).save(path)
        out, model = str(tmp_path / f"{name} model"), str(place / "model")
        arguments = [model, str(folder), "--class", "stripe", "--out", out]
        assert main(["update", *arguments, "--roi", str(place / "masks")]) == 0
        models.append(HGADDetector.load(out))
    assert models[0].model_.roi is None  # as at fit
    states = [model.model_.model.state_dict() for model in models]
    before = HGADDetector.load(place / "model").model_.model.state_dict()
    assert all((states[0][name] == states[1][name]).all() for name in before)
    assert any((states[0][name] != before[name]).any() for name in before)


def test_add_class_keeps_the_region_of_the_product(commands, place):
    for roi in (place / "left.png", place / "unknown"):  # which holds bolt.png
        assert main([*commands["add-class"], "--roi", str(roi)]) == 0
        detector = HGADDetector.load(place / "out")
        assert detector.classes_.tolist() == ["bolt", *PRODUCTS]
        assert detector.model_.roi.of_class == (0, -1, -1)
        np.testing.assert_array_equal(detector.model_.roi.masks[0], LEFT > 0)
        shutil.rmtree(place / "out")


def test_a_model_that_sees_tiles_has_a_report(place, tmp_path):
    images = np.stack([draw(np.random.default_rng(i), "stripe") for i in range(8)])
    detector = HGADDetector(
        RandomFilters((8, 4), (10, 2)), out_indices=(0, 1), image_size=16, tile_size=16,
        random_state=0,
    ).fit(images)  # fmt: skip
    paths = [str(write(tmp_path / f"{i}.png", images[i])) for i in range(4)]
    rows, groups = contents.collect(
        detector, enumerate(findings.inspect_files(detector, paths, maps=True)), tmp_path, None, 1
    )
    titles = [p.title for p in contents.draw_pictures(detector, paths, rows, None)]
    assert titles == ["Scores", "Drift"] and len(groups) == 1


def test_watch_and_serve_look_inside(place, tmp_path):
    model, mask = str(place / "model"), str(place / "left.png")
    folder = place / "products/stripe/test/square"
    logs = []
    for number, option in enumerate(([], ["--roi", mask])):
        log = tmp_path / f"{number}.jsonl"
        how = ["--once", "--settle", "0", "--log", str(log)]
        assert main(["watch", model, str(folder), *how, *option]) == 0
        logs.append([json.loads(line) for line in log.read_text().splitlines()])
    whole, left = ({record["file"]: record for record in log} for log in logs)
    assert whole.keys() == left.keys()
    for name, record in left.items():
        assert record["peak_position"][1] < 9 <= whole[name]["peak_position"][1]
    # The evidence of drift of one region says nothing of another.
    assert whole["0.png"]["model"] != left["0.png"]["model"]
    args = build_parser().parse_args(["serve", model, "--port", "0", "--roi", mask])
    app = build(args, None)
    with TestClient(app) as client, open(folder / "0.png", "rb") as file:
        client.base_url = "http://localhost"
        (answer,) = client.post("/score", files={"files": file}).json()["images"]
    assert answer["score"] == pytest.approx(left["0.png"]["score"], rel=1e-3)
