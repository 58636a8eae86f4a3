"""The command `watch`: each file once in the log, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import draw, write

import skhgad
from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.command_line.watch import _Report
from skhgad.images.appearance import STATISTICS, appearance_of
from skhgad.report.verdicts import FIELDS
from skhgad.service.folder_watch import FolderWatch
from skhgad.service.held_model import HeldModel
from skhgad.service.verdict_log import VerdictLog

pytestmark = pytest.mark.usefixtures("one_thread")


def records_of(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def watch(model, folder, log, *more):
    argv = ["watch", model, folder, "--log", log, "--once", "--settle", "0", *more]
    return main([str(word) for word in argv])


def test_every_file_once_with_its_verdict(model, detector, rng, tmp_path, capsys):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    for i in range(3):
        write(folder / f"{i}.png", draw(rng, "stripe"))
    write(folder / "deep/bad.PNG", draw(rng, "checker", defect=True))
    write(folder / ".hidden/x.png", draw(rng, "checker"))
    (folder / "notes.txt").write_text("x")
    assert watch(model, folder, log) == 0
    records = records_of(log)
    assert [r["file"] for r in records] == ["0.png", "1.png", "2.png", "deep/bad.PNG"]
    paths = [str(folder / r["file"]) for r in records]
    assert [r["path"] for r in records] == paths and set(FIELDS) < set(records[0])
    assert [r["score"] for r in records] == pytest.approx(detector.score_samples(paths), rel=1e-4)
    assert records[3]["verdict"] == "anomaly" and records[3]["regions"]
    assert all(r["drift"]["alarm"] is None and r["drift"]["evidence"] > 0 for r in records)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4 and "deep/bad.PNG\tchecker\t" in out
    assert watch(model, folder, log) == 0  # nothing new
    assert capsys.readouterr().out == "" and len(records_of(log)) == 4
    write(folder / "1.png", draw(rng, "checker"))  # written again: another picture
    os.utime(folder / "1.png", ns=(1, 1))
    assert watch(model, folder, log) == 0
    assert [r["file"] for r in records_of(log)[4:]] == ["1.png"]
    evidence = records_of(log)[-1]["drift"]["evidence"]
    assert watch(model, folder, log, "--reset-drift") == 0
    assert records_of(log)[-1]["event"] == "drift reset" and evidence != 1


def test_half_written_files_are_waited_for(model, rng, tmp_path):
    content = write(tmp_path / "whole.png", draw(rng, "stripe")).read_bytes()
    (tmp_path / "in").mkdir()
    half, log = tmp_path / "in/a.png", tmp_path / "log.jsonl"
    held = HeldModel(str(model), lambda: HGADDetector.load(model), print)
    with VerdictLog(log) as opened:
        watched = FolderWatch(tmp_path / "in", held, opened, settle=0.0, patience=60.0, drift={})
        half.write_bytes(b"")
        assert watched.step() == []
        half.write_bytes(content[:100])
        assert watched.step() == [] and watched.step() == []
        half.write_bytes(content)
        (record,) = watched.step()
        assert record["verdict"] in ("normal", "anomaly") and record["size"] == len(content)
        half.unlink()  # deleted: no error
        (tmp_path / "in/gone.png").symlink_to(half)
        assert watched.step() == []
        (tmp_path / "in/gone.png").unlink()
        watched.settle = 60.0
        half.write_bytes(content)
        assert watched.step() == []  # too young
        watched.settle, watched.patience = 0.0, 0.0
        (tmp_path / "in/broken.png").write_bytes(content[:100])
        first, second = sorted(watched.step(), key=lambda record: record["file"])
        assert first["file"] == "a.png" and second["verdict"] == "error"
        assert "cannot be read" in second["error"] and second["score"] is None
    assert len(records_of(log)) == 3


def test_what_cannot_be_read_is_in_the_log_and_in_the_exit_status(model, rng, tmp_path, capsys):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    write(folder / "good.png", draw(rng, "stripe"))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "gone.png").symlink_to(tmp_path / "deleted.png")
    assert watch(model, folder, log) == 0  # of the others, nothing is said for so long
    assert [record["file"] for record in records_of(log)] == ["good.png"]
    assert watch(model, folder, log, "--patience", "0") == 3
    errors = {record["file"]: record["error"] for record in records_of(log)[1:]}
    assert errors.keys() == {"broken.png", "gone.png"} and "deleted.png" not in errors["broken.png"]
    assert "gone.png" in errors["gone.png"] and errors["gone.png"] in capsys.readouterr().err
    assert watch(model, folder, log, "--patience", "0") == 0  # once in the log
    write(tmp_path / "deleted.png", draw(rng, "stripe"))  # another file now
    assert watch(model, folder, log) == 0
    assert [(r["file"], r["verdict"]) for r in records_of(log)[3:]] == [("gone.png", "normal")]


def test_of_many_files_each_chunk_is_told_and_a_new_model_goes_on(model, rng, tmp_path):
    own, folder = shutil.copytree(model, tmp_path / "model"), tmp_path / "in"
    for i in range(20):
        write(folder / f"{i:02}.png", draw(rng, "checker"))
    held = HeldModel(str(own), lambda: HGADDetector.load(own), print)
    with VerdictLog(tmp_path / "log.jsonl") as log:
        watched = FolderWatch(folder, held, log, settle=0.0, patience=60.0, drift={})
        looks = watched.look()
        assert [record["class"] for record in next(looks)] == ["checker"] * 16
        other = HGADDetector(image_size=32, image_scales=(1,), random_state=0)
        other.fit([draw(rng, "checker") for _ in range(8)], ["lid"] * 8).save(own)
        assert [record["class"] for record in next(looks)] == ["lid"] * 4
        assert next(looks, None) is None and watched.monitor.n_seen_ == 4


def test_a_folder_that_vanishes_is_told_and_waited_for(model, rng, tmp_path, capsys):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    write(folder / "a.png", draw(rng, "stripe"))
    held = HeldModel(str(model), lambda: HGADDetector.load(model), print)

    def look():
        report._show(watched.step())
        return capsys.readouterr().err

    with VerdictLog(log) as opened:
        watched = FolderWatch(folder, held, opened, settle=0.0, patience=60.0, drift={})
        report = _Report(watched)
        assert look() == ""
        away = folder.rename(tmp_path / "away")
        assert "in cannot be read (No such file or directory)" in look() and look() == ""
        write(away / "b.png", draw(rng, "stripe"))
        away.rename(folder)
        assert "in can be read again." in look() and look() == ""
        # A share that is unmounted leaves an empty folder of another file system.
        folder.rename(away)
        folder.mkdir()
        assert look() == ""
        watched._device = -1
        assert "in cannot be read (another file system lies there" in look() and look() == ""
        write(folder / "c.png", draw(rng, "stripe"))
        assert "in can be read again." in look() and look() == ""
    assert [record["file"] for record in records_of(log)] == ["a.png", "b.png", "c.png"]


def test_a_torn_line_is_mended_and_the_log_is_locked(model, rng, tmp_path, capsys):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    for i in range(3):
        write(folder / f"{i}.png", draw(rng, "stripe"))
    watch(model, folder, log)
    whole = log.read_bytes()
    for torn in (whole[:-1], whole[: -len(whole) // 4], whole + b"{}x\n"):
        log.write_bytes(torn)
        watch(model, folder, log)
        assert sorted(r["file"] for r in records_of(log)) == ["0.png", "1.png", "2.png"]
    capsys.readouterr()
    with VerdictLog(log):
        assert watch(model, folder, log) == 2
    assert "another process is writing" in capsys.readouterr().err
    log.write_bytes(b"no record\n" + whole)
    assert watch(model, folder, log) == 2
    assert "line 1 of" in capsys.readouterr().err and log.read_bytes().endswith(whole)
    assert watch(model, tmp_path / "no", log) == 2
    assert "no folder at" in capsys.readouterr().err


def test_drift_is_the_same_after_a_restart_and_warns(model, detector, rng, tmp_path, capsys):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    for i in range(45):
        picture = draw(rng, "stripe").astype(int) + 90 * (i >= 25)  # 25 normal, 20 bright ones
        write(folder / f"{i:02}.png", np.clip(picture, 0, 255).astype(np.uint8))
        os.utime(folder / f"{i:02}.png", (i, i))
    half = folder.rename(tmp_path / "later")
    limit = ("--drift-probability", "0.4")
    for names in (range(16), range(16, 45)):  # two processes, of whole chunks
        for i in names:
            folder.mkdir(exist_ok=True)
            shutil.copy2(half / f"{i:02}.png", folder)
        watch(model, folder, log, *limit)
    (tmp_path / "at once").mkdir()
    watch(model, half, tmp_path / "at once/log.jsonl", *limit)
    apart, at_once = records_of(log), records_of(tmp_path / "at once/log.jsonl")
    assert [r["file"] for r in apart] == [r["file"] for r in at_once]
    assert [r["drift"] for r in apart] == [r["drift"] for r in at_once]
    assert apart[-1]["drift"]["alarm"]["evidence"] >= 2.5
    assert "the scores of stripe are lower than at the fit" in capsys.readouterr().err
    assert appearance_of(np.asarray(Image.open(half / "30.png"))) == pytest.approx(
        list(apart[30]["appearance"].values())
    )
    assert list(apart[0]["appearance"]) == list(STATISTICS)


def test_the_burn_in_only_joins_the_reference(model, rng, tmp_path):
    log = tmp_path / "log.jsonl"
    for i in range(4):
        write(tmp_path / f"in/{i}.png", draw(rng, "stripe"))
        os.utime(tmp_path / f"in/{i}.png", (i, i))
    watch(model, tmp_path / "in", log, "--drift-burn-in", "3")
    evidence = [record["drift"]["evidence"] for record in records_of(log)]
    assert evidence[:3] == [1, 1, 1] and evidence[3] != 1


def test_a_log_of_an_older_version_goes_on(model, rng, tmp_path):
    log = tmp_path / "log.jsonl"
    write(tmp_path / "in/0.png", draw(rng, "stripe"))
    watch(model, tmp_path / "in", log)
    (record,) = records_of(log)
    del record["appearance"]
    log.write_text(json.dumps(record) + "\n")
    write(tmp_path / "in/1.png", draw(rng, "stripe"))
    assert watch(model, tmp_path / "in", log) == 0
    assert [r["file"] for r in records_of(log)] == ["0.png", "1.png"]


def test_a_replaced_model_is_read_again(model, detector, rng, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    said = []
    held = HeldModel(str(own), lambda: HGADDetector.load(own), said.append)
    assert not held.refresh()
    first, identity = held.detector, held.identity
    other = HGADDetector(image_size=32, image_scales=(1,), random_state=0)
    other.fit([draw(rng, "stripe") for _ in range(8)]).save(own)
    assert held.refresh() and held.detector is not first and held.identity != identity
    before = held.detector
    (own / "model.safetensors").write_bytes(b"damaged")
    assert not held.refresh() and held.detector is before and "damaged" in said[0]
    assert not held.refresh() and len(said) == 1  # said once
    (own / "model.safetensors").unlink()
    assert not held.refresh() and "no model any more" in said[1]


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill_at_any_moment_loses_and_doubles_nothing(model, rng, tmp_path):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    content = write(tmp_path / "a.png", draw(rng, "stripe")).read_bytes()
    folder.mkdir()
    for i in range(120):
        (folder / f"{i:03}.png").write_bytes(content)
    place = str(Path(skhgad.__file__).parents[1])
    argv = [sys.executable, "-m", "skhgad", "watch", model, folder, "--log", log, "--settle", "0"]
    process = subprocess.Popen(
        list(map(str, argv)), env={**os.environ, "PYTHONPATH": place}, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while (not log.exists() or not log.stat().st_size) and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < log.read_bytes().count(b"\n") < 120  # it was at work
    assert watch(model, folder, log) == 0
    assert [r["file"] for r in records_of(log)] == [f"{i:03}.png" for i in range(120)]
