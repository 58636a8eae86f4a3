"""How many threads compute, and that nobody else's setting changes."""

import threading
import time

import numpy as np
import pytest
import torch
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_info

from skhgad import HGADDetector
from skhgad.features.extractor import FeatureExtractor
from skhgad.features.reader import FeatureReader
from skhgad.images import ImageSource
from skhgad.threads import (
    computing,
    granted_threads,
    in_threads,
    matrix_libraries_on_one_thread,
    stepwise,
    torch_threads,
    worker_threads,
)


@pytest.fixture(autouse=True)
def two_threads():
    """Start each test with two threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    assert in_new_thread(torch.get_num_threads) == 2
    torch.set_num_threads(before)


def in_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def blas_threads():
    return [entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"]


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 2), (1, 1), (5, 5)])
def test_n_jobs_says_how_many(n_jobs, expected):
    assert granted_threads(n_jobs) == expected
    with computing(n_jobs):
        assert granted_threads() == granted_threads(7) == expected
        assert torch.get_num_threads() == 1
    assert granted_threads() == 2


def test_others_keep_their_number_of_threads():
    with torch_threads(1):
        assert torch.get_num_threads() == 1
        assert in_new_thread(torch.get_num_threads) == 2


def test_the_former_number_comes_back_after_an_error():
    with pytest.raises(KeyError), computing(3), torch_threads(3):
        raise KeyError
    assert granted_threads() == 2


def test_matrix_libraries_get_their_threads_back_whoever_leaves_first():
    before = blas_threads()
    leave, entered = threading.Event(), threading.Event()

    def stay():
        with matrix_libraries_on_one_thread():
            entered.set()
            leave.wait(60)

    with matrix_libraries_on_one_thread():
        assert set(blas_threads()) <= {1}
        other = threading.Thread(target=stay)
        other.start()
        entered.wait(60)
        assert set(blas_threads()) <= {1}
    leave.set()
    other.join()
    assert blas_threads() == before
    with matrix_libraries_on_one_thread():
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before


def test_results_come_in_order_from_threads_with_one_thread_of_torch():
    def slow_first(i):
        time.sleep(0.02 * (i == 0))
        return i, torch.get_num_threads(), granted_threads()

    assert list(in_threads(slow_first, range(5), 2)) == [(i, 1, 1) for i in range(5)]
    own = threading.current_thread()
    assert set(in_threads(lambda _: threading.current_thread(), range(3), 1)) == {own}


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_is_raised_where_its_result_is_due(n):
    results = in_threads(lambda i: 1 / (2 - i), range(9), n)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_is_not_begun_is_dropped():
    done = []
    with pytest.raises(KeyError), worker_threads(1) as workers:
        for i in range(50):
            workers.submit(lambda i=i: (time.sleep(0.01), done.append(i)))
        raise KeyError
    assert len(done) < 50


def test_a_generator_has_its_threads_in_its_steps_alone():
    def counts():
        while True:
            yield torch.get_num_threads(), granted_threads()

    for on_one, expected in ((True, (1, 4)), (False, (4, 4))):
        steps = stepwise(counts(), 4, on_one=on_one)
        assert [next(steps), next(steps)] == [expected] * 2
        assert torch.get_num_threads() == granted_threads() == 2
        steps.close()


@pytest.fixture(scope="module")
def source():
    return ImageSource(np.random.default_rng(0).integers(0, 256, (35, 33, 40, 3), np.uint8))


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(
        "tf_efficientnet_lite0", None, (1, 2), (33, 40), (1.0, 0.5), 1, True, 0.5
    )


def features(extractor, source, n_jobs, **others):
    reader = FeatureReader(extractor, n_jobs=n_jobs, **others)
    levels = zip(*(batch for batch, _ in reader.batches(source)), strict=True)
    return [torch.cat(level) for level in levels]


def test_features_do_not_depend_on_the_number_of_threads(extractor, source, tmp_path):
    expected = features(extractor, source, 1)
    assert len(expected[0]) == 35
    for n_jobs, memory in ((2, None), (3, tmp_path), (2, tmp_path)):
        found = features(extractor, source, n_jobs, memory=memory)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(("n_jobs", "n_threads"), [(1, 1), (3, 3)])
def test_n_jobs_threads_run_the_backbone(extractor, source, monkeypatch, n_jobs, n_threads):
    seen, meeting = set(), threading.Barrier(n_threads)
    original = FeatureExtractor.forward

    def forward(self, pixels):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meeting.wait(60)  # as many threads as n_jobs run at once, or this times out
        assert torch.get_num_threads() == 1
        return original(self, pixels)

    monkeypatch.setattr(FeatureExtractor, "forward", forward)
    features(extractor, source, n_jobs)
    assert len(seen) == n_threads


def test_batches_before_a_broken_image_are_complete(extractor):
    images = [np.zeros((33, 40, 3), np.uint8) for _ in range(64)]
    images[40] = np.full((33, 40), np.nan)
    batches = FeatureReader(extractor, n_jobs=2).batches(ImageSource(images))
    assert len(next(batches)[1]) == 32
    with pytest.raises(ValueError, match=r"X\[40\]"):
        next(batches)


def test_a_module_is_run_by_one_thread_on_whole_batches(source):
    calls = []

    class Own(torch.nn.Module):
        def forward(self, x):
            calls.append((len(x), threading.get_ident(), torch.get_num_threads()))
            return x

    module = FeatureExtractor(Own(), None, "auto", (33, 40), (1.0,), 1, False, 1.0)
    calls.clear()
    features(module, source, 3)
    assert calls == [(n, threading.get_ident(), 3) for n in (32, 3)]


def vectors():
    rng = check_random_state(0)
    return np.concatenate([rng.normal(0, 1, (40, 4)), rng.normal(6, 1, (40, 4))])


@pytest.mark.once
def test_a_fit_gives_the_same_with_one_thread_and_two():
    X, y = vectors(), np.repeat(["a", "b"], 40)
    one, two = (HGADDetector(n_jobs=n, random_state=0).fit(X, y) for n in (1, 2))
    np.testing.assert_allclose(one.score_samples(X), two.score_samples(X), rtol=1e-9)


@pytest.mark.once
def test_a_fit_on_images_gives_the_same_with_one_thread_and_two():
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    settings = {"weights": None, "image_size": 32, "max_features": 24, "random_state": 0}
    scores = [
        HGADDetector(**settings, n_jobs=n).fit(images, np.repeat(["a", "b"], 12))
        .score_samples(images)
        for n in (1, 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(*scores)


@pytest.mark.once
def test_a_failed_fit_gives_the_threads_back():
    def failing(step):
        assert torch.get_num_threads() == 1  # the steps are small
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        HGADDetector(max_iter=1, loss=failing, random_state=0).fit(vectors())
    assert granted_threads() == 2  # and see the fixture


def test_n_jobs_that_fit_refuses_is_named():
    with pytest.raises(ValueError, match="n_jobs"):
        HGADDetector(n_jobs=0).fit(vectors())
    with pytest.raises(TypeError, match="n_jobs"):
        HGADDetector(n_jobs="two").fit(vectors())
