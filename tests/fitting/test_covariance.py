"""Shrunk covariances and the closed-form parts of the model, against scikit-learn in float64."""

import numpy as np
import pytest
import torch
from mixtures import log_density_within
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage, shrunk_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skhgad.fitting import covariance
from skhgad.fitting.class_covariances import fit_class_covariances
from skhgad.fitting.covariance import ResidualMoments, shrink, whitening_matrix
from skhgad.fitting.samples import LevelSamples
from skhgad.fitting.start import align_start, whitened_start
from skhgad.model.flow import ConditionalFlow, LinearStart, identity_start
from skhgad.model.level import LevelModel
from skhgad.model.mixture import HierarchicalMixture, class_means
from skhgad.model.positions import position_codes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def residuals_of(n_samples, n_features, seed=0):
    """Correlated, zero-mean rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_samples, n_features)) @ rng.normal(size=(n_features, n_features))
    return rows - rows.mean(0)


def moments_of(rows, n_blocks=1):
    rows = torch.from_numpy(rows)
    moments = ResidualMoments(rows.shape[1])
    for block in rows.tensor_split(n_blocks):
        moments.update(block, block)
    return moments


def samples_of(x, codes, sizes, n_classes=3):
    """LevelSamples in blocks of the given sizes."""
    assert sum(sizes) == len(x)
    x, codes = torch.as_tensor(x), torch.as_tensor(codes)

    def blocks():
        return zip(x.split(sizes), codes.split(sizes), strict=True)

    return LevelSamples(blocks, n_classes, x.shape[2])


def make_classes(n_images=60, n_positions=3, n_features=4, n_classes=3, seed=0):
    """Classes with a mean and a shape of their own, of unequal size, in random order."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1.0, n_classes + 1)
    codes = rng.choice(n_classes, n_images, p=shares / shares.sum())
    means = 5 * rng.normal(size=(n_classes, n_features))
    roots = rng.normal(size=(n_classes, n_features, n_features))
    noise = rng.normal(size=(n_images, n_positions, n_features))
    return means[codes][:, None] + noise @ roots[codes], codes


# ---------------------------------------------------------------- covariance and shrinkage

SHAPES = [(50, 4), (8, 20), (500, 3), (2, 2), (3, 7)]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n_samples, n_features", SHAPES)
def test_shrinkage_is_scikit_learns(n_samples, n_features, scale):
    rows = residuals_of(n_samples, n_features)
    # At scale 1: scikit-learn's own fourth powers lose digits far from there.
    expected = ledoit_wolf_shrinkage(rows, assume_centered=True)
    found = moments_of(scale * rows).ledoit_wolf_shrinkage()
    padded = np.column_stack([rows, np.zeros((len(rows), 7))])
    of_padded = ledoit_wolf_shrinkage(padded, assume_centered=True)
    for x in (padded, rows):
        of_all = covariance.ledoit_wolf_shrinkage(torch.from_numpy(scale * x), n_features + 7)
        assert of_all == pytest.approx(of_padded, abs=1e-10)
    assert found == pytest.approx(expected, abs=1e-10)


def test_shrinkage_reaches_its_upper_bound():
    """Rows of an isotropic Gaussian: the estimate of the optimum is above 1 and clipped."""
    rows = np.random.default_rng(0).normal(size=(100, 2))
    assert ledoit_wolf_shrinkage(rows, assume_centered=True) == 1
    assert moments_of(rows).ledoit_wolf_shrinkage() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n_blocks", [2, 7, 50])
