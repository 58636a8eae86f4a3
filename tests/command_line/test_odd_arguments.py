"""Arguments of an odd size or kind, odd folders and a closed standard output."""

import os
import sys

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.arguments import image_paths
from skhgad.command_line.main import main
from skhgad.datasets.recognition import recognise

pytestmark = pytest.mark.usefixtures("one_thread")


def status_of(*words):
    try:
        return main([str(word) for word in words])
    except SystemExit as error:
        return error.code


@pytest.fixture
def picture(tmp_path):
    return write(tmp_path / "in/a.png", draw(np.random.default_rng(0), "stripe"))


@pytest.mark.parametrize("option", ["--settle", "--interval", "--patience"])
def test_more_seconds_than_the_clock_takes_are_wrong_usage(option, picture, capsys):
    words = ["watch", "model", picture.parent, "--log", picture.parent / "log"]
    assert status_of(*words, option, "1e300") == 2
    assert "no number of seconds up to a year" in capsys.readouterr().err


def test_a_port_beyond_the_last_is_wrong_usage(capsys):
    assert status_of("serve", "model", "--port", "65536") == 2
    assert "the largest is 65535" in capsys.readouterr().err


def test_words_that_an_option_took_are_told(capsys):
    assert status_of("fit", "--classes", "bolt", "parts", "--out", "model") == 2
    assert "FOLDER (put --classes, --decisions, --false-alarm-rate last" in capsys.readouterr().err
    assert status_of("score", "--false-alarm-rate", "0.01", "model", "new") == 2
    assert "all words after this option are its own" in capsys.readouterr().err
    assert status_of("forget", "model") == 2
    assert capsys.readouterr().err.endswith("required: NAME\n")


def test_more_threads_than_a_machine_can_start_are_refused(small_model, picture, capsys):
    assert status_of("score", small_model, picture, "--n-jobs", "999999") == 2
    assert "n_jobs" in capsys.readouterr().err
    with pytest.raises(ValueError, match="n_jobs"):
        HGADDetector.load(small_model).set_params(n_jobs=999_999).predict([picture])


def test_a_dry_run_checks_the_parameters(picture, capsys):
    words = ["fit", picture.parent, "--dry-run"]
    assert status_of(*words) == 0
    for wrong in ("max_iter=abc", "tile_size=0", "image_scales=()", "value_range=(1,0)"):
        assert status_of(*words, "--set", wrong) == 2
        assert wrong.partition("=")[0] in capsys.readouterr().err


def test_a_product_needs_a_name(small_model, picture, tmp_path, capsys):
    words = ["add-class", small_model, picture.parent, "--out", tmp_path / "new", "--name"]
    assert status_of(*words, "") == 2 == status_of(*words, " ")
    assert "--name is empty" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="links to folders")
def test_links_to_folders_are_named_and_folders_that_cannot_be_read_refused(picture, monkeypatch):
    folder = picture.parent
    os.symlink(folder, folder / "loop")
    os.symlink(picture, folder / "b.png")
    os.symlink("nowhere.png", folder / "d.png")
    os.mkfifo(folder / "pipe.png")
    write(folder / "deep/c.png", draw(np.random.default_rng(0), "stripe"))
    with pytest.warns(UserWarning, match=r"links to folders \(1\), e.g. .*loop: not followed"):
        paths, _ = image_paths([str(folder)])
    assert paths == [str(folder / name) for name in ("a.png", "b.png", "d.png", "deep/c.png")]
    scandir = os.scandir

    def refusing(place):
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="deep"):
        image_paths([str(folder)])


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_that_lead_nowhere_are_rows_of_errors(small_model, picture, tmp_path, capsys):
    os.symlink("nowhere.png", picture.parent / "b.png")
    os.symlink("c.png", picture.parent / "c.png")
    assert status_of("score", small_model, picture.parent, "--masks", tmp_path / "masks") == 3
    verdicts = [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [verdict == "error" for verdict in verdicts] == [False, True, True]
    assert os.listdir(tmp_path / "masks") == ["a.png_mask.png"]
    assert recognise(picture.parent) is None


def test_closed_standard_output_and_errors_are_no_error(
    small_model, picture, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert status_of("score", small_model, picture, "--csv", tmp_path / "out.csv") == 0
    assert "a.png" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize("left_over", ["model", "--model"])
def test_what_a_command_does_not_know_shows_its_own_usage(left_over, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "folder", left_over])
    written = capsys.readouterr().err
    assert caught.value.code == 2 and f"unrecognized arguments: {left_over}" in written
    assert "usage: skhgad fit" in written and "--out MODEL" in written
