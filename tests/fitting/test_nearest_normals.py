"""Which normal vectors are kept, and what their distances add to the scores of images."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting.nearest_normals import Candidates, NearestOfClass, evenly_spaced, main_axes
from skhgad.model.nearest import NearestNormals


class Colours(torch.nn.Module):
    """Features are the mean colours of 4 x 4 pixels."""

    def forward(self, x):
        return [torch.nn.functional.avg_pool2d(x, 4)]


def picture(rng, colour):
    """Return a picture of one colour and noise, uint8 (32, 32, 3)."""
    pixels = np.asarray(colour) + rng.normal(0, 8, (32, 32, 3))
    return pixels.clip(0, 255).astype(np.uint8)


RED, BLUE, BETWEEN = (200, 60, 60), (60, 60, 200), (130, 60, 130)


def small(**parameters):
    settings = dict(backbone=Colours(), image_size=32, image_scales=(1.0,), feature_power=1.0)
    return HGADDetector(**settings, random_state=0, **parameters)


@pytest.fixture(scope="module")
def two_looks():
    """Pictures of a product that is red or blue: to fit, to score, and which are normal."""
    rng = np.random.default_rng(0)
    normal = [picture(rng, (RED, BLUE)[i % 2]) for i in range(60)]
    odd = [picture(rng, BETWEEN) for _ in range(30)]
    return normal[:30], normal[30:] + odd, np.repeat([1, 0], 30)


def test_what_lies_between_two_looks_of_a_product_is_found(two_looks):
    train, test, is_normal = two_looks
    found = [  # with one Gaussian: that of each look finds it, too
        roc_auc_score(
            is_normal, small(bank_size=size, n_components=1).fit(train).score_samples(test)
        )
        for size in (0, 3000)
    ]
    assert found[0] < 0.5 and found[1] > 0.99


def test_a_picture_is_not_compared_with_itself_to_set_the_threshold(two_looks):
    train, test, is_normal = two_looks
    detector = small().fit(train)
    assert np.mean(detector.predict(test)[is_normal == 1] == -1) <= 0.2
    weight = [float(level.nearest.weights[0]) for level in detector.model_.model.levels]
    assert min(weight) > 0


def test_no_more_vectors_are_kept_than_asked_for(two_looks):
    detector = small(bank_size=20).fit(two_looks[0][:12])
    assert [level.nearest.counts.tolist() for level in detector.model_.model.levels] == [[20]]
    detector = small(bank_size=0).fit(two_looks[0][:12])
    assert all(level.nearest is None for level in detector.model_.model.levels)


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


def test_places_are_evenly_spaced():
    assert evenly_spaced(3, 5).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 5, 0.0).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(10, 5, 0.999).tolist() == [1, 3, 5, 7, 9]
    assert evenly_spaced(7, 3).tolist() == [1, 3, 5]


def test_distances_weigh_as_much_as_they_vary():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 3, generator=generator)
    likelihoods = 7 * torch.randn(200, generator=generator)
    numbers = torch.arange(200)
    found = Candidates(vectors, likelihoods, likelihoods, numbers, numbers)
    apart = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf).min(1).values
    assert found.weight(0.5, found) == pytest.approx(
        float(likelihoods.std() / apart.std()), rel=1e-4
    )
    # What the background tells of a likelihood does not count, as far as it is subtracted.
    background = likelihoods + 0.01 * torch.randn(200, generator=generator)
    whole, half, no = (
        found._replace(backgrounds=background).weight(w, found) for w in (1.0, 0.5, 0.0)
    )
    assert no == pytest.approx(found.weight(0.0, found)) and half == pytest.approx(no / 2, rel=0.05)
    assert whole < 0.01 * no
    # Pictures that are all the same, and a single one, say nothing.
    same = found._replace(vectors=torch.ones(200, 3))
    assert same.weight(0.5, same) == 0
    assert found._replace(samples=torch.zeros(200)).weight(0.5, found) == 0


def test_rare_normal_vectors_are_kept():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 2, generator=generator) * 0.1
    vectors[123], vectors[321] = torch.tensor([5.0, 0.0]), torch.tensor([0.0, -5.0])
    numbers = torch.arange(500)
    found = Candidates(vectors, numbers, numbers, numbers, torch.zeros(500))
    kept = found.coreset(5)
    assert {123, 321} < set(kept.samples.tolist()) and len(set(kept.samples.tolist())) == 5
    assert torch.equal(kept.vectors, vectors[kept.samples])
    assert found.coreset(500) is found
    copies = found._replace(vectors=torch.zeros(500, 2)).coreset(4)
    assert len(set(copies.samples.tolist())) == 4


def test_without_a_fold_a_rare_vector_of_another_fold_is_still_kept():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(400, 2, generator=generator) * 0.1
    # Two pictures of different folds hold the same rare vector, which is chosen once from all.
    vectors[100], vectors[300] = torch.tensor([5.0, 0.0]), torch.tensor([5.0, 0.001])
    numbers, folds = torch.arange(400), torch.arange(400) // 200
    kept = Candidates(vectors, numbers, numbers, numbers, folds).coreset(9)
    assert kept.groups.bincount().tolist() == [4, 5]
    for fold in (0, 1):
        assert kept.without(fold)[:, 0].max() > 4


def test_rare_old_vectors_stay_when_new_ones_join():
    generator = torch.Generator().manual_seed(0)
    old, new = 0.1 * torch.randn(2, 50, 2, generator=generator)
    old[10] = torch.tensor([5.0, 0.0])
    nearest, numbers = NearestNormals.of(torch.eye(2), [old], [1.0]), torch.arange(50)
    candidates = Candidates(new, numbers, numbers, numbers, torch.zeros(50))
    joined = NearestOfClass(nearest, 0, candidates, 0.5, {"bank_size": 50})
    joined.write(nearest)
    kept = nearest.vectors_of(0)
    assert len(kept) == 50 and kept[:, 0].max() > 4


def test_main_axes_are_the_widest_and_have_a_sign():
    covariance = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64))
    axes = main_axes(covariance, 2)
    np.testing.assert_allclose(axes, [[0, 0], [1, 0], [0, 1]], atol=1e-12)
