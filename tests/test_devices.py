"""Devices, and torch in forked processes."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from backbones import RandomFilters

from skhgad import HGADDetector
from skhgad.devices import ForkableLock, device_of_float64, is_on, move_to
from skhgad.display.latent_points import latent_points
from skhgad.regions import embed_regions, find_regions

X = np.random.default_rng(0).integers(0, 255, (8, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector():
    parameters = {"image_size": 32, "out_indices": (0,), "fuse_stages": False, "max_iter": 0}
    return HGADDetector(RandomFilters((8, 4)), random_state=0, **parameters).fit(X)


class SlowToMove(torch.nn.Module):
    """Two buffers, of which the first is moved long before the second."""

    def __init__(self):
        super().__init__()
        self.n_moves = 0
        self.register_buffer("first", torch.ones(1))
        self.register_buffer("second", torch.ones(1))

    def to(self, device):
        self.n_moves += 1
        self.first = self.first.to(device)
        time.sleep(0.05)
        self.second = self.second.to(device)


def test_threads_that_score_at_once_move_the_model_once_and_wait_for_it():
    module, device, prepared = SlowToMove(), torch.device("meta"), []

    def prepare():
        time.sleep(0.05)
        prepared.append(module.second.device)

    def seen(_):
        move_to(module, device, prepare)
        return is_on(module, device), module.second.device, len(prepared)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(seen, range(8))) == {(True, device, 1)}
    assert module.n_moves == 1 and prepared == [device]


def embed(detector):
    embed_regions(detector, X[:1], [find_regions(np.eye(32), 0.5)])


def latent(detector):
    latent_points(detector, X, None, 0, None, 0)


def score(detector):
    detector.score_samples(X)


def fit(detector):
    detector.fit(X)


def threads_after(task, detector, queue):
    torch.set_num_threads(2)
    task(detector)
    queue.put(torch.get_num_threads())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("task", [score, fit, embed, latent])
def test_forked_workers_keep_to_one_thread(detector, task):
    """The threads of OpenMP stay in the parent; a parallel loop would wait for them for ever."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=threads_after, args=(task, detector, queue))
    worker.start()
    assert queue.get(timeout=60) == 1
    worker.join()


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_float64_is_computed_where_it_exists(device, expected):
    assert device_of_float64(device) == torch.device(expected)


class Remembering(RandomFilters):
    """Reads its map of the last call from where a hook would have put it."""

    def forward(self, pixels):
        self.last = super().forward(pixels)
        time.sleep(0.01)
        return self.last


def test_a_module_that_remembers_its_last_call_scores_in_threads():
    parameters = {"image_size": 32, "out_indices": (0,), "fuse_stages": False, "max_iter": 0}
    detector = HGADDetector(Remembering((8, 4)), random_state=0, **parameters).fit(X)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(detector.score_samples, np.split(X[:4], 4)))
    expected = [detector.score_samples(x) for x in np.split(X[:4], 4)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_a_forked_process():
    lock, is_held, is_over = ForkableLock(), threading.Event(), threading.Event()

    def hold():
        with lock.held():
            is_held.set()
            is_over.wait(60)

    def enter():
        with lock.held(), lock.held():
            pass

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(60)
    process = multiprocessing.get_context("fork").Process(target=enter)
    process.start()
    process.join(20)
    process.kill()
    is_over.set()
    holder.join()
    assert process.exitcode == 0
