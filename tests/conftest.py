"""What several test modules share: a fixture, and `benchmarks`, which is not installed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


def _load_benchmarks():
    """Make `import benchmarks` work.

    By its path: a repository root on sys.path would also replace the installed skhgad.
    """
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])


_load_benchmarks()


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch to one thread: for work this small more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
