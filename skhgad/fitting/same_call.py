"""Whether all processes of a group called fit with the same parameters and samples."""

import os

import joblib
import numpy as np
from torch import nn

from ..images import ImageSource
from ..parameters import name_of

# Each machine has its own; they change no result but by rounding.
_OF_EACH_PROCESS = {"cache_budget", "callbacks", "device", "memory", "n_jobs", "verbose"}


def check_same_parameters(processes, parameters):
    """Raise ValueError, in all processes, that names a parameter in which they differ."""
    if processes.size == 1:
        return
    own = {
        name: comparable(name, value)
        for name, value in parameters.items()
        if name not in _OF_EACH_PROCESS
    }
    found = processes.gather([own])
    for name in own:
        values = [parameters[name] for parameters in found]
        if any(value != values[0] for value in values):
            listed = ", ".join(f"{value!r:.80} in process {i}" for i, value in enumerate(values))
            raise ValueError(
                f"{name} is not the same in all processes: {listed}. Give fit the same parameters "
                f"in every process; only {', '.join(sorted(_OF_EACH_PROCESS))} may differ."
            )


def comparable(name, value):
    """Return a small stand-in of a parameter, equal where the parameters are."""
    if isinstance(value, nn.Module):  # all take the weights of the first process
        shapes = [(name, tuple(t.shape)) for name, t in value.state_dict().items()]
        return f"{type(value).__qualname__} {joblib.hash(shapes)}"
    if name == "loss":
        return name_of(value)
    if value is np.random:  # numpy's own generator: that of the first process, as for None
        return None
    if isinstance(value, np.random.RandomState):
        return f"RandomState {joblib.hash(value.get_state())}"
    if name == "weights" and value is not None:  # by name: folders may be mounted elsewhere
        return os.path.basename(os.fspath(value))
    if isinstance(value, list | tuple):
        return tuple(comparable(name, item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def check_same_regions(processes, masks):
    """Raise ValueError unless all processes have the same regions of interest."""
    if processes.size == 1:
        return
    own = masks
    if isinstance(masks, list):  # paths by file name: folders may be mounted elsewhere
        own = [None if m is None else m.item for m in masks]
        own = [os.path.basename(i) if isinstance(i, str | os.PathLike) else i for i in own]
    elif masks is not None:
        own = masks.masks, masks.of_class
    if len(set(processes.gather([joblib.hash(own)]))) > 1:
        raise ValueError(
            "roi is not the same in all processes: pass the same masks to fit in every process."
        )


def check_same_data(processes, X, codes, classes, masks=None, parts=None):
    """Raise ValueError unless all processes have the same samples, and enough for each."""
    if processes.size == 1:
        return
    if isinstance(X, ImageSource):  # by file name: folders may be mounted elsewhere
        X = [os.path.basename(X.name(i)) for i in range(len(X))]
    if len(set(processes.gather([joblib.hash((X, codes, classes, masks, parts))]))) > 1:
        names = ["X", "y"] + ["masks"] * (masks is not None) + ["groups"] * (parts is not None)
        raise ValueError(
            f"{', '.join(names[:-1])} and {names[-1]} are not the same in all "
            "processes: pass all samples, in the same order, to fit in every process, which then "
            "takes its own share of them."
        )
    n_normal = np.sum(codes >= 0)
    if n_normal < processes.size:
        raise ValueError(
            f"X has {n_normal} normal samples for {processes.size} processes: start fewer, each "
            "needs a sample of its own."
        )