def test_streaming_changes_nothing(n_blocks):
    rows = residuals_of(50, 4)
    whole, streamed = moments_of(rows), moments_of(rows, n_blocks)
    assert streamed.n_samples == 50
    torch.testing.assert_close(streamed.covariance(), whole.covariance(), rtol=1e-12, atol=1e-12)
    assert streamed.ledoit_wolf_shrinkage() == pytest.approx(
        whole.ledoit_wolf_shrinkage(), abs=1e-12
    )


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_covariance_is_the_maximum_likelihood_one(scale):
    rows = scale * residuals_of(50, 4)
    expected = np.cov(rows, rowvar=False, bias=True)
    np.testing.assert_allclose(moments_of(rows).covariance(), expected, rtol=1e-10)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_shrink_is_scikit_learns(shrinkage):
    covariance = moments_of(residuals_of(50, 4)).covariance()
    expected = shrunk_covariance(covariance.numpy(), shrinkage)
    np.testing.assert_allclose(shrink(covariance, shrinkage), expected, rtol=1e-12)


def test_nothing_varies():
    for moments in (moments_of(np.zeros((5, 3))), ResidualMoments(3)):
        assert not moments.covariance().any()
        assert moments.ledoit_wolf_shrinkage() == 1.0
        assert torch.equal(shrink(moments.covariance(), 0.0), torch.eye(3).double())


@pytest.mark.parametrize("dtype, noise", [(torch.float64, 1e-16), (torch.float32, 1e-7)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_rounding_is_no_variation(scale, dtype, noise):
    values = torch.full((50, 3), scale, dtype=dtype)
    residuals = scale * noise * torch.randn(50, 3, generator=seeded())
    moments = ResidualMoments(3)
    moments.update(residuals, values)
    assert not moments.covariance().any()
    moments = ResidualMoments(3)
    moments.update(1e4 * residuals, values)  # a spread that the dtype can hold
    assert moments.covariance().trace() > 0


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n_features", [1, 2, 6])
def test_whitening_matrix_whitens(n_features, scale):
    rows = scale * residuals_of(50, n_features)
    covariance = torch.from_numpy(np.cov(rows, rowvar=False, bias=True).reshape([n_features] * 2))
    w = whitening_matrix(covariance)
    identity = torch.eye(n_features).double()
    torch.testing.assert_close(w.T @ covariance @ w, identity, rtol=0, atol=1e-10)
    whitened = rows @ w.numpy()
    np.testing.assert_allclose(whitened.T @ whitened / 50, identity, atol=1e-10)


def test_whitening_matrix_of_a_singular_covariance_is_invertible():
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.0])).double()
    w = whitening_matrix(covariance)
    assert w.isfinite().all()
    # the missing direction counts as one of 1e-10 of the largest variance
    expected = np.log([4.0, 1.0, 4e-10]).sum() / -2
    assert float(torch.linalg.slogdet(w)[1]) == pytest.approx(expected)


# ---------------------------------------------------------------- whitened start


def within_covariance(x, codes):
    """Pooled within-class covariance of vectors around the mean of their class, by hand."""
    centered = np.concatenate(
        [(x[codes == k] - x[codes == k].mean((0, 1))).reshape(-1, x.shape[-1]) for k in set(codes)]
    )
    return centered.T @ centered / len(centered)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n_positions", [1, 3])
@pytest.mark.parametrize("n_features", [1, 4])
def test_start_whitens_within_classes(n_features, n_positions, scale):
    x, codes = make_classes(n_positions=n_positions, n_features=n_features)
    x = scale * x
    start = whitened_start(samples_of(x, codes, [7, 20, 33]), shrinkage=0.0)
    z, log_det = start(torch.from_numpy(x))
    np.testing.assert_allclose(within_covariance(z.numpy(), codes), np.eye(n_features), atol=1e-9)
    expected = -0.5 * np.linalg.slogdet(within_covariance(x, codes))[1]
    assert float(log_det) == pytest.approx(expected)
    means = [z.numpy()[codes == k].mean((0, 1)) for k in range(3)]
    np.testing.assert_allclose(np.mean(means, axis=0), 0, atol=1e-9)


