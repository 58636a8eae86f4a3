"""A loss of the user's in place of the published objective."""

import functools
import pickle

import numpy as np
import pytest
import torch
from backbones import two_levels
from sklearn.base import clone

from skhgad import HGADDetector, hgad_loss


@pytest.fixture(scope="module")
def products():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (60, 4)), rng.normal(5, 2, (60, 4))])
    return X, np.repeat(["bolt", "nut"], 60)


def make(**parameters):
    # No vectors are left out, which could turn the flow down.
    parameters = {"validation_fraction": 0, **parameters}
    return HGADDetector(max_iter=4, n_blocks=2, n_components=3, random_state=0, **parameters)


@pytest.fixture(scope="module")
def default(products):
    return make().fit(*products)


def short_vectors(step):
    return step.z.square().mean()


class ShortVectors:
    """A loss with a setting, for grids."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, step):
        return hgad_loss(step) + self.weight * short_vectors(step)


def latents(detector, X):
    return detector.model_.model.levels[0].latent(torch.from_numpy(X)[:, None])[0]


def largest_change(detector, other):
    """Largest difference of a coordinate of latent vectors of the two models."""
    X = np.random.default_rng(1).normal(2, 3, (50, 4))
    return float((latents(detector, X) - latents(other, X)).abs().max())


def test_the_default_given_by_name_is_the_default(default, products):
    same = make(loss=hgad_loss).fit(*products)
    assert largest_change(default, same) == 0
    np.testing.assert_array_equal(
        same.score_samples(products[0]), default.score_samples(products[0])
    )
    assert str(same.history_) == str(default.history_)  # with nan, which equals nothing


def test_another_loss_makes_another_model(default, products):
    other = make(loss=short_vectors).fit(*products)
    assert largest_change(default, other) > 1e-3
    z, other_z = (latents(detector, products[0]) for detector in (default, other))
    assert other_z.square().mean() < z.square().mean()
    losses = [record["loss"] for record in other.history_]
    assert losses[-1] < losses[0] and losses != [record["loss"] for record in default.history_]


def test_a_term_is_added_with_its_weight(default, products):
    without, little, much = (make(loss=ShortVectors(w)).fit(*products) for w in (0, 0.1, 10))
    assert largest_change(default, without) == 0
    assert 0 < largest_change(default, little) < largest_change(default, much)


def test_a_step_holds_what_the_docstring_says(products):
    steps = []

    def loss(step):
        steps.append((step.z.shape, step.log_det.shape, step.codes.tolist(), set(step.terms)))
        assert step.weights == {
            "lambda_inter": 1.0, "lambda_mi": 3.0, "lambda_entropy": 1.0, "lambda_intra": 1.0,
        }  # fmt: skip
        assert step.mixture.class_logits(step.z).shape == (*step.z.shape[:2], 2)
        return hgad_loss(step)

    make(
        loss=loss, lambda_mi=3.0, batch_size=32, first_stage_fraction=0.5, validation_fraction=0.2
    ).fit(*products)
    assert len(steps) == 4 * 3  # 96 of the 120 samples train
    z, log_det, codes, _ = steps[0]
    assert z == (32, 1, 4) and log_det == (32, 1) and set(codes) == {0, 1}
    first = {"inter_class", "mutual_information", "entropy"}
    assert steps[0][3] == first
    assert steps[-1][3] == first | {"intra_class", "likelihood_margin"}


def test_images_call_it_for_each_level():
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    shapes = []

    def loss(step):
        shapes.append(tuple(step.z.shape))
        return hgad_loss(step)

    HGADDetector(
        two_levels(), out_indices=(0, 1), fuse_stages=False, image_size=32, max_iter=1, n_blocks=1,
        position_fraction=1.0, batch_size=16, loss=loss, random_state=0,
    ).fit(images)  # fmt: skip
    assert shapes == [(16, 64, 8), (16, 16, 10)]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda step: 1.0, "loss must return a 0-d floating-point Tensor.*got float"),
        (lambda step: step.log_det, "got a torch.float32 Tensor of shape"),
        (lambda step: step.codes.sum(), "got a torch.int64 Tensor of shape"),
        (lambda step: step.z.detach().mean(), "without a gradient: compute it from step.z"),
        ("likelihood", "loss='likelihood' is a name"),
        (3, "loss must be None or a function that takes a skhgad.TrainingStep"),
    ],
)
def test_what_cannot_be_minimised_is_refused(products, loss, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(loss=loss).fit(*products)


def test_a_loss_that_diverges_is_said(products):
    with pytest.raises(FloatingPointError, match="diverged in pass 1"):
        make(loss=lambda step: step.z.mean() * float("nan")).fit(*products)


def test_a_file_keeps_its_name_and_a_new_fit_asks_for_it(products, tmp_path):
    detector = make(loss=short_vectors).fit(*products)
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.score_samples(products[0]), detector.score_samples(products[0])
    )
    assert loaded.loss == f"{__name__}.short_vectors"
    with pytest.raises(ValueError, match="short_vectors' is a name, which is all that a model fil"):
        clone(loaded).fit(*products)
    again = clone(loaded).set_params(loss=short_vectors).fit(*products)
    assert largest_change(again, detector) == 0
    loaded.add_class(products[0] + 20, "washer").save(tmp_path / "model")
    assert HGADDetector.load(tmp_path / "model").loss == f"{__name__}.short_vectors"


@pytest.mark.parametrize("loss", [ShortVectors(0.1), functools.partial(ShortVectors(0.1))])
def test_objects_are_pickled_and_named_by_their_class(products, loss, tmp_path):
    detector = pickle.loads(pickle.dumps(make(loss=loss).fit(*products)))
    detector.save(tmp_path / "model")
    name = {ShortVectors: f"{__name__}.ShortVectors"}.get(type(loss), "functools.partial")
    assert HGADDetector.load(tmp_path / "model").loss == name


def test_a_lambda_is_no_obstacle_to_a_pickle_once_removed(products):
    detector = make(loss=lambda step: hgad_loss(step)).fit(*products).set_params(loss=None)
    assert pickle.loads(pickle.dumps(detector)).model_.parameters["loss"].endswith("<lambda>")


def test_a_loss_that_no_pass_uses_is_said():
    X = np.random.default_rng(0).normal(size=(30, 8))
    with pytest.warns(UserWarning, match="loss was not used.*max_iter='auto' does not train"):
        HGADDetector(loss=short_vectors, n_blocks=1, random_state=0).fit(X)
