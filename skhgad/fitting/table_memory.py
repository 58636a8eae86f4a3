"""Refuse, before any work, tables whose fit would need more memory than the machine has."""

import os
from pathlib import Path

# Measured: how many float64 numbers a fit holds at its peak for each value of X, for each entry of
# a square matrix of the latent space, and for each such entry and class.
_OF_VALUES, _OF_AXES, _OF_CLASS = 12, 6, 2.5
_OF_WEIGHTS = 4  # weight, gradient and two moments
_SMALLEST = 1 << 30  # bytes, below which nothing is checked
_CGROUPS = (  # limit and use of a container
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def check_table_memory(n_samples, n_features, n_classes, parameters):
    """Raise MemoryError if the fit of a table would need more memory than there is.

    `n_classes` is an int; `parameters` are the estimator's.
    """
    needed = bytes_of_fit(n_samples, n_features, n_classes, parameters)
    if needed < _SMALLEST:
        return
    available = available_memory()
    if available is None or needed <= available:
        return
    raise MemoryError(
        f"fit would need about {_gib(needed)} for a table of {n_samples:,} samples and "
        f"{n_features:,} features in {n_classes:,} class{'es' * (n_classes > 1)}, and "
        f"{_gib(available)} are available. Reduce the features, e.g. make_pipeline("
        "TruncatedSVD(200), HGADDetector()); fit to fewer rows, or to fewer classes in one "
        "detector; leave max_iter='auto', which does not train; or use a machine with more "
        "memory. X in float32 does not help: vectors are computed in float64."
    )


def bytes_of_fit(n_samples, n_features, n_classes, parameters):
    """Estimate how many bytes `fit` needs beside X; see docs/performance.rst.

    Samples and features span min(n_samples, n_features) axes; a start that is not whitened keeps
    all features as axes.
    """
    n_axes = n_features
    if parameters["start"] == "whitened":
        n_axes = min(n_axes, n_samples)
    n_values = _OF_VALUES * n_samples * n_features
    n_entries = _OF_AXES + _OF_CLASS * n_classes
    if parameters["max_iter"] not in ("auto", 0):
        n_entries += _OF_WEIGHTS * parameters["n_blocks"] * (1 + 0.75 * parameters["hidden_ratio"])
    return int(8 * (n_values + n_entries * n_axes**2))


def available_memory():
    """Bytes that this process can still take without swapping, or None where nothing tells.

    The limit of a container counts.
    """
    found = [_free_of_system()]
    for limit, used in _CGROUPS:
        limit, used = _number_in(limit), _number_in(used)
        if limit is not None and used is not None:
            found.append(max(0, limit - used))
    return min((value for value in found if value is not None), default=None)


def _free_of_system():
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:  # no Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _number_in(path):
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _gib(n_bytes):
    return f"{n_bytes / 2**30:,.1f} GiB"
