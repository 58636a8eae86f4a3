"""Many files scored in several processes: as one process does, and resumable."""

import csv
import json
import os
import shutil

import joblib
import numpy as np
import pytest
import torch
from small_pictures import draw, write

import skhgad
from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.report import findings
from skhgad.report.findings import findings_of
from skhgad.report.verdicts import FIELDS, verdict_record
from skhgad.service import many_files
from skhgad.service.backends import Backend
from skhgad.service.many_files import Job, kept, scored_into
from skhgad.service.verdict_log import VerdictLog

pytestmark = pytest.mark.usefixtures("one_thread")
PAIR = 2  # files at a time: the last digits of scores depend on it
HERE = {"n_workers": 1}  # joblib then calls in this process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine pictures, of which one is an anomaly and one cannot be read."""
    folder, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(2)
    for i in range(8):
        write(folder / f"{i}.png", draw(rng, ("stripe", "checker")[i % 2], defect=i == 5))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def expected(small_detector, paths):
    """What one process says of the same pairs of files."""
    found = [
        finding
        for first in range(0, len(paths), PAIR)
        for finding in findings_of(small_detector, paths[first : first + PAIR], reasons=True)
    ]
    return [verdict_record(finding, small_detector) for finding in found]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(many_files, "CHUNK", PAIR)
    monkeypatch.setattr(findings, "_CHUNK", PAIR)
    yield
    many_files._held.clear()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_same(found, expected):
    assert [{name: record[name] for name in FIELDS} for record in found] == expected


def test_records_come_in_order_and_are_those_of_one_process(small_model, paths, expected):
    found = skhgad.score_files(small_model, paths, **HERE)
    check_same(found, expected)
    assert [r["verdict"] for r in found].count("anomaly") == 1
    assert found[-1]["verdict"] == "error" and "broken.png" in found[-1]["error"]
    assert [r["size"] for r in found] == [os.path.getsize(path) for path in paths]
    assert set(found[0]) == {*expected[0], "size", "mtime_ns", "model"}


@pytest.mark.once
@pytest.mark.parametrize("backend", ["joblib", "dask"])
def test_two_workers_say_what_one_process_says(small_model, paths, expected, backend, tmp_path):
    if backend == "dask":
        pytest.importorskip("distributed", reason="the extra dask is not installed")
    out = tmp_path / "out.jsonl"
    n_threads = torch.get_num_threads()
    skhgad.score_files(small_model, paths, backend=backend, n_workers=2, out=out)
    check_same(lines_of(out), expected)
    assert torch.get_num_threads() == n_threads
    if backend == "joblib":
        joblib.externals.loky.get_reusable_executor().shutdown()


def test_a_process_reads_the_model_once(small_model, paths, monkeypatch):
    loads, load = [], HGADDetector.load
    monkeypatch.setattr(HGADDetector, "load", lambda folder: loads.append(folder) or load(folder))
    skhgad.score_files(small_model, paths, **HERE)
    assert len(loads) == 2  # by the caller, and by the worker for its five chunks
    skhgad.score_files(small_model, paths, **HERE, false_alarm_rate=0.5)
    assert len(loads) == 3  # another threshold needs no other model


def test_arguments_count(small_model, small_detector, paths, folder):
    found = skhgad.score_files(small_model, paths, **HERE, class_label="stripe")
    labels = ["stripe"] * 8
    assert [r["class"] for r in found[:8]] == labels
    assert [r["score"] for r in found[:8]] == pytest.approx(
        small_detector.score_samples(paths[:8], class_labels=labels), rel=1e-4
    )
    (more,) = skhgad.score_files(small_model, paths[:1], **HERE, false_alarm_rate=0.5)
    assert more["threshold"] > small_detector.offset_
    region = np.zeros((32, 32), dtype=bool)
    region[:8] = True
    (outside,) = skhgad.score_files(small_model, paths[5:6], **HERE, roi=region)
    assert outside["score"] == pytest.approx(
        small_detector.score_samples(paths[5:6], roi=region)[0], rel=1e-4
    )


def test_an_interrupted_run_goes_on_where_it_was(small_model, paths, expected, tmp_path):
    out = tmp_path / "out.jsonl"
    detector = HGADDetector.load(small_model)
    with VerdictLog(out, keep=kept) as log:
        running = scored_into(log, Job.of(small_model, detector), paths, Backend(**HERE))
        next(running), next(running)
        running.close()
    assert len(lines_of(out)) == 4
    with open(out, "a") as file:  # killed while it wrote
        file.write('{"path": "/x')
    seen = []
    original = many_files.records_of

    def noted(job, chunk):
        seen.extend(chunk)
        return original(job, chunk)

    many_files.records_of = noted
    try:
        assert skhgad.score_files(small_model, [*paths, paths[0]], out=out, **HERE) is None
    finally:
        many_files.records_of = original
    assert seen == paths[4:]
    check_same(lines_of(out), expected)
    skhgad.score_files(small_model, paths, out=out, **HERE)
    assert len(lines_of(out)) == 9


