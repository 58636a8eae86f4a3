"""How far a level of maps is shrunk: what chooses it, and that all that follows knows it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.fitting import map_closed_form
from skhgad.fitting import recipe as recipes
from skhgad.fitting.covariance import gaussian_shrinkage
from skhgad.fitting.map_frames import JudgingFrame
from skhgad.fitting.map_moments import MapFeatures
from skhgad.fitting.map_shrinkage import MapShrinkage, choose_shrinkage, strengthened
from skhgad.fitting.picture_modes import PictureModes
from skhgad.fitting.processes import Processes
from skhgad.fitting.samples import LabelledSamples
from skhgad.storage.detector_state import pack, unpack
from skhgad.validation import check_scored_X

N_FOLDS = 5
BARE = dict(
    backbone=two_levels(), image_size=32, image_scales=(1.0,), random_state=0, bank_size=0,
)  # fmt: skip


class Maps:
    """A feature cache of one level, of maps (n, n_positions, n_features) in memory."""

    n_levels, dtype, inside, processes = 1, np.dtype(np.float32), None, Processes.current()

    def __init__(self, maps):
        self.maps = torch.from_numpy(maps).float()
        self.shapes = [tuple(maps.shape[1:])]

    def read(self, level, rows):
        return self.maps[rows]

    def read_inside(self, level, rows):
        return None


def features_of(maps, codes):
    samples = LabelledSamples(Maps(maps), np.arange(len(maps)), codes, 1 + int(codes.max()))
    folds = np.arange(len(maps)) % N_FOLDS
    modes = PictureModes.one_a_class(samples)
    return MapFeatures(samples, 0, folds, torch.device("cpu"), modes)


def pictures(n, share_of_picture, seed=0):
    """Maps of two classes of one covariance, to which each picture adds a part at all positions."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(12) + 0.1 * rng.normal(size=(12, 12))
    own, noise = rng.normal(size=(2 * n, 1, 12)), rng.normal(size=(2 * n, 25, 12))
    maps = np.sqrt(share_of_picture) * own + np.sqrt(1 - share_of_picture) * noise
    return maps @ mixing, np.repeat([0, 1], n)


def chosen(maps, codes, **parameters):
    features = features_of(maps, codes)
    parameters = {"whitening_shrinkage": "auto"} | parameters
    return choose_shrinkage(parameters, 0, features, features.moments())


def test_positions_of_a_picture_that_are_alike_ask_for_more():
    """Ledoit and Wolf take them for independent."""
    assert chosen(*pictures(10, 0.8)) == (pytest.approx(0.25), 3.0)


def test_classes_that_differ_and_have_many_positions_ask_for_no_more():
    maps, codes = pictures(60, 0.0)
    maps[codes == 1] *= np.linspace(0.2, 3, 12)
    assert chosen(maps, codes) == (0.1, 1.0)


def test_a_choice_that_was_made_or_that_users_make_stays():
    maps, codes = pictures(10, 0.8)
    assert chosen(maps, codes, whitening_shrinkage=0.4) == (0.4, 1.0)
    assert chosen(maps, codes, strengths=[1.0]) == (0.1, 1.0)


def test_candidates_are_judged_by_the_gaussians_that_would_score():
    maps, codes = pictures(10, 0.8)
    features, shrinkage = features_of(maps, codes), MapShrinkage.of_strength(3.0)
    frame = JudgingFrame(features.moments(), features.modes, 0, shrinkage)
    (moments,), origin = features.moments_of_class(1), features.origins[1]
    x = torch.from_numpy(maps).float()
    (found,) = frame.gaussians(moments, origin, [shrinkage])
    torch.testing.assert_close(
        found.log_likelihood(x), frame.gaussian(moments, origin).log_likelihood(x)
    )


def test_equal_pictures_leave_no_choice():
    assert chosen(np.ones((20, 25, 12)), np.repeat([0, 1], 10)) == (0.1, 1.0)


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def three(monkeypatch):
    """Let every fit choose 3."""

    def choose(parameters, *rest):
        assert parameters.get("strengths", [3.0]) == [3.0]
        calls.append("strengths" in parameters)
        return MapShrinkage.of_strength(3.0)

    calls = []
    monkeypatch.setattr(map_closed_form, "choose_shrinkage", choose)
    return SimpleNamespace(calls=calls)


def test_models_without_a_fold_take_the_choice_over(three, monkeypatch):
    """Whether they are fitted one by one or all at once."""
    images, found = noise(40), []
    for at_once, calls in ((True, [False]), (False, [False] + [True] * 10)):
        monkeypatch.setattr(recipes.Recipe, "_leaves_folds_out", lambda self, value=at_once: value)
        three.calls.clear()
        detector = HGADDetector(**BARE).fit(images)
        found.append(np.sort(detector.model_.calibration.scores))
        assert three.calls == calls
    np.testing.assert_allclose(*found, rtol=2e-3, atol=2e-3)


def test_update_and_new_classes_keep_to_the_choice(three, tmp_path):
    images = noise(40)
    detector = HGADDetector(**BARE, validation_fraction=0.0).fit(images[:20], np.full(20, "a"))
    detector.save(tmp_path / "model")
    detector = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    densities = detector.model_.model.levels[0].densities
    assert densities.strength == 3
    detector.update(images[20:], "a").add_class(noise(20, seed=1), "b")
    level, reader = detector.model_.model.levels[0], detector.feature_reader()
    X = check_scored_X(images, detector, takes_images=True)
    z = torch.cat([level.latent(features[0])[0] for features, _ in reader.batches(X)]).double()
    covariance = torch.cov(z.flatten(0, 1).T, correction=0)
    share = strengthened(gaussian_shrinkage(covariance, 1e-9 + z[..., 0].numel()), 3.0)
    assert float(level.densities.shrinkages[0]) == pytest.approx(share, rel=1e-2)
    assert level.densities.strength == 3


def raw_covariance(detector):
    """Covariance of class 1 in the space of raw features."""
    level = detector.model_.model.levels[0]
    matrix = torch.linalg.inv(level.start.matrix.double())
    return matrix.T @ level.densities.mixture_of(1)[2][0] @ matrix


def test_a_new_class_is_shrunk_as_in_a_fit_on_everything(three):
    old, new = noise(20), noise(20, seed=1) // 2
    added = HGADDetector(**BARE).fit(old, np.full(20, "a")).add_class(new, "b")
    whole = HGADDetector(**BARE).fit(np.concatenate((old, new)), np.repeat(["a", "b"], 20))
    found, expected = raw_covariance(added), raw_covariance(whole)
    assert torch.linalg.norm(found - expected) < 0.02 * torch.linalg.norm(expected)


def test_models_of_older_versions_have_no_strength():
    detector = HGADDetector(**BARE).fit(noise(20))
    tensors, description = pack(detector)
    name = "model.levels.0.densities.strength"
    older = {key: tensor for key, tensor in tensors.items() if key != name}
    loaded = unpack(HGADDetector, older, description, two_levels())
    assert loaded.model_.model.levels[0].densities.strength == 1
    for damaged in (-1.0, torch.nan):
        with pytest.raises(ValueError, match="strength"):
            unpack(HGADDetector, tensors | {name: torch.tensor(damaged)}, description, two_levels())