def test_whitened_distances_to_means_are_those_of_linear_discriminants():
    """Distances of whitened class means are the Mahalanobis distances LDA uses."""
    x, codes = make_classes(n_positions=1)
    start = whitened_start(samples_of(x, codes, [60]), shrinkage=0.0)
    z = start(torch.from_numpy(x))[0][:, 0].numpy()
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(x[:, 0], codes)
    precision = np.linalg.inv(lda.covariance_)
    for k in range(1, 3):
        gap = lda.means_[k] - lda.means_[0]
        found = z[codes == k].mean(0) - z[codes == 0].mean(0)
        assert found @ found == pytest.approx(gap @ precision @ gap)


@pytest.mark.parametrize("shrinkage", [0.25, "ledoit_wolf"])
def test_start_shrinks_the_pooled_covariance(shrinkage):
    x, codes = make_classes(n_images=12, n_features=6)
    start = whitened_start(samples_of(x, codes, [5, 7]), shrinkage)
    covariance = within_covariance(x, codes)
    if shrinkage == "ledoit_wolf":
        means = np.stack([x[codes == k].mean((0, 1)) for k in range(3)])
        rows = (x - means[codes][:, None]).reshape(-1, 6)
        shrinkage = ledoit_wolf_shrinkage(rows, assume_centered=True)
        assert 0.01 < shrinkage < 0.9
    expected = shrunk_covariance(covariance, shrinkage)
    w = start.matrix.numpy()
    np.testing.assert_allclose(w.T @ expected @ w, np.eye(6), atol=1e-9)


def test_start_copied_entry_by_entry_maps_to_the_same_bits():
    """As saving and loading does: the layout in memory must not change a product's rounding."""
    x, codes = make_classes(n_features=5)
    start = whitened_start(samples_of(x, codes, [60]))
    copy = LinearStart(start.mean.tolist(), start.matrix.tolist())
    x = torch.from_numpy(x)
    assert torch.equal(start(x)[0], copy(x)[0])


def test_a_class_without_samples_leaves_the_start_alone():
    x, codes = make_classes()
    few = whitened_start(samples_of(x, codes, [60]))
    many = whitened_start(samples_of(x, codes, [60], n_classes=5))
    assert torch.equal(few.mean, many.mean) and torch.equal(few.matrix, many.matrix)


@pytest.mark.parametrize("value", [0.1, 1e8, 1e-8, 0.0])
@pytest.mark.parametrize("n_images", [1, 7, 1000])
def test_constant_features_are_only_centered(value, n_images):
    """Not blown up by the inverse of their rounding errors."""
    x = np.full((n_images, 2, 3), value)
    start = whitened_start(samples_of(x, np.zeros(n_images, int), [n_images], n_classes=1))
    assert torch.equal(start.matrix.abs().sum(0), torch.ones(3).double())
    np.testing.assert_allclose(start(torch.from_numpy(x))[0], 0, atol=1e-12 * value)
    assert float(start.log_det) == 0


def test_identity_start_changes_nothing():
    x = torch.randn(3, 2, 4, generator=seeded()).double()
    z, log_det = identity_start(4)(x)
    assert torch.equal(z, x) and float(log_det) == 0


# ---------------------------------------------------------------- class covariances


