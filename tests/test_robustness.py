"""Threads, worker processes, and Ctrl-C at every stage."""

import gc
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import skhgad
from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.report import findings

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(3000, 32))
IMAGES = RNG.random((24, 32, 32, 3))
TIMEOUT = 120  # seconds until a worker counts as hanging


class Pool(nn.Module):
    """A backbone of two pooled copies of the image."""

    def forward(self, x):
        return [nn.functional.avg_pool2d(x, 4), nn.functional.avg_pool2d(x.tanh(), 8)]


def small(**parameters):
    defaults = {
        "backbone": Pool(), "out_indices": (0, 1), "fuse_stages": False, "image_size": 32,
        "max_iter": 2, "n_blocks": 2, "position_channels": 4, "random_state": 0,
    }  # fmt: skip
    return HGADDetector(**{**defaults, **parameters})


@pytest.fixture(autouse=True)
def interruptible():
    """Let Ctrl-C work, here and in child processes: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def of_vectors():
    return small().fit(VECTORS[:300])


@pytest.fixture(scope="module")
def of_images():
    return small(n_jobs=2).fit(IMAGES)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- threads


def test_threads_score_at_once(of_vectors, of_images):
    loaded = small().fit(VECTORS[:300])  # nobody has used it yet
    jobs = [
        (of_vectors.score_samples, VECTORS),
        (loaded.score_samples, VECTORS),
        (of_images.score_samples, IMAGES),
        (of_images.anomaly_maps, IMAGES),
        (of_images.p_values, list(IMAGES)),
    ]
    expected = [method(X) for method, X in jobs]
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(*job) for _ in range(4) for job in jobs]
        for future, wanted in zip(futures, expected * 4, strict=True):
            np.testing.assert_array_equal(future.result(TIMEOUT), wanted)


# ---------------------------------------------------------------- processes


def score_in_worker(queue, *jobs):
    queue.put(np.concatenate([detector.score_samples(X) for detector, X in jobs]))


def fit_in_worker(queue, detector, X):
    queue.put(np.isfinite(detector.fit(X).score_samples(X)).all())


def result_of_worker(start_method, work, *arguments):
    if start_method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs {start_method}")
    context = multiprocessing.get_context(start_method)
    queue = context.SimpleQueue()
    worker = context.Process(target=work, args=(queue, *arguments), daemon=True)
    worker.start()
    deadline = time.monotonic() + TIMEOUT
    while queue.empty() and worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    hangs = queue.empty() and worker.is_alive()
    result = None if queue.empty() else queue.get()
    worker.terminate()
    worker.join()
    assert not hangs, "the worker hangs"
    return result


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.once
def test_workers_score_the_same(of_vectors, of_images, start_method, two_threads):
    jobs = (of_vectors, VECTORS), (of_images, IMAGES)  # images are read with threads
    # By now OpenMP has its threads, which a fork loses.
    expected = [detector.score_samples(X) for detector, X in jobs]
    found = result_of_worker(start_method, score_in_worker, *jobs)
    np.testing.assert_allclose(found[: len(VECTORS)], expected[0], rtol=1e-9)
    np.testing.assert_allclose(found[len(VECTORS) :], expected[1], rtol=1e-4)


@pytest.mark.slow
def test_forked_workers_fit(of_vectors, two_threads):
    of_vectors.score_samples(VECTORS)
    assert result_of_worker("fork", fit_in_worker, small(), VECTORS)


def test_a_process_that_was_not_forked_keeps_its_threads(of_vectors, two_threads):
    of_vectors.score_samples(VECTORS)
    assert torch.get_num_threads() == 2


# Fits and scores in joblib's own kind of process: the grid search of test_estimator.py.
@pytest.mark.parametrize("backend", ["multiprocessing", "threading"])
def test_joblib_workers_score_the_same(of_vectors, backend):
    expected = of_vectors.score_samples(VECTORS)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        parts = joblib.Parallel(timeout=TIMEOUT)(
            joblib.delayed(of_vectors.score_samples)(part) for part in np.array_split(VECTORS, 4)
        )
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-9)


# ---------------------------------------------------------------- Ctrl-C


def interrupt_call(monkeypatch, place, number=1, with_signal=signal.SIGINT):
    """Press Ctrl-C in the `number`-th call of the function at `place`, "module.function"."""
    module, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(module)
    true, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            signal.raise_signal(with_signal)
        return true(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("skhgad.images.ImageSource.read", 5),
        ("skhgad.features.extractor.FeatureExtractor.forward", 1),
        ("skhgad.fitting.feature_cache._reserve", 2),
        ("skhgad.fitting.feature_cache.FeatureCache.write", 1),
        ("skhgad.fitting.recipe.build_level", 2),
        ("skhgad.fitting.training.level_loss", 3),
        ("skhgad.fitting.recipe.fit_covariances", 1),
        ("skhgad.fitting.calibrate.fit_normalizers", 1),
        ("skhgad.fitting.calibrate.fit_class_scales", 1),
        ("skhgad.fitting.calibrate.threshold", 1),
    ],
)
def test_ctrl_c_in_fit_keeps_the_earlier_fit(tmp_path, monkeypatch, place, number, n_jobs):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    detector = small(n_jobs=n_jobs, cache_budget=0).fit(VECTORS[:50])
    scores, n_threads = detector.score_samples(VECTORS[:50]), threading.active_count()
    interrupt_call(monkeypatch, place, number)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(IMAGES)
    assert os.listdir(tmp_path) == []
    np.testing.assert_array_equal(detector.score_samples(VECTORS[:50]), scores)
    assert detector.n_features_in_ == 32
    gc.collect()  # the traceback, which holds what was under way
    assert threading.active_count() <= n_threads
    assert np.isfinite(detector.fit(IMAGES).score_samples(IMAGES)).all()


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_ctrl_c_in_scoring_changes_nothing(of_images, monkeypatch, n_jobs):
    detector = small(n_jobs=n_jobs).fit(IMAGES)
    scores = detector.score_samples(IMAGES)
    with monkeypatch.context() as patched:
        interrupt_call(patched, "skhgad.images.ImageSource.read", 5)
        with pytest.raises(KeyboardInterrupt):
            detector.score_samples(IMAGES)
    np.testing.assert_array_equal(detector.score_samples(IMAGES), scores)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "products"
    for name in ("train/good", "test/good", "test/bad"):
        (root / "wood" / name).mkdir(parents=True)
        for i in range(12 if "train" in name else 4):
            image = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            image.save(root / "wood" / name / f"{i}.png")
    return root


FIT = ["--image-size", "32", "--set", "max_iter=1", "--set", "n_blocks=1"]


@pytest.fixture(scope="module")
def model(products, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    assert main(["fit", str(products), "--out", str(folder), *FIT]) == 0
    return folder


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "place", ["skhgad.fitting.training.level_loss", "skhgad.storage.files.os.replace"]
)
def test_a_command_that_is_told_to_end_leaves_no_temporary_files(
    products, tmp_path, monkeypatch, name, place
):
    if not hasattr(signal, name):
        pytest.skip("not a signal of this system")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    interrupt_call(monkeypatch, place, with_signal=number)
    out = str(tmp_path / "model")
    with pytest.raises(SystemExit) as caught:
        main(["fit", str(products), "--out", out, *FIT, "--set", "cache_budget=0"])
    assert caught.value.code == 128 + number
    # Of torch, by the first optimiser of a process, in the folder for temporary files.
    left = [name for name in os.listdir(tmp_path) if not name.startswith("torchinductor_")]
    assert left == []
    assert signal.getsignal(number) is before


def test_a_command_keeps_ignoring_what_its_caller_ignores(model, tmp_path, capsys, monkeypatch):
    """As under nohup."""
    number = getattr(signal, "SIGHUP", signal.SIGTERM)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        interrupt_call(monkeypatch, "skhgad.command_line.score.run", with_signal=number)
        with pytest.raises(SystemExit) as caught:
            main(["--version"])
        assert caught.value.code == 0
        assert main(["score", str(tmp_path), str(tmp_path)]) == 2
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("skhgad.features.reader.iter_batches", 1),
        ("skhgad.display.heat_maps.write_heat_map", 3),
        ("skhgad.storage.files.os.replace", 4),
        ("skhgad.command_line.score.write_csv", 1),
        ("csv.writer", 1),
    ],
)
def test_ctrl_c_in_score_leaves_whole_files_only(
    products, model, tmp_path, capsys, monkeypatch, place, number
):
    monkeypatch.setattr(findings, "_CHUNK", 2)
    interrupt_call(monkeypatch, place, number)
    maps, table = tmp_path / "maps", tmp_path / "table.csv"
    images = str(products / "wood/test")
    argv = ["score", str(model), images, "--maps", str(maps), "--csv", str(table)]
    assert main(argv) == 130
    assert capsys.readouterr().err.endswith("skhgad: interrupted\n")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.suffix == ".png" and path.name[0] != "." for path in files)
    for path in files:
        with Image.open(path) as image:
            image.load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [("skhgad.images.ImageSource.read", 5), ("skhgad.storage.files.os.replace", 1)],
)
def test_ctrl_c_in_report_leaves_the_older_page(
    products, model, tmp_path, capsys, monkeypatch, place, number
):
    pytest.importorskip("matplotlib")
    argv = ["report", str(model), str(products), "--out", str(tmp_path / "out"), "--top", "0"]
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patched:
        interrupt_call(patched, place, number)
        assert main(argv) == 130
    assert capsys.readouterr().err.endswith("skhgad: interrupted\n")
    assert os.listdir(tmp_path / "out") == []
    assert main(argv) == 0
    before = (tmp_path / "out/report.html").read_bytes()
    interrupt_call(monkeypatch, place, number)
    assert main(argv) == 130
    assert os.listdir(tmp_path / "out") == ["report.html"]
    assert (tmp_path / "out/report.html").read_bytes() == before


def test_ctrl_c_in_evaluate_leaves_no_file(products, model, tmp_path, monkeypatch):
    interrupt_call(monkeypatch, "json.dumps")
    assert main(["evaluate", str(model), str(products), "--json", str(tmp_path / "f.json")]) == 130
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["os.fsync", "skhgad.storage.files.os.replace"])
def test_ctrl_c_in_saving_a_fit_leaves_nothing(products, tmp_path, monkeypatch, call):
    interrupt_call(monkeypatch, call)
    assert main(["fit", str(products), "--out", str(tmp_path / "model"), *FIT]) == 130
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "ends"),
    [(signal.SIGINT, (130, "skhgad: interrupted\n")), (signal.SIGTERM, (143, ""))],
)
@pytest.mark.once
def test_a_signal_at_the_command_line(products, tmp_path, number, ends):
    (tmp_path / "tmp").mkdir()
    argv = ["fit", products, "--out", tmp_path / "model", "--n-jobs", 2, "--image-size", 32]
    argv += ["--set", "cache_budget=0", "--set", "max_iter=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "skhgad", *map(str, argv)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(skhgad.__file__).parents[1]),
            "TMPDIR": str(tmp_path / "tmp"),
            "PYTHONUNBUFFERED": "1",
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "12 normal images" in process.stdout.readline()  # it is about to fit
        time.sleep(2)
        process.send_signal(number)
        said = process.communicate(timeout=TIMEOUT)[1]
    finally:
        process.kill()
    # Python ends by the signal itself, 130 to a shell, where it hit an exec() of text.
    status = 130 if process.returncode == -signal.SIGINT else process.returncode
    assert (status, said) == ends
    assert os.listdir(tmp_path) == ["tmp"] and os.listdir(tmp_path / "tmp") == []
