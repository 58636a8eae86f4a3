"""The command `validate`: an export that agrees, one that differs, and what is no export."""

import copy

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.report.export_check import Comparison, comparison_text
from skhgad.report.onnx_runtimes import open_file

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
    assert said.startswith("onnxruntime: 2 images\n") and said.endswith(
        "the file agrees with the model\n"
    )
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = str(write(tmp_path / "noise.png", noise))
    own = copy.copy(small_detector).set_params(unknown_rate=0.3)
    assert own.predict_class([path]).tolist() == ["unknown"]
    own.save(tmp_path / "own")  # the file has no such thing
    assert main(["validate", str(tmp_path / "own"), str(file), path]) == 0
    assert "another class: 0 images" in capsys.readouterr().out
    monkeypatch.setattr("skhgad.report.export_check.TOLERANCE", 0.0)
    assert main(argv) == 1 and "the file DIFFERS" in capsys.readouterr().out
    other = copy.copy(small_detector)
    other.class_offsets_ = {"stripe": -99.0}
    other.save(tmp_path / "other")
    assert main(["validate", str(tmp_path / "other"), str(file), str(folder)]) == 2
    assert "export it again" in capsys.readouterr().err
    assert main(["validate", str(small_model), str(tmp_path / "x.onnx"), str(folder)]) == 2
    assert "no ONNX file at" in capsys.readouterr().err
    (tmp_path / "x.onnx").write_bytes(b"no model")
    assert main(["validate", str(small_model), str(tmp_path / "x.onnx"), str(folder)]) == 2
    assert "is no ONNX file that onnxruntime can run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def enlarged(small_detector, tmp_path_factory):
    """Files of a model, and pictures of its size and of others."""
    root, rng = tmp_path_factory.mktemp("sizes"), np.random.default_rng(5)
    small_detector.to_onnx(root / "model.onnx")
    for i, (high, wide) in enumerate([(1, 1), (2, 3), (1, 1)]):
        write(root / f"in/{i}.png", np.kron(draw(rng, "stripe"), np.ones((high, wide, 1), "uint8")))
    return root


@pytest.mark.once
def test_openvino_says_the_same_from_the_first_picture_on(
    small_model, small_detector, enlarged, capsys
):
    pytest.importorskip("openvino", reason="openvino is not installed: the extra openvino has it")
    argv = ["validate", str(small_model), str(enlarged / "model.onnx"), str(enlarged / "in")]
    assert main([*argv, "--runtime", "all"]) == 0
    said = capsys.readouterr().out
    assert said.count("the file agrees with the model\n") == 2 and "\nopenvino: 3 images" in said
    argv[2] = str(enlarged / "in/0.png")
    assert main([*argv, "--runtime", "openvino"]) == 2
    assert "is no ONNX file that openvino can run" in capsys.readouterr().err


@pytest.mark.once
def test_openvino_runs_two_scales_and_vectors(tmp_path):
    """Equal scores where the images are seen at two scales; of vectors, up to single precision."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    rng = np.random.default_rng(0)
    labels = ["a", "stripe"] * 6
    images = [draw(rng, label) for label in labels]
    detector = HGADDetector(image_size=64, random_state=0).fit(images, labels)
    detector.to_onnx(tmp_path / "model.onnx")
    opened = open_file(tmp_path / "model.onnx", "openvino")
    assert opened.of_file("classes") == ["a", "stripe"]
    found = detector.inspect(images, maps=True)
    for _ in range(2):
        score, index, maps = opened.run(np.stack(images))
        assert score == pytest.approx(found.score, rel=1e-3, abs=1e-3)
        assert detector.classes_[index].tolist() == found.class_label.tolist()
        assert maps == pytest.approx(np.stack(found.maps), rel=1e-3, abs=1e-3)
    X = rng.normal(size=(60, 3))
    vectors = HGADDetector(random_state=0).fit(X, ["a", "b"] * 30)
    vectors.to_onnx(tmp_path / "vectors.onnx")
    single = {"INFERENCE_PRECISION_HINT": "f32"}  # not bfloat16, where the processor has it
    found = openvino.compile_model(tmp_path / "vectors.onnx", "CPU", single)({"features": X})
    assert found["score"] == pytest.approx(vectors.score_samples(X), rel=1e-3, abs=1e-3)


def test_every_difference_counts():
    same = Comparison(3, 1e-6, 1e-5, [], [])
    assert same.agrees
    for change in ({"score": 0.1}, {"anomaly_map": 0.1}, {"other_class": ["a"]},
                   {"other_verdict": ["b"]}):  # fmt: skip
        assert not same._replace(**change).agrees
    assert "another verdict: 1 images, e.g. b" in comparison_text(
        same._replace(other_verdict=["b"])
    )