def untrained_level(start, n_features, n_blocks, n_positions, n_classes=3, n_components=1):
    codes = position_codes(1, n_positions, 8) if n_positions > 1 else None
    generator = seeded(1)
    flow = ConditionalFlow(
        n_features, codes, n_blocks=n_blocks, identity_start=True, generator=generator
    )
    mixture = HierarchicalMixture(
        class_means(n_classes, n_features, 5.0), n_components, generator=generator
    )
    return LevelModel(start, flow, mixture, (1, n_positions)).double()


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_blocks", [0, 3])
@pytest.mark.parametrize("n_positions", [1, 3])
@pytest.mark.parametrize("n_features", [1, 2, 4])
@torch.no_grad()
def test_untrained_level_is_the_ledoit_wolf_mahalanobis_detector(
    n_features, n_positions, n_blocks, whiten
):
    """The classical detector, class by class, fitted by scikit-learn on the same vectors."""
    x, codes = make_classes(n_positions=n_positions, n_features=n_features)
    samples = samples_of(x, codes, [11, 49])
    start = whitened_start(samples) if whiten else identity_start(n_features)
    level = untrained_level(start, n_features, n_blocks, n_positions)
    fit_class_covariances(level, samples, first=samples_of(x[:20], codes[:20], [9, 11]))
    new = make_classes(n_positions=n_positions, n_features=n_features, seed=8)[0]
    z, log_det = level.latent(torch.from_numpy(new))
    found = log_density_within(level, z) + log_det[..., None]
    matrix = start.matrix.double().numpy()
    for k in range(3):
        own = LedoitWolf().fit((x[codes == k] @ matrix).reshape(-1, n_features))
        rows = (new @ matrix).reshape(-1, n_features)
        expected = -0.5 * own.mahalanobis(rows) - 0.5 * np.linalg.slogdet(own.covariance_)[1]
        expected += np.linalg.slogdet(matrix)[1]
        # the blocks' scales are 1 only to single precision
        np.testing.assert_allclose(found[..., k].ravel(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_given_shrinkage_is_used_for_the_classes():
    x, codes = make_classes()
    samples = samples_of(x, codes, [60])
    level = untrained_level(identity_start(4), 4, 0, 3)
    fit_class_covariances(level, samples, shrinkage=0.25)
    for k, whitener in enumerate(level.densities.whiteners.numpy()):
        rows = x[codes == k].reshape(-1, 4)
        expected = shrunk_covariance(np.cov(rows, rowvar=False, bias=True), 0.25)
        np.testing.assert_allclose(whitener.T @ expected @ whitener, np.eye(4), atol=1e-9)


@torch.no_grad()
def test_with_several_centers_the_residuals_are_those_of_the_posterior_mean():
    x, codes = make_classes(n_images=24)
    level = untrained_level(identity_start(4), 4, 2, 3, n_components=4)
    samples = samples_of(x, codes, [24])
    z, _ = level.latent(torch.from_numpy(x))
    centers = level.mixture.centers()
    weights = level.mixture.center_logits.softmax(1)
    moves = np.stack(
        [z[codes == k].flatten(0, 1).mean(0) - weights[k] @ centers[k] for k in range(3)]
    )
    moved = z - torch.from_numpy(moves[codes][:, None])
    residuals = (moved - level.mixture.expected_center(moved, torch.from_numpy(codes))).numpy()
    fit_class_covariances(level, samples, shrinkage=0.0)
    for k in range(3):
        own = residuals[codes == k].reshape(-1, 4)
        shift = level.densities.origins[k] - level.mixture.means[k]
        np.testing.assert_allclose(shift, moves[k] + own.mean(0), atol=1e-10)
        whitened = own @ level.densities.whiteners[k].numpy()
        np.testing.assert_allclose(np.cov(whitened, rowvar=False, bias=True), np.eye(4), atol=1e-8)


@pytest.mark.parametrize("n_copies", [1, 3, 7])
@pytest.mark.parametrize("n_blocks", [0, 3])
@torch.no_grad()
def test_a_class_of_equal_vectors_borrows_the_pooled_covariance(n_blocks, n_copies):
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(30, 4)), np.tile(rng.normal(size=4), (n_copies, 1))])[:, None]
    codes = np.repeat([0, 1], [30, n_copies])
    samples = samples_of(x, codes, [20, 10 + n_copies], n_classes=2)
    level = untrained_level(identity_start(4), 4, n_blocks, 1, n_classes=2)
    fit_class_covariances(level, samples, shrinkage=0.0)
    z = level.latent(torch.from_numpy(x))[0][:, 0].numpy()
    pooled = within_covariance(z[:, None], codes)
    w = level.densities.whiteners[1].numpy()
    np.testing.assert_allclose(w.T @ pooled @ w, np.eye(4), atol=1e-8)


