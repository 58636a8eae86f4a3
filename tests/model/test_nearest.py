"""The normal vectors that a level keeps: distances, and what becomes of them with the classes."""

import numpy as np
import pytest
import torch

from skhgad.model.nearest import NearestNormals, distances_to_nearest


@pytest.fixture(params=[torch.int16, torch.int8])
def nearest(request):
    """Three classes, the second of axes of its own."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 3, generator=generator)
    one, two = (NearestNormals.along(first, n, request.param) for n in (1, 2))
    result = two.joined(one, torch.tensor([0, 2, 1]))
    result.set_axes([1], second)
    for code, n in enumerate((50, 7, 0)):
        result.set_class(code, 100 + torch.randn(n, 3, generator=generator), weight=code + 0.5)
    return result


def brute_force(nearest, z, codes):
    penalties = np.zeros(z.shape[:2])
    for image, code in enumerate(codes.tolist()):
        kept = nearest.vectors_of(code).double().numpy()
        moved = (z[image] @ nearest.axes[nearest.axes_of[code]]).double().numpy()
        if len(kept):
            apart = np.linalg.norm(moved[:, None] - kept, axis=-1).min(1)
            penalties[image] = float(nearest.weights[code]) * apart
    return penalties


def test_penalties_are_those_of_a_plain_formula(nearest):
    z = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(1))
    codes = torch.tensor([1, 0, 2, 1])
    expected = brute_force(nearest, z, codes)
    np.testing.assert_allclose(nearest.penalty(z, codes), expected, rtol=1e-5)
    assert (expected[2] == 0).all() and (expected[[0, 1, 3]] > 0).all()


def test_the_traced_penalties_are_the_same(nearest):
    z = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(1))
    codes = torch.tensor([1, 0, 1])
    traced = nearest._traced_distances(z @ nearest.axes[nearest.axes_of[codes]], codes)
    expected = nearest.penalty(z, codes) / nearest.weights[codes, None]
    np.testing.assert_allclose(traced, expected, rtol=1e-5)


def test_numbers_of_one_byte_are_counted_from_the_middle_of_a_class(nearest):
    vectors = 1e3 + torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    nearest.set_class(2, vectors)
    found = nearest.vectors_of(2)
    if nearest.vectors.dtype == torch.int8:
        width = float((vectors.amax(0) - vectors.amin(0)).max())
        assert 0.3 * width / 254 < float((found - vectors).abs().max()) < 0.51 * width / 254
    nearest.set_class(2, found)  # rounds little more
    assert float((nearest.vectors_of(2) - found).abs().max()) < 2e-4
    nearest.set_class(2, torch.cat((found, found[:1] + 1)))  # an outlier is not cut off
    assert float((nearest.vectors_of(2)[-1] - found[0] - 1).abs().max()) < 0.05


def test_a_kept_vector_far_from_zero_is_at_no_distance_from_itself():
    kept = 1e4 + torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    assert (distances_to_nearest(kept, kept) == 0).all()
    apart = distances_to_nearest(kept + 1e-2, kept)
    np.testing.assert_allclose(apart, 1e-2 * np.sqrt(5), rtol=0.1)


def test_excluded_vectors_do_not_count():
    kept = torch.tensor([[0.0], [1.0], [5.0]])
    number = torch.arange(3)
    found = distances_to_nearest(kept, kept, lambda rows: number[rows, None] == number)
    assert found.tolist() == [1, 1, 4]
    nothing = distances_to_nearest(
        kept, kept, lambda rows: torch.ones(len(number[rows]), 3, dtype=torch.bool)
    )
    assert nothing.tolist() == [0, 0, 0]


def test_classes_are_joined_in_their_order_and_dropped(nearest):
    other = NearestNormals.along(nearest.axes[0], 1, nearest.vectors.dtype)
    other.set_class(0, torch.zeros(80, 3), weight=9.0)
    joined = nearest.joined(other, torch.tensor([0, 3, 1, 2]))
    assert joined.counts.tolist() == [50, 80, 7, 0]
    assert joined.weights.tolist() == [0.5, 9.0, 1.5, 2.5]
    assert torch.equal(joined.vectors_of(2), nearest.vectors_of(1))
    left = joined.without(torch.tensor([0, 1]))
    assert left.counts.tolist() == [7, 0] and left.vectors.shape == (7, 3)
    assert torch.equal(left.vectors_of(0), nearest.vectors_of(1))
    z = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(2))
    before = nearest.penalty(z, torch.tensor([1]))
    assert torch.equal(left.penalty(z, torch.tensor([0])), before)
    assert len(joined.axes) == 3 and len(left.axes) == 2  # the other's are gone


def plain_novelty(vectors, weights, x):
    """Novelty by loops over all kept vectors, float64."""
    found = []
    for row in x:
        distances = [
            (np.linalg.norm(row - vector), weight)
            for own, weight in zip(vectors, weights, strict=True)
            for vector in own
        ]
        ordered = sorted(distances, key=lambda pair: pair[0])
        (first, weight), (second, other) = ordered[:2]
        is_copy = first * weight < 0.05
        found.append(np.log((second * other if is_copy else first * weight) + 0.05))
    return np.array(found)


def test_novelty_is_that_of_a_plain_formula_traced_or_not():
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    rows = [torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (40, 0, 25)]
    vectors = [own @ axes + 100 * code for code, own in enumerate(rows)]
    weights = [2.0, 1.0, 0.5]
    nearest = NearestNormals.of(axes, vectors, weights, is_centered=True)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    x = torch.cat((x, rows[0][:5]))  # copies are compared with the others
    expected = plain_novelty([own.numpy() for own in vectors], weights, (x @ axes).numpy())
    np.testing.assert_allclose(nearest.novelty(x), expected, atol=2e-3)
    traced = torch.jit.trace(lambda x: nearest.novelty(x), x[:7])(x)
    np.testing.assert_allclose(traced, nearest.novelty(x), rtol=1e-12)
    nearest.has_copies.fill_(True)
    assert (nearest.novelty(x)[-5:] < np.log(0.06)).all()
    assert (nearest.novelty(x)[:30] == nearest.novelty(x[:30])).all()


def test_far_classes_are_kept_as_exactly_as_near_ones():
    rows = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = [rows[0], rows[1] + 1e6]
    for is_centered, exact in ((True, True), (False, False)):
        nearest = NearestNormals.of(torch.eye(3), vectors, [1.0, 1.0], is_centered=is_centered)
        error = (nearest.vectors_of(1) - vectors[1]).abs().max()
        assert (float(error) < 0.2) == exact
