"""Where commands write: to standard output, and never over images or another command's work."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector, estimator
from skhgad.command_line.arguments import image_paths
from skhgad.command_line.main import main
from skhgad.service.verdict_log import VerdictLog
from skhgad.storage import detector_state
from skhgad.storage.files import whole_file

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def picture(tmp_path):
    return write(tmp_path / "in/a.png", draw(np.random.default_rng(0), "stripe"))


def test_csv_and_jsonl_on_standard_output_are_the_files(
    small_model, picture, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["score", str(small_model), str(picture.parent)]
    for option, read in (("--csv", csv.reader), ("--jsonl", lambda lines: map(json.loads, lines))):
        assert main([*command, option, "file"]) == 0
        capsys.readouterr()
        assert main([*command, option, "-"]) == 0
        assert list(read(capsys.readouterr().out.splitlines())) == list(
            read((tmp_path / "file").read_text().splitlines())
        )
    assert not (tmp_path / "-").exists()
    assert main([*command, "--csv", "-", "--jsonl", "-"]) == 2
    assert main([*command, "--backend", "joblib", "--jsonl", "-"]) == 2


def test_no_output_replaces_an_image_or_another_output(
    small_model, picture, tmp_path, capsys, monkeypatch
):
    """``--csv *.png`` made a table of the first image."""
    monkeypatch.chdir(tmp_path)
    before = picture.read_bytes()
    scored = [str(small_model), str(picture)]
    odd = write(tmp_path / "odd.png", draw(np.random.default_rng(0), "dots")).rename("odd.camera")
    for words in (
        ["score", *scored, "--csv", str(picture)],
        ["score", *scored, "--sheet", str(picture)],
        ["score", str(small_model), str(picture.parent), "--sheet", "in/sheet.png"],
        ["score", *scored, str(odd), "--jsonl", str(odd)],
        ["score", *scored, "--csv", "out", "--jsonl", "./out"],
        ["explain", *scored, "--json", str(picture)],
        ["evaluate", str(small_model), str(picture.parent), "--json", str(picture)],
        ["export", *scored],
        ["watch", str(small_model), str(picture.parent), "--log", str(picture)],
    ):
        assert main(words) == 2, words
        assert "choose" in capsys.readouterr().err
    assert picture.read_bytes() == before and os.listdir("in") == ["a.png"]
    assert sorted(os.listdir()) == ["in", "odd.camera"]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="pipes by name")
def test_a_pipe_by_the_name_of_its_descriptor_is_written_to():
    reader, writer = os.pipe()
    with whole_file(f"/dev/fd/{writer}") as place:
        place.write_text("whole")
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == "whole"


def test_a_folder_of_many_images_is_searched_in_linear_time(tmp_path):
    def seconds(n_images):
        folder = tmp_path / str(n_images)
        folder.mkdir()
        for k in range(n_images):
            (folder / f"{k}.png").touch()
        (folder / "z.txt").touch()
        start = time.process_time()
        with pytest.warns(UserWarning, match="no images"):
            assert len(image_paths([str(folder)])[0]) == n_images
        return time.process_time() - start

    seconds(10)
    assert seconds(1600) < 40 * seconds(100)  # 256 if it were quadratic


def test_a_model_inside_a_model_is_refused(small_model, capsys):
    command = ["forget", str(small_model), "stripe", "--out"]
    assert main([*command, str(small_model / "new")]) == 2
    assert "lies in the model" in capsys.readouterr().err
    assert not (small_model / "new").exists()


def test_no_command_undoes_what_another_did_meanwhile(
    small_detector, picture, tmp_path, capsys, monkeypatch
):
    """Two `add-class` at once: the model knew one of the two products."""
    model = tmp_path / "model"
    small_detector.save(model)
    add_class = HGADDetector.add_class

    def slow_add_class(detector, *args, **options):
        monkeypatch.undo()
        assert main(["add-class", str(model), str(picture.parent), "--name", "first"]) == 0
        return add_class(detector, *args, **options)

    monkeypatch.setattr(HGADDetector, "add_class", slow_add_class)
    assert main(["add-class", str(model), str(picture.parent), "--name", "second"]) == 2
    assert "changed meanwhile" in capsys.readouterr().err
    classes = HGADDetector.load(model).classes_.tolist()
    assert "first" in classes and "second" not in classes


def test_two_commands_that_end_at_the_same_time_are_not_both_done(
    small_detector, picture, tmp_path, capsys, monkeypatch
):
    """The last to save won, where both had looked whether the model was changed, and it was not."""
    model = tmp_path / "model"
    small_detector.save(model)
    pack = detector_state.pack

    def slow_pack(detector):
        monkeypatch.undo()
        assert main(["add-class", str(model), str(picture.parent), "--name", "first"]) == 0
        return pack(detector)

    monkeypatch.setattr(detector_state, "pack", slow_pack)
    monkeypatch.setattr(estimator, "pack", slow_pack)
    assert main(["update", str(model), str(picture.parent), "--class", "stripe"]) == 2
    assert "changed meanwhile" in capsys.readouterr().err
    assert "first" in HGADDetector.load(model).classes_.tolist()


def test_ctrl_c_that_an_import_swallows_is_an_interruption(small_model, capsys, monkeypatch):
    """numpy's import makes an ImportError of it."""

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("numpy._core.umath failed to import") from None

    monkeypatch.setattr("skhgad.command_line.forget.run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        assert main(["forget", str(small_model), "stripe"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "skhgad: interrupted\n"


def test_a_log_that_was_cut_has_no_zeros_after_a_full_disk(tmp_path, monkeypatch):
    """As ``copytruncate`` of logrotate cuts it."""
    path = tmp_path / "log"
    with VerdictLog(path) as log:
        log.append([{"file": "a"}])
        os.truncate(path, 0)
        with monkeypatch.context() as patch:

            def full(number):
                raise OSError(28, "No space left on device")

            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                log.append([{"file": "b"}])
        assert path.read_bytes() == b""
        log.append([{"file": "c"}])
    with VerdictLog(path) as log:
        assert log.records == [{"file": "c"}]


def test_an_export_to_a_full_disk_does_not_blame_the_backbone(
    small_model, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("onnx", reason="onnx is not installed")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.onnx.export", full)
    assert main(["export", str(small_model), str(tmp_path / "model.onnx")]) == 2
    said = capsys.readouterr().err
    assert "model.onnx" in said and "backbone" not in said
