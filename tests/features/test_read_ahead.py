"""How batches of images reach a GPU: as bytes where they can, read ahead by a thread."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from skhgad.features.reader import as_floats, read_ahead
from skhgad.images import ImageSource, iter_batches

SIZE = (6, 8)


def counted(until: int, taken: list) -> Iterator[int]:
    for number in range(until):
        taken.append((number, threading.current_thread() is threading.main_thread()))
        yield number


def test_items_come_in_order_and_another_thread_takes_them_two_ahead():
    taken = []
    with read_ahead(counted(10, taken)) as items:
        assert next(items) == 0
        assert list(items) == list(range(1, 10))
    assert taken == [(number, False) for number in range(10)]


def test_no_more_than_two_are_taken_ahead():
    taken = []
    with read_ahead(counted(10, taken)) as items:
        next(items)
    assert len(taken) <= 3


def test_an_error_comes_where_its_item_is_due():
    def items():
        yield 1
        yield 2
        raise ValueError("X[2] is broken")

    seen = []
    with pytest.raises(ValueError, match="broken"), read_ahead(items()) as ahead:
        seen += [next(ahead), next(ahead)]
        next(ahead)
    assert seen == [1, 2]


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)


def batches(images, **options):
    return list(iter_batches(ImageSource(images), size=SIZE, batch_size=2, **options))


def test_bytes_of_the_right_size_stay_as_they_are(pictures):
    kept, plain = batches(pictures, keep_bytes=True), batches(pictures)
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in kept]), pictures)
    for batch, other in zip(kept, plain, strict=True):
        assert batch.pixels.dtype == np.uint8 and batch.sizes == other.sizes
        floats = as_floats(torch.from_numpy(batch.pixels)).numpy()
        np.testing.assert_array_equal(floats, other.pixels)  # to the bit


def test_a_batch_with_another_size_or_with_floats_becomes_floats(pictures):
    other = [pictures[0], np.repeat(pictures[1], 2, axis=0), pictures[2] / 255, pictures[3]]
    found, plain = batches(other, keep_bytes=True), batches(other)
    for batch, expected in zip(found, plain, strict=True):
        assert batch.pixels.dtype == np.float32
        np.testing.assert_array_equal(batch.pixels, expected.pixels)