def test_a_file_that_is_written_again_is_scored_again(small_model, folder, tmp_path):
    path, out = tmp_path / "a.png", tmp_path / "out.jsonl"
    shutil.copy(folder / "0.png", path)
    skhgad.score_files(small_model, [path], out=out, **HERE)
    shutil.copy(folder / "5.png", path)
    os.utime(path, ns=(1, 1))
    skhgad.score_files(small_model, [path], out=out, **HERE)
    assert [record["verdict"] for record in lines_of(out)] == ["normal", "anomaly"]


def test_a_log_of_something_else_is_refused(small_model, paths, tmp_path):
    out = tmp_path / "out.jsonl"
    skhgad.score_files(small_model, paths[:2], out=out, **HERE)
    for other in (
        {"false_alarm_rate": 0.3}, {"class_label": "stripe"}, {"roi": np.ones((32, 32), bool)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="holds verdicts of another model, or with other"):
            skhgad.score_files(small_model, paths, out=out, **HERE, **other)
    assert len(lines_of(out)) == 2
    out.write_text('{"path": "a.png"}\n')  # of score --jsonl without --backend
    with pytest.raises(ValueError, match="holds verdicts of another model, or with other"):
        skhgad.score_files(small_model, paths, out=out, **HERE)


def test_a_model_that_is_replaced_meanwhile_is_noticed(small_model, paths, tmp_path):
    model = shutil.copytree(small_model, tmp_path / "model")
    job = Job.of(model, HGADDetector.load(model))._replace(model="another")
    with pytest.raises(ValueError, match="holds another model than when the run began"):
        many_files.records_of(job, paths[:1])


def test_what_cannot_be_used_is_named(small_model, paths, tmp_path):
    with pytest.raises(TypeError, match="wrap it in a list"):
        skhgad.score_files(small_model, str(paths[0]))
    with pytest.raises(ValueError, match="class_label='lid' is none of the classes"):
        skhgad.score_files(small_model, paths, class_label="lid")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        skhgad.score_files(tmp_path / "none", paths)
    HGADDetector(max_iter=0).fit(np.random.default_rng(0).normal(size=(20, 3))).save(tmp_path / "v")
    with pytest.raises(ValueError, match="was fitted on feature vectors"):
        skhgad.score_files(tmp_path / "v", paths)
    (missing,) = skhgad.score_files(small_model, [tmp_path / "no.png"], **HERE)
    assert missing["verdict"] == "error" and missing["size"] is None


# ---------------------------------------------------------------- skhgad score --backend


def same(record, other):
    """In a batch of another size the last digit may be another, and so the place of a flat peak."""
    for key in ("score", "peak"):
        if other.get(key):
            assert float(record.pop(key)) == pytest.approx(float(other.pop(key)), rel=1e-6)
    places = dict.fromkeys(("peak_position", "reason"))
    return record | places == other | places


def score(*words):
    return main(["score", *map(str, words), "--backend", "joblib", "--workers", "1"])


def test_the_command_prints_and_writes_what_it_does_without_backend(
    small_model, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    folder = folder.name  # a relative path
    plain, many, out = (tmp_path / name for name in ("plain.csv", "many.csv", "out.jsonl"))
    assert main(["score", str(small_model), str(folder), "--csv", str(plain)]) == 3
    printed = capsys.readouterr()
    assert score(small_model, folder, "--csv", many, "--jsonl", out) == 3
    again = capsys.readouterr()
    assert (again.out, again.err) == (printed.out, printed.err)
    assert many.read_text() == plain.read_text()
    first = out.read_text().splitlines(keepends=True)
    out.write_text("".join(first[:5]))
    assert score(small_model, folder, "--csv", many, "--jsonl", out, "--fail-on-anomaly") == 1
    resumed = capsys.readouterr()
    lines = out.read_text().splitlines(keepends=True)
    assert lines[:5] == first[:5]
    for line, before in zip(lines, first, strict=True):
        assert same(json.loads(line), json.loads(before))
    assert "5 images are in" in resumed.err and "1 of 8 images are anomalies" in resumed.err
    assert len(resumed.out.splitlines()) == 1 + 4
    with many.open() as file, plain.open() as other:
        for row, before in zip(csv.DictReader(file), csv.DictReader(other), strict=True):
            assert same(row, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers needs --backend"),
        (["--scheduler", "tcp://a:1"], "--scheduler needs --backend"),
        (["--backend", "joblib", "--scheduler", "tcp://a:1"], "--scheduler needs --backend dask"),
        (["--backend", "dask", "--workers", "2", "--scheduler", "a"], "--workers: the workers are"),
        (["--backend", "joblib", "--maps", "maps"], "--maps does not go with --backend"),
        (["--backend", "joblib", "--strict"], "--strict does not go with --backend"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, message, capsys):
    assert main(["score", "model", "images", *options]) == 2
    assert message in capsys.readouterr().err
