"""The log of verdicts is no place to lose anything: foreign files, deleted logs, clocks ahead."""

import json
import os
import time

import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.service.folder_watch import FolderWatch
from skhgad.service.held_model import HeldModel
from skhgad.service.verdict_log import VerdictLog

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.once]


def watching(model, folder, log):
    held = HeldModel(str(model), lambda: HGADDetector.load(model), print)
    return FolderWatch(folder, held, log, settle=0.0, patience=0.0, drift={})


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\nx", b"a,b", b"{\n", b"notes\n", b"[1]"])
def test_a_file_that_is_no_log_stays_as_it_is(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no (log|record) of skhgad"):
        VerdictLog(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"{", b'{"time": "20', b"\0\0\0\0"])
def test_what_a_crash_left_of_the_first_record_is_cut_off(content, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(content)
    with VerdictLog(path) as log:
        assert log.records == [] and path.read_bytes() == b""


def test_records_that_watch_does_not_write_are_refused_by_name(model, rng, tmp_path):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    write(folder / "0.png", draw(rng, "stripe"))
    with VerdictLog(log) as opened:
        watching(model, folder, opened).step()
    good = json.loads(log.read_text())
    for wrong in (
        {"name": "skhgad"},
        {"file": "a.png"},
        {**good, "score": None},
        {**good, "appearance": {}},
        {**good, "file": ["a"]},
    ):
        log.write_text(json.dumps(wrong) + "\n")
        with VerdictLog(log) as opened, pytest.raises(ValueError, match=r"log\.jsonl' holds what"):
            watching(model, folder, opened)
    log.write_text('{"event": "of a later version"}\n' + json.dumps(good) + "\n")
    with VerdictLog(log) as opened:
        assert watching(model, folder, opened).step() == []


@pytest.mark.skipif(os.name != "posix", reason="Windows deletes no open file")
def test_verdicts_do_not_vanish_with_a_deleted_log(model, rng, tmp_path):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    write(folder / "0.png", draw(rng, "stripe"))
    with VerdictLog(log) as opened:
        watched = watching(model, folder, opened)
        assert len(watched.step()) == 1
        write(folder / "1.png", draw(rng, "stripe"))
        log.rename(tmp_path / "log.1")  # as log rotation does: they go on into that file
        assert len(watched.step()) == 1
        (tmp_path / "log.1").unlink()
        write(folder / "2.png", draw(rng, "stripe"))
        with pytest.raises(ValueError, match="was deleted while it was in use"):
            watched.step()
    with VerdictLog(log) as opened:
        assert len(watching(model, folder, opened).step()) == 3


@pytest.mark.skipif(os.name != "posix", reason="the time of a change")
def test_an_unreadable_file_of_a_clock_that_is_ahead_is_reported(model, tmp_path):
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    folder.mkdir()
    (folder / "bad.png").write_text("x")
    os.utime(folder / "bad.png", (time.time() + 9e6,) * 2)
    argv = ["watch", model, folder, "--log", log, "--once", "--settle", "0", "--patience", "0"]
    assert main([str(word) for word in argv]) == 3
    assert json.loads(log.read_text())["verdict"] == "error"
