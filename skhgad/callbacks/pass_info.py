"""What callbacks are told of a pass over the training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class PassInfo(NamedTuple):
    """What a callback is told after each pass over the training data.

    Attributes
    ----------
    number : int
        Of the pass; the first is 1.
    n_passes : int
        Passes of the training.
    losses : dict of str to float
        Means over the steps of the pass, summed over the levels: "loss", which training minimises,
        and the published terms "inter_class", "mutual_information", "entropy", "intra_class" and
        "likelihood_margin", unweighted. A term that does not count yet is nan.
    learning_rate : float
        Of the flow, in the last step of the pass.
    seconds : float
        That the pass took.
    n_samples : int
        Normal samples that training visits in a pass; with `tile_size`, tiles.
    """

    number: int
    n_passes: int
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float
    n_samples: int
