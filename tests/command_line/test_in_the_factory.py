"""What happens to commands in a factory: broken pictures, odd folders, places, edited files."""

import json
import os
import re

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.command_line.report import is_labelled

pytestmark = pytest.mark.usefixtures("one_thread")


def said_by(capsys, status, *argv):
    """Run a command, which must end with `status`; return what it printed."""
    assert main([str(word) for word in argv]) == status
    return capsys.readouterr()


def test_a_broken_picture_stops_no_measurement(small_model, tmp_path, capsys):
    rng, root = np.random.default_rng(2), tmp_path / "parts"
    for i in range(3):
        write(root / "stripe/test/good" / f"{i}.png", draw(rng, "stripe"))
        write(root / "stripe/test/square" / f"{i}.png", draw(rng, "stripe", defect=True))
        mask = np.zeros((32, 32), np.uint8)
        mask[10:20, 10:20] = 255
        write(root / "stripe/ground_truth/square" / f"{i}_mask.png", mask)
    whole = said_by(capsys, 0, "evaluate", small_model, root, "--json", "-")
    assert json.loads(whole.out)["n_images"] == 6
    broken = [root / "stripe/test/good/0.png", root / "stripe/test/square/1.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:9])
    said = said_by(capsys, 3, "evaluate", small_model, root, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [figures[name] for name in ("n_images", "n_unreadable", "n_anomalies")] == [4, 2, 2]
    assert figures["pixel"]["pooled"]["auroc"] > 0.5
    assert figures["image"]["pooled"]["auroc"] == 1 and figures["class_found"] == 1
    assert "count nowhere: 2" in said.out and "2 of 6 images could not be read" in said.err
    assert all(f"skhgad: error: {path} cannot be read" in said.err for path in broken)
    report = said_by(capsys, 3, "report", small_model, root, "--out", tmp_path / "out")
    assert said.out in report.out
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "count nowhere: 2" in page and "good/1.png" in page and "good/0.png" not in page
    for path in root.rglob("*.png"):
        path.write_text("no image")
    for path in (root / "stripe/ground_truth").rglob("*.png"):
        write(path, mask)
    assert said_by(capsys, 3, "evaluate", small_model, root).out == ""
    assert not os.path.exists("-")


def test_a_strict_run_names_files_as_the_user_does(small_model, tmp_path, capsys):
    write(tmp_path / "a.png", draw(np.random.default_rng(2), "stripe"))
    (tmp_path / "b.png").touch()
    said = said_by(capsys, 2, "score", small_model, tmp_path, "--strict")
    assert f"error: {tmp_path / 'b.png'} is an empty file" in said.err and "X" not in said.err


def test_maps_of_paths_that_lead_upwards_stay_in_their_folder(
    small_model, tmp_path, capsys, monkeypatch
):
    rng = np.random.default_rng(2)
    for name in ("new/a.png", "old/b.png"):
        write(tmp_path / name, draw(rng, "stripe"))
    monkeypatch.chdir(tmp_path / "new")
    names = ["a.png", "../old/b.png"]
    said_by(capsys, 0, "score", small_model, *names, "--maps", "../out", "--masks", "../out")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")]
    assert sorted(files) == [
        "new/a.png", "old/b.png", "out/new/a.png.png", "out/new/a.png_mask.png",
        "out/old/b.png.png", "out/old/b.png_mask.png",
    ]  # fmt: skip


def test_thumbnails_of_systems_are_no_pictures_of_the_user(small_model, tmp_path, capsys):
    pixels, folder = draw(np.random.default_rng(2), "stripe"), tmp_path / "in"
    names = ["a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.png", "._a.png"]
    for name in names:
        write(folder / name, pixels)
    (folder / "Thumbs.db").write_bytes(b"x")
    said = said_by(capsys, 0, "score", small_model, folder)
    assert "of 1 images" in said.err and "warning" not in said.err
    log = tmp_path / "log.jsonl"
    said_by(capsys, 0, "watch", small_model, folder, "--log", log, "--once", "--settle", "0")
    assert [json.loads(line)["file"] for line in log.read_text().splitlines()] == ["a.png"]
    for name in ("stripe.png", "._stripe.png"):
        write(tmp_path / "roi" / name, np.full(pixels.shape[:2], 255, np.uint8))
    said_by(capsys, 0, "score", small_model, folder, "--roi", tmp_path / "roi")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_log_is_a_regular_file(small_model, tmp_path, capsys, monkeypatch):
    write(tmp_path / "in/a.png", draw(np.random.default_rng(2), "stripe"))
    monkeypatch.chdir(tmp_path)
    for log, reason in (("/dev/full", "no regular file"), ("-", "the log is a file")):
        said = said_by(capsys, 2, "watch", small_model, "in", "--log", log, "--once")
        assert reason in said.err
    assert os.listdir(tmp_path) == ["in"]


def test_pictures_that_a_model_knows_do_not_count_twice(small_model, tmp_path, capsys):
    """A folder of false alarms that grows is given to `update` again and again."""
    rng, folder = np.random.default_rng(8), tmp_path / "stripe"
    model, again = tmp_path / "model", tmp_path / "again"
    for i in range(8):
        write(folder / f"{i}.png", draw(rng, "stripe"))
    options = ["--class", "stripe", "--out"]
    said_by(capsys, 0, "update", small_model, folder, *options, model)
    said = said_by(capsys, 2, "update", model, folder, *options, again)
    assert f"8 of 8 samples, such as X[0] ({folder / '0.png'}), are left out" in said.err
    assert "the model knows all" in said.err and not again.exists()
    write(folder / "8.png", draw(rng, "stripe"))
    said = said_by(capsys, 0, "update", model, folder, *options, again)
    assert "8 of 9 samples" in said.err and re.search(r"stripe +20 -> 21", said.out)


def test_no_product_is_chosen_for_a_picture_of_none(small_model, tmp_path, capsys):
    rng, model, folder = np.random.default_rng(8), tmp_path / "model", tmp_path / "in"
    HGADDetector.load(small_model).set_params(unknown_rate=0.3).save(model)
    write(folder / "noise.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
    said_by(capsys, 0, "review", model, folder, "--out", tmp_path / "out")
    page = (tmp_path / "out/review.html").read_text(encoding="utf-8")
    chosen = re.findall(r"<option( value=\"\")? selected>(\w+)", page)
    assert chosen == [(' value=""', "choose")]  # a browser would take the first product


def test_a_hidden_folder_does_not_make_pictures_labelled_ones(tmp_path):
    for name in ("line/a.png", ".old/test/good/a.png"):
        write(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert not is_labelled(tmp_path)
    assert is_labelled(tmp_path / ".old")
