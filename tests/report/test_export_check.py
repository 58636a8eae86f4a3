"""The command `validate`: an export that agrees, one that differs, and what is no export."""

import copy

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad.command_line.main import main
from skhgad.report.export_check import Comparison, comparison_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("new"), np.random.default_rng(5)
    write(root / "good.png", draw(rng, "stripe"))
    write(root / "bad.png", draw(rng, "checker", defect=True))
    return root


@pytest.mark.once
def test_an_export_is_compared_on_pictures(
    small_model, small_detector, folder, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "model.onnx"
    small_detector.to_onnx(file)
    argv = ["validate", str(small_model), str(file), str(folder)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "2 images\n" in said and said.endswith("the file agrees with the model\n")
    monkeypatch.setattr("skhgad.report.export_check.TOLERANCE", 0.0)
    assert main(argv) == 1 and "the file DIFFERS" in capsys.readouterr().out
    other = copy.copy(small_detector)
    other.class_offsets_ = {"stripe": -99.0}
    other.save(tmp_path / "other")
    assert main(["validate", str(tmp_path / "other"), str(file), str(folder)]) == 2
    assert "export it again" in capsys.readouterr().err
    (tmp_path / "x.onnx").write_bytes(b"no model")
    assert main(["validate", str(small_model), str(tmp_path / "x.onnx"), str(folder)]) == 2
    assert "is no ONNX file that onnxruntime can run" in capsys.readouterr().err


def test_every_difference_counts():
    same = Comparison(3, 1e-6, 1e-5, [], [])
    assert same.agrees
    for change in ({"score": 0.1}, {"anomaly_map": 0.1}, {"other_class": ["a"]},
                   {"other_verdict": ["b"]}):  # fmt: skip
        assert not same._replace(**change).agrees
    assert "another verdict: 1 images, e.g. b" in comparison_text(
        same._replace(other_verdict=["b"])
    )
