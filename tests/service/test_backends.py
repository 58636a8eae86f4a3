"""Calls in several processes: in order, errors raised, and made again where a worker dies."""

import asyncio
import sys

import calls
import joblib
import pytest

from skhgad.service.backends import Backend, _checked

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers."""
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture(params=["joblib", "dask"])
def backend(request):
    if request.param == "dask":
        return Backend("dask", scheduler=request.getfixturevalue("cluster").scheduler_address)
    return Backend("joblib", 2)


def test_results_come_in_order(backend):
    assert list(backend.map(calls.slow_for_even, range(9))) == list(range(9))
    assert list(backend.map(calls.square, [])) == []


def test_an_error_of_a_call_is_raised(backend):
    found = []
    with pytest.raises(OverflowError, match="three"):
        for result in backend.map(calls.raise_at_three, range(9)):
            found.append(result)
    assert found == [0, 1, 2][: len(found)]  # joblib may end at once


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_backend_of_joblib_may_be_chosen_that_yields_nothing_meanwhile():
    """Such as that of Ray, which is derived from this one."""
    with joblib.parallel_config(backend="multiprocessing"):
        results = list(Backend("joblib", 2).map(calls.square_and_process, range(40)))
    assert [square for square, _ in results] == [i**2 for i in range(40)]
    assert len({process for _, process in results}) <= 2  # each would read the model again


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_call_of_a_worker_that_is_killed_is_made_again(backend, tmp_path):
    assert list(backend.map(calls.KillsOnce(tmp_path), range(40))) == list(range(40))
    assert (tmp_path / "killed").exists()
    made = (tmp_path / "calls").read_text().split()
    assert len(made) < 60  # and not all calls again


def test_a_result_that_was_fetched_counts_even_if_its_worker_died_since():
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    assert _checked("lost", 3, "item", distributed) == 3
    with pytest.raises(KeyError):
        _checked("error", (KeyError, KeyError("a"), None), "item", distributed)
    with pytest.raises(asyncio.CancelledError):
        _checked("cancelled", asyncio.CancelledError(), "item", distributed)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_call_that_kills_every_worker_is_named(backend, request, monkeypatch):
    if backend.name == "dask":  # whose workers start slowly
        scheduler = request.getfixturevalue("cluster").scheduler
        monkeypatch.setattr(scheduler, "allowed_failures", 0)
    # dask also counts a call that waits at the worker that dies.
    named = r"\d" if backend.name == "dask" else "5"
    results = backend.map(calls.kill_at_five, range(9))
    with pytest.raises(RuntimeError, match=rf"and again, at last by the call with {named}:"):
        list(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spark",), "backend must be one of .* got 'spark'"),
        (("joblib", 0), "n_workers must be at least 1, got 0"),
        (("joblib", 1.5), "n_workers must be None or an int, got 1.5"),
        (("joblib", None, "tcp://a:1"), "scheduler='tcp://a:1' needs backend='dask'"),
        (("dask", 2, "tcp://a:1"), "n_workers=2: the workers are those of scheduler='tcp://a:1'"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Backend(*arguments)


def test_all_workers_together_use_the_cores(monkeypatch):
    assert Backend("dask", scheduler="tcp://a:1").n_threads == 1
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    assert Backend("joblib").n_threads == 1
    assert Backend("dask", 3).n_threads == 2
    assert Backend("joblib", 20).n_threads == 1


def test_dask_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"needs dask.*pip install .*\[dask\]"):
        list(Backend("dask", 1).map(calls.square, [1]))
