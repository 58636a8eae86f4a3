"""Which normal vectors are kept, and what their distances add to the scores of images."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting.nearest_normals import Candidates, evenly_spaced, main_axes


def stripes(rng, angle, strength=1.0):
    """A picture of 48 pixels, striped along or across, with noise."""
    places = np.indices((48, 48)).sum(0) if angle is None else np.indices((48, 48))[angle]
    pixels = 128 + strength * 60 * np.sign(np.sin(places / 1.5 + rng.uniform(0, 6)))
    return np.repeat((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255)[..., None], 3, 2).astype(
        np.uint8
    )


def small(**parameters):
    return HGADDetector.fast(image_size=48, random_state=0, n_jobs=1, **parameters)


@pytest.fixture(scope="module")
def two_looks():
    """Pictures of one product that lies in either of two ways, and what lies in neither."""
    rng = np.random.default_rng(0)
    normal = [stripes(rng, i % 2) for i in range(60)]
    odd = [stripes(rng, i % 2, 0.5) for i in range(30)]
    return normal[:30], normal[30:] + odd, np.repeat([1, 0], 30)


@pytest.mark.once
def test_what_lies_between_two_looks_of_a_product_is_found(two_looks):
    train, test, is_normal = two_looks
    auroc = [
        roc_auc_score(is_normal, small(bank_size=size).fit(train).score_samples(test))
        for size in (0, 6000)
    ]
    assert auroc[1] > max(0.95, auroc[0])


@pytest.mark.once
def test_a_picture_is_not_compared_with_itself_to_set_the_threshold(two_looks):
    train, test, is_normal = two_looks
    detector = small().fit(train)
    assert np.mean(detector.predict(test)[is_normal == 1] == -1) <= 0.2
    weight = [float(level.nearest.weights[0]) for level in detector.model_.model.levels]
    assert min(weight) > 0


def test_no_more_vectors_are_kept_than_asked_for(two_looks):
    detector = small(bank_size=20).fit(two_looks[0][:12])
    assert [level.nearest.counts.tolist() for level in detector.model_.model.levels] == [[20]] * 2
    detector = small(bank_size=0).fit(two_looks[0][:12])
    assert all(level.nearest is None for level in detector.model_.model.levels)


@pytest.mark.once
def test_new_normals_join_the_kept_ones_and_a_class_leaves_with_its_own(two_looks):
    train, _, _ = two_looks
    y = ["a"] * 15 + ["b"] * 15
    detector = small().fit(train, y)
    level = detector.model_.model.levels[0]
    n = level.nearest.counts.tolist()
    first = level.nearest.vectors_of(0)
    detector.update(train[15:20], "a")
    level = detector.model_.model.levels[0]
    assert level.nearest.counts.tolist() == [n[0] * 20 // 15, n[1]]
    kept = level.nearest.vectors_of(0)
    assert set(map(tuple, first.tolist())) <= set(map(tuple, kept.tolist()))
    detector.add_class(train[:6], "c")
    nearest = detector.model_.model.levels[0].nearest
    assert nearest.counts.tolist() == [n[0] * 20 // 15, n[1], n[0] * 6 // 15]
    assert float(nearest.weights[2]) > 0
    detector.forget("a")
    nearest = detector.model_.model.levels[0].nearest
    assert nearest.counts.tolist() == [n[1], n[0] * 6 // 15]


def test_the_choice_does_not_depend_on_the_order_of_the_vectors():
    vectors = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    chosen = vectors[evenly_spaced(vectors, 40)]
    assert torch.equal(vectors[order][evenly_spaced(vectors[order], 40)], chosen)
    assert len(chosen) == 40 and len(chosen.unique(dim=0)) == 40


def test_distances_weigh_as_much_as_they_vary():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 3, generator=generator)
    likelihoods = 7 * torch.randn(200, generator=generator)
    numbers = torch.arange(200)
    found = Candidates(vectors, likelihoods, likelihoods, numbers, numbers)
    apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf).min(1).values
    assert found.weight(0.5) == pytest.approx(float(likelihoods.std() / apart.std()), rel=1e-4)
    # What the background tells of a likelihood does not count, as far as it is subtracted.
    background = likelihoods + 0.01 * torch.randn(200, generator=generator)
    whole, half, no = (found._replace(backgrounds=background).weight(w) for w in (1.0, 0.5, 0.0))
    assert no == pytest.approx(found.weight(0.0)) and half == pytest.approx(no / 2, rel=0.05)
    assert whole < 0.01 * no
    # Pictures that are all the same, and a single one, say nothing.
    assert found._replace(vectors=torch.ones(200, 3)).weight(0.5) == 0
    assert found._replace(samples=torch.zeros(200)).weight(0.5) == 0


def test_main_axes_are_the_widest_and_have_a_sign():
    covariance = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64))
    axes = main_axes(covariance, 2)
    np.testing.assert_allclose(axes, [[0, 0], [1, 0], [0, 1]], atol=1e-12)
