"""How far a covariance is shrunk: by the likelihood of the samples left out, one at a time."""

import math

import torch

from .covariance import ledoit_wolf_shrinkage
from .student import likeliest_student

# Share of the samples whose likelihoods count as equal, so that heavy tails decide nothing alone.
_LOWEST_SHARE = 0.02
# Standard deviation of left-out distances, over that of a Gaussian, up to which it is trusted.
_WIDEST_TAILS = 5.0
_VECTORS_PER_AXIS = 4  # with fewer, distances of left-out samples tell nothing of tails
_FOLDS_OF_PARTS = 10
_FEWEST_OF_RELATIONS, _FEWEST_PER_AXIS = 20, 2  # vectors that show a relation
_ROUNDING = 1e-6
SMALLEST_SCATTER = 1e-12  # of the largest, below which nothing varies in an axis
PSEUDO_COUNTS = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)


def robust(log_likelihoods):
    """Raise the lowest 2 % of the samples (first axis) to their upper end."""
    low = torch.quantile(log_likelihoods, _LOWEST_SHARE, dim=0)
    return torch.maximum(log_likelihoods, low)


def robust_mean(log_likelihoods):
    """Mean over the samples (first axis) of what `robust` returns."""
    return robust(log_likelihoods).mean(0)


def principal_axes(residuals):
    """Eigenvalues (r,) and eigenvectors (n_features, r) of the scatter of `residuals`.

    `residuals` has shape (n, n_features), float64; r = min(n, n_features).
    """
    n, n_features = residuals.shape
    if n_features <= n:
        values, vectors = torch.linalg.eigh(residuals.T @ residuals)
        return values.clamp_min(0), vectors
    _, singular, vectors = torch.linalg.svd(residuals, full_matrices=False)
    return singular.square(), vectors.T


def varying_axes(z):
    """Return the orthonormal axes (n_features, n_axes) along which vectors (n, n_features) vary."""
    scatter, axes = principal_axes(z - z.mean(0))
    return axes[:, scatter > SMALLEST_SCATTER * scatter.max()]


def lasting_relations(residuals):
    """Axes (n_features, n_axes) in which a class does not vary, and new vectors should not either.

    There are none with fewer than 20 residuals (n, n_features) or 2 for each feature. Nor are there
    any if one of the residuals is the only one that varies in some axis: without it, this would
    have been an axis in which nothing varies, and a normal vector did not keep to it.
    """
    n, n_features = residuals.shape
    none = residuals.new_zeros(n_features, 0)
    if n < max(_FEWEST_OF_RELATIONS, _FEWEST_PER_AXIS * n_features):
        return none
    scatter, axes = principal_axes(residuals)
    varies = scatter > SMALLEST_SCATTER * scatter.max()
    if varies.all():
        return none
    shares = (residuals @ axes[:, varies]).square() @ scatter[varies].reciprocal()
    is_only_one = n / (n - 1) * shares > 1 - _ROUNDING
    return none if is_only_one.any() else axes[:, ~varies]


def is_clearly_better(log_likelihoods, others, n_errors=2.0):
    """Whether the mean of the first is larger by more than so many standard errors."""
    gain = robust(log_likelihoods) - robust(others)
    return bool(gain.mean() > n_errors * gain.std() / math.sqrt(len(gain)))


def share_of_prior(pseudo, n):
    """Return the share that `pseudo` vectors of the prior have beside n others; 1 for inf."""
    return 1.0 if math.isinf(pseudo) else pseudo / (n + pseudo)


def left_out_log_likelihoods(residuals, inflation, pseudo, scale, n_features=None):
    """Log-likelihoods (n,) of samples under the shrunk Gaussian of all the others.

    In nats, up to the constant of the Gaussian. For parameters, see `left_out_distances`.
    """
    along = _along_axes(residuals, n_features)
    return -0.5 * sum(left_out_distances(*along, inflation, pseudo, scale))


def left_out_distances(coordinates, scatter, n, n_features, inflation, pseudo, scale):
    r"""Squared Mahalanobis distance of each sample from the shrunk Gaussian of all the others.

    The covariance is (R^T R + nu t I) / (n + nu): nu samples of the prior variance t stand beside
    the n residuals R. Leaving one sample out is a rank-one change, so no covariance is computed
    twice. Source: J. P. Hoffbeck, D. A. Landgrebe, "Covariance matrix estimation and classification
    with limited training data", IEEE PAMI 18, 1996.

    Parameters
    ----------
    coordinates : Tensor of shape (n_judged, r)
        Residuals of the samples to judge in the principal axes of all residuals.
    scatter : Tensor of shape (r,)
        Eigenvalues of R^T R; those of the other n_features - r axes are zero.
    n : int
        Number of residuals.
    n_features : int
    inflation : Tensor of shape (n_judged,)
        From `inflation_of`.
    pseudo : float
        nu; inf = the prior alone.
    scale : float
        The prior variance t.

    Returns
    -------
    distances : Tensor of shape (n_judged,)
    log_det : Tensor of shape (n_judged,)
        Log-determinants of the covariances.
    """
    if math.isinf(pseudo):
        distances = inflation.square() * coordinates.square().sum(1) / scale
        return distances, torch.full_like(distances, n_features * math.log(scale))
    total = n - 1 + pseudo
    variances = (scatter + pseudo * scale) / total
    log_det = variances.log().sum()
    n_null = n_features - len(scatter)
    if n_null:
        log_det = log_det + n_null * math.log(pseudo * scale / total)
    distances = coordinates.square() @ variances.reciprocal()
    left = (1 - inflation / total * distances).clamp_min(1e-12)
    return inflation.square() * distances / left, log_det + left.log()


