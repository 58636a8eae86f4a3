"""Tables that need more memory than there is: an error before any work."""

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.fitting import fit, table_memory
from skhgad.fitting.table_memory import available_memory, bytes_of_fit

GIB = 2**30


def test_too_large_a_table_is_refused_before_work(monkeypatch):
    monkeypatch.setattr(table_memory, "_SMALLEST", 0)
    monkeypatch.setattr(table_memory, "available_memory", lambda: 1 << 20)
    X = np.random.default_rng(0).normal(size=(300, 400))
    HGADDetector(max_iter=0, n_components=1).fit(X[:40, :40])  # needs 0.3 MB
    monkeypatch.setattr(fit, "cached_features", None)  # would be the first work
    message = r"about 0\.0 GiB for a table of 300 samples and 400 features in 1 class, and"
    with pytest.raises(MemoryError, match=message):
        HGADDetector().fit(X)


def test_the_message_names_needed_available_and_remedies(monkeypatch):
    monkeypatch.setattr(table_memory, "available_memory", lambda: 16 * GIB)
    parameters = HGADDetector().get_params()
    with pytest.raises(MemoryError) as caught:
        table_memory.check_table_memory(20_000, 20_000, 2, parameters)
    text = str(caught.value)
    for part in ("68.5 GiB", "20,000 samples and 20,000 features in 2 classes", "16.0 GiB are",
                 "TruncatedSVD", "float32 does not help"):  # fmt: skip
        assert part in text
    table_memory.check_table_memory(2_000, 20_000, 2, parameters)


def test_nothing_is_refused_where_nothing_tells_the_memory(monkeypatch):
    monkeypatch.setattr(table_memory, "available_memory", lambda: None)
    table_memory.check_table_memory(10**6, 10**6, 1, HGADDetector().get_params())


def test_rows_and_features_span_the_smaller_number_of_axes():
    def needed(n, d, n_classes=1, **parameters):
        return bytes_of_fit(n, d, n_classes, HGADDetector(**parameters).get_params())

    assert needed(200, 20_000) == needed(20_000, 200) < GIB
    assert needed(200, 20_000, start="published") > 8 * 20_000**2
    assert needed(1000, 1000, 40) > 8 * 100 * 1000**2
    assert needed(1000, 1000, max_iter=1) > 1.5 * needed(1000, 1000, max_iter=0)
    assert needed(1000, 1000, max_iter=0) == needed(1000, 1000)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 99 kB\nMemAvailable:  4096 kB\n"}, 4096 * 1024),
        (
            {
                "/proc/meminfo": "MemAvailable: 4096 kB\n",
                "/sys/fs/cgroup/memory.max": "3000\n",
                "/sys/fs/cgroup/memory.current": "1000\n",
            },
            2000,
        ),
        (
            {
                "/proc/meminfo": "MemAvailable: 4096 kB\n",
                "/sys/fs/cgroup/memory.max": "max\n",
                "/sys/fs/cgroup/memory.current": "1000\n",
            },
            4096 * 1024,
        ),
    ],
)
def test_the_limit_of_a_container_counts(files, expected, monkeypatch):
    class Files:
        def __init__(self, path):
            self.path = path

        def read_text(self):
            if self.path not in files:
                raise FileNotFoundError(self.path)
            return files[self.path]

    monkeypatch.setattr(table_memory, "Path", Files)
    assert available_memory() == expected


def test_memory_is_found_here_or_nothing():
    found = available_memory()
    assert found is None or found > 1 << 20
