"""The benchmark of pictures that change after the fit."""

import json

import numpy as np
import pytest
from small_pictures import fine_products, write

from benchmarks import changes
from benchmarks._data import Part


@pytest.fixture
def picture(tmp_path):
    """The path of a colour picture from 70 to 180, and its pixels."""
    rows, columns = np.mgrid[:256, :256]
    waves = [np.sin(rows * 0.15 + k) + np.sin(columns * 0.2) for k in range(3)]
    pixels = np.rint(125 + 27 * np.stack(waves, axis=2)).astype(np.uint8)
    return write(tmp_path / "a.png", pixels), pixels.astype(float)


def test_changes_are_as_large_as_they_are_called(picture):
    path, pixels = picture

    def gap(name):
        (found,) = changes.changed([path], name, np.random.default_rng(0))
        assert found.shape == pixels.shape and found.dtype == np.uint8
        return found - pixels

    assert not gap("none").any()
    assert gap("noise of 3 grey levels").std() == pytest.approx(3, abs=0.2)
    np.testing.assert_allclose(gap("10 % brighter"), 0.1 * pixels, atol=0.5)
    np.testing.assert_allclose(gap("10 % darker"), -0.1 * pixels, atol=0.5)
    slope = np.abs(np.diff(pixels, axis=0)).max() + np.abs(np.diff(pixels, axis=1)).max()
    assert 8 < np.abs(gap("moved by 1/64")).max() <= 4 * slope + 1
    for name in ("turned by 1.5 degrees", "blur of 1/256", "JPEG of quality 40"):
        assert gap(name).any() and np.abs(gap(name)).mean() < 10


def test_a_grey_picture_stays_grey_with_noise(tmp_path):
    path = write(tmp_path / "a.png", np.full((20, 20, 3), 100, dtype=np.uint8))
    (found,) = changes.changed([path], "noise of 3 grey levels", np.random.default_rng(0))
    assert (found == found[..., :1]).all() and found.std() > 2


@pytest.mark.once
def test_a_run(tmp_path, capsys, monkeypatch):
    images, labels = fine_products(60)
    images[50:, 4:20, 4:20] = 255
    paths = [str(write(tmp_path / f"{i}.png", pixels)) for i, pixels in enumerate(images)]
    paths = np.array(paths, dtype=object)
    part = Part(
        "toy", paths[:30], labels[:30], paths[30:], labels[30:], np.repeat([1, -1], [20, 10]),
        None, True,
    )  # fmt: skip
    monkeypatch.setattr(changes, "read_parts", lambda parser, args: [part])
    out = tmp_path / "out.json", tmp_path / "out.md"
    command = "--image-size 32 --set image_scales=(1.0,) --train 12"
    changes.main([*command.split(), "--json", str(out[0]), "--markdown", str(out[1])])
    runs = json.loads(out[0].read_text(encoding="utf-8"))["parts"]["toy"]
    assert list(runs) == ["none", '"slight"', '"mild"']
    for (record,) in runs.values():
        assert list(record["flagged"]) == list(changes.CHANGES)
        assert all(0 <= r["all"] <= r["worst"] <= 1 for r in record["flagged"].values())
    text = out[1].read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert "### toy, 1 seed" in text and "| JPEG of quality 40 |" in text