def inflation_of(codes, parts=None):
    """n_k / (n_k - 1) of each sample, float64, with n_k the size of its class, in `parts` if any.

    The mean of the class moves away from a sample that is left out by this factor. For a class of
    one it is 2.
    """
    if parts is None:
        counts = torch.bincount(codes)[codes].double()
    else:
        pairs = torch.unique(torch.stack((codes, parts)), dim=1)
        counts = torch.bincount(pairs[0])[codes].double()
    return counts / (counts - 1).clamp_min(0.5)


def likeliest_pseudo_count(
    residuals, inflation, scale, factor=1.0, candidates=PSEUDO_COUNTS, n_features=None,
    is_robust=True, parts=None, heavy_tails=False,
):  # fmt: skip
    """Choose how many pseudo-samples of the prior a covariance takes, inf = the prior alone.

    `candidates` are multiplied by `factor`. `n_features` None = that of the residuals; more, if
    they leave out features in which they do not vary. Axes in which nothing varies take no part
    where there are more vectors than features. `is_robust`: likelihoods count as `robust` has them.
    `parts` (n,) are those of the samples, which are left out together; None = one at a time.
    `heavy_tails`: the likelihood is that of a t distribution, see `likeliest_student`.
    """
    pseudo, along = [factor * nu for nu in candidates], _along_axes(residuals, n_features)
    if parts is None:
        found = (left_out_distances(*along, inflation, nu, scale) for nu in pseudo)
    else:
        found = _distances_of_parts(*along, inflation, pseudo, scale, parts)
    likelihoods = []
    for distances, log_dets in found:
        shape = likeliest_student(distances, along[-1]) if heavy_tails else -0.5 * distances
        likelihoods.append(shape - 0.5 * log_dets)
    likelihoods = torch.stack(likelihoods, 1)
    means = robust_mean(likelihoods) if is_robust else likelihoods.mean(0)
    return pseudo[int(means.argmax())]


def has_heavy_tails(residuals, inflation, scale, pseudo):
    """Whether normal samples lie much farther from the mean than a Gaussian says.

    Squared Mahalanobis distances of samples left out have the standard deviation sqrt(2 d) under a
    Gaussian. Here it is more than five times that: the likelihood of a Gaussian cannot be trusted.
    As many of the principal axes count as there are vectors to judge them by.
    """
    if len(residuals) < 2:
        return False
    coordinates, scatter, n, _ = _along_axes(residuals)
    chosen = scatter.argsort(descending=True)[: max(1, n // _VECTORS_PER_AXIS)]
    distances, _ = left_out_distances(
        coordinates[:, chosen], scatter[chosen], n, len(chosen), inflation, pseudo, scale
    )
    distances = distances.clamp_max(torch.quantile(distances, 1 - _LOWEST_SHARE))
    # Around the mean distance, because shrinkage makes all distances smaller.
    expected = distances.mean() * math.sqrt(2 / len(chosen))
    return bool(distances.std() > _WIDEST_TAILS * expected)


def ledoit_wolf_pseudo_count(residuals, n_features):
    """Return the shrinkage of Ledoit and Wolf (2004) as pseudo-samples, and the prior variance.

    The residuals may leave out features in which they do not vary.
    """
    n, shrinkage = len(residuals), ledoit_wolf_shrinkage(residuals, n_features)
    scale = float(residuals.square().sum()) / n / n_features
    return (math.inf if shrinkage >= 1 else n * shrinkage / (1 - shrinkage)), scale


def _distances_of_parts(coordinates, scatter, n, n_features, inflation, pseudo, scale, parts):
    """Return what `left_out_distances` does for each of `pseudo`, without a tenth of the parts.

    Returns a list of pairs of distances and log-determinants, each (n,).
    """
    folds = torch.unique(parts, return_inverse=True)[1] % _FOLDS_OF_PARTS
    found = [(coordinates.new_empty(n), coordinates.new_empty(n)) for _ in pseudo]
    for fold in folds.unique():
        own = folds == fold
        judged, count = coordinates[own], int((~own).sum())
        others, axes = torch.linalg.eigh(scatter.diag() - judged.T @ judged)
        squares, others = (judged @ axes).square(), others.clamp_min(0)
        for nu, (distances, log_dets) in zip(pseudo, found, strict=True):
            if math.isinf(nu):
                variances = torch.full_like(others, scale)
            else:
                variances = (others + nu * scale) / (count + nu)
            rest = scale if math.isinf(nu) else nu * scale / (count + nu)
            log_det = variances.log().sum() + (n_features - len(others)) * math.log(rest)
            distances[own] = inflation[own].square() * (squares @ variances.reciprocal())
            log_dets[own] = log_det
    return found


def _along_axes(residuals, n_features=None):
    n = len(residuals)
    n_features = residuals.shape[1] if n_features is None else n_features
    scatter, axes = principal_axes(residuals)
    varies = scatter > SMALLEST_SCATTER * scatter.max()
    judged = residuals @ axes[:, varies]
    return judged, scatter[varies], n, int(varies.sum()) if n_features <= n else n_features


def shrunk_covariance(scatter, n, pseudo, prior):
    """(scatter + nu prior) / (n + nu); the prior alone for nu = inf."""
    if math.isinf(pseudo):
        return prior.clone()
    return (scatter + pseudo * prior) / (n + pseudo)
