"""The folder of remembered features: numbers only, and never a reason to fail."""

import errno
import os
import pickle
import warnings

import joblib
import numpy as np
import pytest
from backbones import RandomFilters
from safetensors.numpy import save_file

from skhgad import HGADDetector
from skhgad.features import store as store_module
from skhgad.features.store import FeatureStore

KEY = "ab" * 32
SHAPES = [(4, 3), (1, 5)]


def levels(value=1.0):
    return [np.full(shape, value, np.float32) for shape in SHAPES]


class Counting(RandomFilters):
    """Counts the images it sees, over all copies."""

    seen = 0

    def __init__(self):
        super().__init__((6, 4), (8, 2))

    def forward(self, x):
        type(self).seen += len(x)
        return super().forward(x)


def images(n=10):
    return np.random.default_rng(0).integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)


def fit(memory):
    detector = HGADDetector(
        Counting(), image_size=32, max_iter=0, n_blocks=0, random_state=0, memory=memory
    )
    return detector.fit(images())


def test_what_is_stored_comes_back(tmp_path):
    store = FeatureStore(tmp_path, SHAPES)
    assert store.load(KEY) is None
    store.save(KEY, levels(3))
    for found, expected in zip(store.load(KEY), levels(3), strict=True):
        np.testing.assert_array_equal(found, expected)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_a_malicious_entry_is_never_run(tmp_path):
    detector = fit(tmp_path / "memory")
    scores = detector.score_samples(images())
    entries = [path for path in (tmp_path / "memory").rglob("*") if path.is_file()]
    assert len(entries) == 10
    for path in entries:
        path.write_bytes(pickle.dumps(Malicious(tmp_path / "was run")))
        joblib.dump(Malicious(tmp_path / "was run"), path.parent / "output.pkl")
        np.save(path.with_suffix(".npy"), np.array([Malicious(tmp_path / "was run")]))
    np.testing.assert_allclose(detector.score_samples(images()), scores, atol=1e-5)
    assert not (tmp_path / "was run").exists()


def truncated(path):
    path.write_bytes(path.read_bytes()[:50])


def empty(path):
    path.write_bytes(b"")


def not_finite(path):
    save_file({"level_0": np.full((4, 3), np.nan, np.float32), "level_1": levels()[1]}, path,
              metadata={"key": KEY})  # fmt: skip


def other_shape(path):
    save_file({"level_0": levels()[0]}, path, metadata={"key": KEY})


def other_type(path):
    save_file(
        {f"level_{i}": a.astype(np.float64) for i, a in enumerate(levels())},
        path, metadata={"key": KEY},
    )  # fmt: skip


def other_image(path):
    save_file({f"level_{i}": a for i, a in enumerate(levels(7))}, path, metadata={"key": "cd"})


def no_key(path):
    save_file({f"level_{i}": a for i, a in enumerate(levels(7))}, path)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [truncated, empty, not_finite, other_shape, other_type, other_image, no_key, folder],
)
def test_an_entry_that_cannot_be_used_counts_as_missing(damage, tmp_path):
    store = FeatureStore(tmp_path, SHAPES)
    store.save(KEY, levels())
    assert store.load(KEY) is not None
    (path,) = (path for path in tmp_path.rglob("*.safetensors") if path.is_file())
    damage(path)
    assert store.load(KEY) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_the_place_of_an_entry_is_not_opened(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, SHAPES)
    store.save(KEY, levels())
    (path,) = (path for path in tmp_path.rglob("*.safetensors") if path.is_file())
    path.unlink()
    os.mkfifo(path)

    def refuse(*_, **__):
        raise AssertionError("opened")  # the system would wait for a writer

    monkeypatch.setattr(store_module, "safe_open", refuse)
    assert store.load(KEY) is None


def test_a_truncated_entry_is_computed_again_and_replaced(tmp_path):
    detector = fit(tmp_path)
    scores = detector.score_samples(images())
    path = sorted(tmp_path.rglob("*.safetensors"))[3]
    size = path.stat().st_size
    truncated(path)
    seen = Counting.seen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(detector.score_samples(images()), scores, atol=1e-5)
    assert Counting.seen == seen + 1
    assert path.stat().st_size == size


def test_a_full_disk_is_one_warning(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = fit(None).score_samples(images())
    monkeypatch.setattr(store_module, "_replace", full)
    with pytest.warns(UserWarning, match="cannot be remembered.*No space left") as caught:
        detector = fit(tmp_path)
    assert sum("be remembered" in str(warning.message) for warning in caught) == 1
    with pytest.warns(UserWarning, match="cannot be remembered"):
        np.testing.assert_allclose(detector.score_samples(images()), plain, atol=1e-5)


def test_a_folder_that_cannot_be_made_is_survived(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="cannot be remembered"):
        fit(tmp_path / "file")


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path, SHAPES).save(KEY, levels())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_joblib_memory_gives_its_location(tmp_path):
    detector = fit(joblib.Memory(tmp_path, verbose=0))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 10
    assert list(tmp_path.rglob("*.pkl")) == []
    seen = Counting.seen
    detector.score_samples(images())
    fit(str(tmp_path))
    probes = 1 + 3  # for the shapes of the maps, and whether they are steady
    assert Counting.seen == seen + probes
    fit(joblib.Memory(None, verbose=0))
    assert Counting.seen == seen + 2 * probes + 10
