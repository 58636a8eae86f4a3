"""Features in a file: nothing is left of it, however the process ends."""

import multiprocessing
import os
import signal

import pytest
import torch

from skhgad.fitting.feature_cache import FeatureCache

SHAPE = (40, 30)


def use(folder, end=None):
    """Write features to a file and read them back."""
    x = torch.randn(11, *SHAPE, generator=torch.Generator().manual_seed(0))
    with FeatureCache(11, [SHAPE], budget=0) as cache:
        assert cache.spilled
        cache.write(0, [x])
        assert os.listdir(folder) == []  # so that nothing can be left
        if end is not None:
            os.kill(os.getpid(), end)
        torch.testing.assert_close(cache.read(0, torch.arange(11).numpy()), x, atol=3e-3, rtol=0)


@pytest.mark.skipif(os.name == "nt", reason="the file has a name until the process ends")
def test_the_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    use(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_a_killed_process_leaves_nothing(tmp_path, monkeypatch, name):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    end = getattr(signal, name)
    child = multiprocessing.get_context("fork").Process(target=use, args=(tmp_path, end))
    child.start()
    child.join(60)
    assert child.exitcode == -end
    assert os.listdir(tmp_path) == []