@pytest.mark.parametrize("value", [0.1, 1e8])
@torch.no_grad()
def test_constant_features_keep_unit_covariances(value):
    x = np.full((7, 1, 3), value)
    samples = samples_of(x, np.zeros(7, int), [3, 4], n_classes=1)
    level = untrained_level(whitened_start(samples), 3, 3, 1, n_classes=1)
    fit_class_covariances(level, samples)
    w = level.densities.whiteners[0]
    torch.testing.assert_close(w.T @ w, torch.eye(3).double())
    z, _ = level.latent(torch.from_numpy(x + value))
    distance = -2 * log_density_within(level, z)
    np.testing.assert_allclose(distance, 3 * value**2, rtol=1e-5)


@torch.no_grad()
def test_background_has_mean_and_shrunk_covariance_of_everything():
    x, codes = make_classes()
    level = untrained_level(identity_start(4), 4, 2, 3)
    fit_class_covariances(level, samples_of(x, codes, [25, 35]))
    z = level.latent(torch.from_numpy(x))[0].reshape(-1, 4).numpy()
    np.testing.assert_allclose(level.densities.background_mean, z.mean(0), atol=1e-10)
    w = level.densities.background_whitener.numpy()
    expected = shrunk_covariance(np.cov(z, rowvar=False, bias=True), 0.1)
    np.testing.assert_allclose(w.T @ expected @ w, np.eye(4), atol=1e-9)


@torch.no_grad()
def test_a_single_class_has_no_background():
    x, codes = make_classes(n_classes=1)
    level = untrained_level(identity_start(4), 4, 2, 3, n_classes=1)
    fit_class_covariances(level, samples_of(x, codes, [60], n_classes=1))
    assert not level.densities.has_background
    z, log_det = level.latent(torch.from_numpy(x))
    assert level.evidence(z, log_det, torch.from_numpy(codes))[1] is None


@pytest.mark.parametrize("n_features", [1, 5])
def test_moments_around_the_mean_need_no_second_pass(n_features):
    rows = np.random.default_rng(0).gamma(1.0, size=(80, n_features)) + 3
    found, expected = moments_of(rows, 3).centered(), moments_of(rows - rows.mean(0))
    np.testing.assert_allclose(found.second, expected.second, rtol=1e-9)
    assert float(found.fourth) == pytest.approx(float(expected.fourth), rel=1e-9)
    assert found.ledoit_wolf_shrinkage() == pytest.approx(expected.ledoit_wolf_shrinkage())


@pytest.mark.parametrize("n_classes, n_features", [(3, 6), (4, 2), (2, 1)])
@torch.no_grad()
def test_aligned_start_turns_the_classes_to_their_latent_means(n_classes, n_features):
    means = class_means(n_classes, n_features, 5.0)
    rng = np.random.default_rng(3)
    codes = torch.arange(40) % n_classes
    root = torch.from_numpy(rng.normal(size=(n_features, n_features)))
    # A turned and moved copy of the latent means, which the alignment must find again.
    q = torch.linalg.qr(torch.from_numpy(rng.normal(size=(n_features, n_features))))[0]
    x = ((means.double() @ q)[codes] @ torch.linalg.inv(root) + 7)[:, None]
    start = LinearStart(torch.full((n_features,), 2.0), root)
    level = untrained_level(start, n_features, 3, 1, n_classes=n_classes)
    level.mixture.means.copy_(means)
    samples = samples_of(x, codes, [15, 25], n_classes=n_classes)
    level.start = align_start(start, samples, level.flow, level.mixture.means)
    z, _ = level.latent(x)
    np.testing.assert_allclose(z[:, 0], means[codes], atol=1e-5)
    assert float(level.start.log_det) == pytest.approx(float(start.log_det))
