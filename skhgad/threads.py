"""How many threads compute, and work spread over them without barriers.

Threads of OpenMP meet after every small product. Where other processes keep the cores busy, one of
them is often not running, and the others wait for it at full load. So small work runs on one
thread, and large work is cut into pieces, each computed by one thread from beginning to end.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from numbers import Integral

import torch
from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController

from .devices import ForkableLock, keep_to_one_thread_if_forked, usual_torch

_state = threading.local()  # of each thread: `granted`, the threads that its work may use
_setting = ForkableLock()
_matrix_libraries = threading.Lock()  # held by the thread that has limited those of the process


def granted_threads(n_jobs=None):
    """Return how many threads may compute.

    Inside `computing` that was settled. Else the parameter `n_jobs` says it: None = as many as
    torch uses, or those of a `joblib.parallel_config`; -1 = all cores.
    """
    granted = getattr(_state, "granted", None)
    if granted is not None:
        return granted
    keep_to_one_thread_if_forked()
    if n_jobs is None:
        threads = effective_n_jobs(None)
        return threads if threads > 1 else torch.get_num_threads()
    if not isinstance(n_jobs, Integral) or n_jobs == 0:
        return 1  # refused by name where parameters are checked
    return max(1, effective_n_jobs(n_jobs))


@contextmanager
def computing(n_jobs=None):
    """Grant threads to a fit, which starts on one; the former settings come back.

    One thread for torch and for the matrix libraries of numpy, scipy and scikit-learn that are
    loaded. `torch_threads`, `in_threads` and `worker_threads` use as many as `granted_threads`
    says. Torch has its usual settings.
    """
    granted = granting(granted_threads(n_jobs))
    with granted, torch_threads(1), matrix_libraries_on_one_thread(), usual_torch():
        yield


@contextmanager
def granting(n):
    """Let `granted_threads` say `n` in this thread."""
    before = getattr(_state, "granted", None)
    _state.granted = n
    try:
        yield
    finally:
        _state.granted = before


def stepwise(generator, n_jobs, *, on_one):
    """Yield what a generator yields; each of its steps has the threads that `n_jobs` grants.

    `on_one`: torch has one thread in a step, because the generator spreads its work over threads
    itself; else all of them. Torch has its usual settings. Between the steps all settings are the
    caller's.
    """
    n = granted_threads(n_jobs)
    with closing(generator):
        while True:
            with granting(n), torch_threads(1 if on_one else n), usual_torch():
                item = next(generator, _state)
            if item is _state:
                return
            yield item


@contextmanager
def torch_threads(n):
    """Let torch use `n` threads in this thread; the former number comes back.

    No other thread notices, and none that starts meanwhile. In a forked process it stays one.
    """
    n = 1 if keep_to_one_thread_if_forked() else n
    before = torch.get_num_threads()
    if before == n:
        yield
        return
    _set_here(n)
    try:
        yield
    finally:
        _set_here(before)


@contextmanager
def matrix_libraries_on_one_thread():
    """Keep OpenBLAS, MKL and OpenMP of numpy, scipy and scikit-learn to one thread.

    OpenMP in this thread. The others know one setting for the whole process: the first thread that
    enters sets it, and brings it back when it leaves; threads that enter meanwhile leave it alone.
    It sees libraries that are loaded when it is entered.
    """
    libraries = ThreadpoolController()
    with ExitStack() as stack:
        stack.enter_context(libraries.select(user_api="openmp").limit(limits=1))
        if _matrix_libraries.acquire(blocking=False):
            stack.callback(_matrix_libraries.release)
            stack.enter_context(libraries.select(user_api="blas").limit(limits=1))
        yield


def in_threads(function, items, n):
    """Yield function(item) of each item, in order, computed by `n` threads with one of torch each.

    At most 2 `n` results wait for the caller. With one thread, the caller's own computes them. An
    error of `function` is raised where its result is due.
    """
    if n == 1:
        for item in items:
            with torch_threads(1):
                result = function(item)
            yield result
        return
    with worker_threads(n) as workers:
        waiting = deque()
        for item in items:
            waiting.append(workers.submit(function, item))
            if len(waiting) >= 2 * n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def worker_threads(n):
    """Enter a ThreadPoolExecutor of `n` threads with one thread of torch each.

    What is not begun when it is left is dropped.
    """
    workers = ThreadPoolExecutor(n, thread_name_prefix="skhgad", initializer=_begin_worker)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _begin_worker():
    _state.granted = 1
    _set_here(1)


def _set_here(n):
    """Set torch's threads of this thread. `torch.set_num_threads` also sets that of new threads."""
    with _setting.held():
        torch.get_num_threads()  # a new thread takes the setting of all when it is first asked
        of_new = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(n)
        if of_new != n:
            _in_new_thread(lambda: torch.set_num_threads(of_new))


def _in_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]
