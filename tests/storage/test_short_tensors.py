"""Rounded numbers on disk: short, read again as they were, and no larger than what is stored."""

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.model.short_numbers import ShortMatrix
from skhgad.storage.detector_state import pack, unpack
from skhgad.storage.model_folder import load_state, save_state
from skhgad.storage.short_tensors import lengthened, shortened

NAME = "levels.0.densities.whiteners"


@pytest.fixture
def stack():
    """Seven matrices: rounded to one byte or two, or not at all."""
    matrices = torch.randn(7, 9, 9, generator=torch.Generator().manual_seed(0))
    matrices = matrices + matrices.mT
    for place, kind in ((0, torch.int8), (3, torch.int16), (4, torch.int8), (6, torch.int8)):
        matrices[place] = ShortMatrix.of(matrices[place], kind).matrix()
    return matrices


def test_rounded_matrices_are_stored_short_and_come_back(stack):
    other = torch.arange(3)
    stored = shortened({NAME: stack, "other": other})
    assert stored[NAME].shape == (3, 9, 9)
    assert stored[f"{NAME}.one_byte.entries"].shape == (3, 36)
    assert stored[f"{NAME}.two_bytes.places"].tolist() == [3]
    found = lengthened(stored)
    assert found.keys() == {NAME, "other"} and torch.equal(found[NAME], stack)
    exact = {NAME: stack.double()}
    assert shortened(exact).keys() == {NAME}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("places", lambda values: values * 0),
        ("places", lambda values: values + 5),
        ("places", lambda values: values - 1),
        ("places", lambda values: values[:2]),
        ("places", lambda values: values.float()),
        ("diagonal", lambda values: values[:, :4]),
        ("scales", lambda values: values.double()),
        ("entries", lambda values: values[:, 1:]),
        ("entries", lambda values: values.float()),
        ("scales", None),
    ],
)
def test_parts_that_do_not_fit_are_refused(stack, part, change):
    stored = shortened({NAME: stack})
    values = stored.pop(f"{NAME}.one_byte.{part}")
    if change is not None:
        stored[f"{NAME}.one_byte.{part}"] = change(values)
    with pytest.raises((ValueError, KeyError)):
        lengthened(stored)


def test_a_declared_size_takes_no_memory(stack):
    stored = shortened({NAME: stack})
    stored[NAME] = torch.empty(0, 1 << 20, 1 << 20)
    with pytest.raises(ValueError, match="of the shapes"):
        lengthened(stored)


@pytest.fixture(scope="module")
def detector():
    X = np.random.default_rng(0).integers(90, 160, (24, 16, 16, 3), dtype=np.uint8)
    detector = HGADDetector(two_levels(), out_indices=(0, 1), image_size=16, random_state=0)
    return detector.fit(X, ["bolt", "nut"] * 12)


def images(n=12):
    return np.random.default_rng(1).integers(60, 190, (n, 16, 16, 3), dtype=np.uint8)


def test_a_fit_of_images_is_stored_short(detector):
    tensors, _ = pack(detector)
    for index, level in enumerate(detector.model_.model.levels):
        name, d = f"model.levels.{index}.densities.whiteners", level.n_axes
        assert tensors[name].shape == (0, d, d)
        entries = [tensors.get(f"{name}.{kind}.entries") for kind in ("one_byte", "two_bytes")]
        assert sum(len(found) for found in entries if found is not None) == 2
        vectors = tensors[f"model.levels.{index}.nearest.vectors"]
        assert vectors.dtype == torch.int16 and len(vectors) == level.nearest.counts.sum() > 0


def test_models_of_format_version_8_are_read(detector, tmp_path, monkeypatch):
    """Their kept vectors have no origins."""
    old, description = pack(detector)
    del old["model.levels.0.nearest.origins"]
    monkeypatch.setattr("skhgad.storage.model_folder.VERSION", 8)
    save_state(tmp_path / "old", old, description)
    loaded = HGADDetector.load(tmp_path / "old", backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(images()), detector.score_samples(images()))
    old["model.levels.0.nearest.axes"] = torch.zeros(1, 26, 10**6)
    old["model.levels.0.nearest.vectors"] = torch.empty(0, 10**6, dtype=torch.int16)
    old["model.levels.0.nearest.counts"] *= 0
    with pytest.raises(ValueError, match="along 1000000 of 26 axes"):
        unpack(HGADDetector, old, description, two_levels())


def test_models_of_format_version_7_are_read(detector, tmp_path, monkeypatch):
    """They have whole matrices, and kept vectors in float32, filled up to those of the longest."""
    tensors, description = pack(detector)
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    old = {k: v for k, v in tensors.items() if not k.startswith("model.")}
    model = lengthened(model)
    for index, level in enumerate(detector.model_.model.levels):
        nearest, prefix = level.nearest, f"levels.{index}.nearest."
        vectors = torch.zeros(2, int(nearest.counts.max()) + 1, nearest.vectors.shape[1])
        for code, n in enumerate(nearest.counts.tolist()):
            vectors[code, :n] = nearest.vectors_of(code)
        model[prefix + "vectors"] = vectors
        model[prefix + "axes"] = nearest.axes[0]
        del model[prefix + "scales"], model[prefix + "axes_of"], model[prefix + "origins"]
    old |= {f"model.{name}": values for name, values in model.items()}
    monkeypatch.setattr("skhgad.storage.model_folder.VERSION", 7)
    save_state(tmp_path / "old", old, description)
    monkeypatch.undo()
    assert load_state(tmp_path / "old")[1]["version"] == 7
    loaded = HGADDetector.load(tmp_path / "old", backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(images()), detector.score_samples(images()))
    old["model.levels.0.nearest.counts"] = torch.tensor([1, 10**6])
    with pytest.raises(ValueError, match="names vectors that there are not"):
        unpack(HGADDetector, old, description, two_levels())


def test_classes_of_vectors_are_stored_short(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 130)) + np.repeat(20 * rng.normal(size=(6, 130)), 25, axis=0)
    detector = HGADDetector(validation_fraction=0, random_state=0)
    detector.fit(X, np.repeat(np.arange(6), 25))
    whiteners = [tensor for name, tensor in pack(detector)[0].items() if f"{NAME}." in name]
    assert 0 < sum(tensor.nbytes for tensor in whiteners) < 6 * 130**2 * 8 / 10
    detector.save(tmp_path / "model")
    loaded, fresh = HGADDetector.load(tmp_path / "model"), X + rng.normal(size=X.shape)
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
