"""Calls of a function in several processes, here or on other machines, with results in order."""

from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import joblib
from joblib.parallel import get_active_backend

from ..version import needing

BACKENDS = ("joblib", "dask")
_MOST_LOSSES = 3  # workers lost in a row without a result; dask allows as many for one call
_ROUND = 8  # calls a worker, between two looks at what they gave
_AHEAD = 3  # calls for each thread of a cluster that are under way at once


class Backend:
    """Worker processes that joblib or dask runs.

    Parameters
    ----------
    name : {"joblib", "dask"}, default="joblib"
        "joblib": processes of this machine, or what ``joblib.parallel_config`` has chosen. "dask":
        a cluster.
    n_workers : int, default=None
        Processes; None = one for each core.
    scheduler : str, default=None
        Address of dask's scheduler; None = a cluster on this machine, for this run.

    Raises
    ------
    ValueError, TypeError
        Naming the argument that cannot be used.
    """

    def __init__(self, name="joblib", n_workers=None, scheduler=None):
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {name!r}.")
        if n_workers is not None and (
            isinstance(n_workers, bool) or not isinstance(n_workers, int)
        ):
            raise TypeError(f"n_workers must be None or an int, got {n_workers!r}.")
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, got {n_workers}.")
        if scheduler is not None and name != "dask":
            raise ValueError(f"scheduler={scheduler!r} needs backend='dask'.")
        if scheduler is not None and n_workers is not None:
            raise ValueError(
                f"n_workers={n_workers}: the workers are those of scheduler={scheduler!r}; leave "
                "n_workers out."
            )
        self.name = name
        self.n_workers = n_workers
        self.scheduler = scheduler

    @property
    def n_threads(self):
        """Threads that each call may use, so that all together use the cores of this machine."""
        if self.scheduler is not None:
            return 1  # a worker of a cluster has as many calls at once as threads
        return max(1, joblib.cpu_count() // (self.n_workers or joblib.cpu_count()))

    def map(self, function, items):
        """Yield function(item) for each item, in order.

        Both must be picklable. What a call raises is raised. The call of a worker that dies is made
        again by another one.

        Raises
        ------
        RuntimeError
            If workers die again and again.
        ImportError
            If the backend is not installed.
        OSError
            If dask's scheduler does not answer.
        """
        items = list(items)
        if not items:
            return iter(())
        by_backend = self._with_dask if self.name == "dask" else self._with_joblib
        return by_backend(function, items)

    def _with_joblib(self, function, items):
        first, n_lost = 0, 0
        while first < len(items):
            try:
                for result in self._run_by_joblib(function, items[first:]):
                    first, n_lost = first + 1, 0
                    yield result
            except BrokenProcessPool as error:  # joblib then gives up all calls under way
                n_lost += 1
                if n_lost == _MOST_LOSSES:
                    raise _lost(items[first]) from error

    def _run_by_joblib(self, function, items):
        n_jobs, call = self.n_workers or -1, joblib.delayed(function)
        chosen, _ = get_active_backend()
        if chosen.supports_return_generator:
            parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator", batch_size=1)
            yield from parallel(call(item) for item in items)
            return
        n_at_once = _ROUND * max(1, chosen.effective_n_jobs(n_jobs))  # such as Ray's backend
        with joblib.Parallel(n_jobs=n_jobs, batch_size=1) as parallel:  # the same workers for all
            for first in range(0, len(items), n_at_once):
                yield from parallel(call(item) for item in items[first : first + n_at_once])

    def _with_dask(self, function, items):
        distributed = _distributed()
        with self._client(distributed) as client:
            n_ahead = _AHEAD * max(1, sum(client.nthreads().values()))
            numbers, found, first = {}, {}, 0
            # A result is fetched at once, because it is lost with the worker that holds it.
            ended = distributed.as_completed(
                loop=client.loop, with_results=True, raise_errors=False
            )
            while first < len(items):
                for number in range(first + len(found) + len(numbers), len(items)):
                    if number >= first + n_ahead:
                        break
                    future = client.submit(function, items[number], pure=False)
                    numbers[future] = number
                    ended.add(future)
                future, result = next(ended)
                found[numbers.pop(future)] = future.status, result
                while first in found:
                    yield _checked(*found.pop(first), items[first], distributed)
                    first += 1

    @contextmanager
    def _client(self, distributed):
        if self.scheduler is not None:
            with distributed.Client(self.scheduler, set_as_default=False) as client:
                yield client
            return
        with (
            distributed.LocalCluster(
                n_workers=self.n_workers or joblib.cpu_count(),
                threads_per_worker=1,
                dashboard_address=None,
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield client


def _checked(status, result, item, distributed):
    """Return the result of a call by dask, or raise what it raised.

    The worker of a result that was fetched may have died since: its status is then "lost".
    """
    if status == "cancelled":
        raise result
    if status != "error":
        return result
    _, error, trace = result
    if isinstance(error, distributed.KilledWorker):
        raise _lost(item) from error
    raise error.with_traceback(trace)


def _lost(item):
    return RuntimeError(
        f"workers were killed again and again, at last by the call with {item!r:.200}: give them "
        "more memory, start fewer, or leave this out."
    )


def _distributed():
    with needing("backend='dask'", "dask", "dask", "distributed"):
        import distributed
    return distributed
