"""The demo on drawn cells in the place of elpv-dataset's, which the tests do not need."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from skhgad import HGADDetector
from skhgad.command_line import demo, demo_baseline, demo_data
from skhgad.command_line.main import main
from skhgad.metrics import image_metrics

pytestmark = pytest.mark.usefixtures("one_thread")
PARAMETERS = {"image_size": 64, "max_iter": 2, "n_blocks": 2}


def draw(rng, product, has_defect):
    """Return a striped (mono) or chequered (poly) cell (48, 48), with a white spot as defect."""
    row, column = np.mgrid[:48, :48]
    wave = np.sin(row / 2) if product == "mono" else np.sign(np.sin(row / 3) * np.sin(column / 3))
    cell = 100 + 40 * wave + rng.normal(0, 6, row.shape)
    center = rng.integers(14, 34, 2)
    if has_defect:
        cell[np.hypot(row - center[0], column - center[1]) < 8] = 255
    return np.clip(cell, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def cells():
    """As `demo_data.load_cells`: 20 sure normals, 6 sure defects, 2 unsure of each product."""
    rng = np.random.default_rng(2)
    rows = [
        (draw(rng, product, probability == 1), probability, product)
        for product in ("mono", "poly")
        for probability, n in ((0.0, 20), (1.0, 6), (1 / 3, 1), (2 / 3, 1))
        for _ in range(n)
    ]
    images, probability, product = map(np.array, zip(*rows, strict=True))
    return images, probability, product


def test_cells_are_split_without_overlap(cells):
    images, probability, product = cells
    # Every image tells its own index.
    tagged = np.zeros_like(images)
    tagged[:, 0, 0] = np.arange(len(images))
    split = demo_data.split_cells(tagged, probability, product, seed=0, n_train=10, n_test=5)
    train, test = split.train[:, 0, 0], split.test[:, 0, 0]
    assert len(set(train) | set(test)) == len(train) + len(test) == 2 * (10 + 5 + 5)
    assert (probability[train] == 0).all() and (product[train] == split.train_product).all()
    assert (np.where(probability[test] == 1, -1, 1) == split.test_y).all()
    assert set(probability[test]) == {0, 1} and (product[test] == split.test_product).all()
    assert split.counts["mono"] == dict(
        normal=20, defect=6, uncertain=2, train=10, test_normal=5, test_defect=5
    )
    other = demo_data.split_cells(tagged, probability, product, seed=1, n_train=10, n_test=5)
    assert set(other.train[:, 0, 0]) != set(train)
    said = demo_data.describe(split)
    assert "mono: fit on 10 normal cells, test on 5 normal and 5 defective ones" in said
    assert "2 of uncertain label" in said and ", 6 to save time" in said


def test_nearest_neighbours_by_brute_force(cells):
    split = demo_data.split_cells(*cells, seed=0, n_train=12, n_test=3)
    detector = HGADDetector(**PARAMETERS, pool_size=1, random_state=0).fit(
        split.train, split.train_product
    )
    scores = demo_baseline.nearest_neighbour_scores(detector, split, seed=0, bank_size=10**9)
    train, test = (
        np.concatenate([x.numpy() for x in demo_baseline._position_vectors(detector, images)])
        for images in (split.train, split.test)
    )
    bank = train.reshape(-1, train.shape[-1]).astype(float)
    distance = np.linalg.norm(test[:, :, None].astype(float) - bank, axis=-1)
    assert scores == pytest.approx(-distance.min(2).max(1), rel=1e-3)
    assert scores[split.test_y == -1].max() < scores[split.test_y == 1].min()


@pytest.mark.slow
def test_the_demo_from_end_to_end(cells, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_data, "load_cells", lambda: cells)
    monkeypatch.setattr(
        demo,
        "new_detector",
        lambda memory, seed: HGADDetector(**PARAMETERS, memory=memory, random_state=seed),
    )
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in said and "Buerhop" in said and "Deitsch" in said
    assert "read again, it gives the same scores" in said
    assert str(out / "model") in said and str(out / "detections.png") in said
    split = demo_data.split_cells(*cells, seed=3)
    scores = HGADDetector.load(out / "model").score_samples(split.test)
    figures = image_metrics(split.test_y, scores, split.test_product)
    row = next(line for line in said.splitlines() if "HGADDetector, defaults" in line)
    assert row.split()[-3:] == [
        f"{f.auroc:.3f}" for f in (*figures.per_class.values(), figures.pooled)
    ]
    with Image.open(out / "detections.png") as sheet:
        assert min(sheet.size) > 400 and len(sheet.convert("RGB").getcolors(2**24)) > 100
    assert sorted(os.listdir(out)) == ["detections.png", "model"]


def test_the_demo_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", None)
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("skhgad: error: ") and "Traceback" not in said
    assert 'pip install ".[demo]"' in said and "pip install elpv-dataset matplotlib" in said
    assert not list(tmp_path.iterdir())
