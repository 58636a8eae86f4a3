"""Values of a saved state of a monitor, each checked: the file may be damaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["restore_generator", "saved_count", "saved_number", "saved_points", "saved_stakes"]


def restore_generator(generator: np.random.Generator, state: Any) -> None:
    """Set the state of `generator`; ValueError if it cannot hold it.

    NumPy before 2 takes a negative number for another one, without an error.
    """
    generator.bit_generator.state = state
    if generator.bit_generator.state != state:
        raise ValueError(f"the generator's state is {state!r:.80}")


def saved_count(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number of at least `least`; ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def saved_number(value: Any, name: str) -> float:
    """Return a finite number as float; ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.80}")
    return float(value)


def saved_stakes(values: Any, n: int) -> NDArray[np.float64]:
    """Return a copy of `n` finite numbers of at least 0; ValueError if they are none."""
    stakes = np.array(values, dtype=np.float64)
    if stakes.shape != (n,) or not np.isfinite(stakes).all() or stakes.min() < 0:
        raise ValueError(f"the stakes are {values!r:.80}")
    return stakes


def saved_points(points: Sequence[Any]) -> list[list[float]]:
    """Return a new list of points of the history; ValueError if one is none."""
    if not isinstance(points, list):
        raise ValueError(f"the history is {points!r:.80}")
    return [
        [saved_count(n_seen, "a point's n_seen"), saved_number(evidence, "a point's evidence")]
        for n_seen, evidence in points
    ]
