"""Shrunk covariances from streamed residuals, and the whitening they give."""

import torch


class ResidualMoments:
    """Moments of residuals up to the fourth, gathered block by block in float64."""

    def __init__(self, n_features, device="cpu"):
        self.n_samples = 0
        self.first = torch.zeros(n_features, dtype=torch.float64, device=device)
        self.third = torch.zeros_like(self.first)
        self.second = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)
        self.fourth = torch.zeros((), dtype=torch.float64, device=device)
        self._size = torch.zeros((), dtype=torch.float64, device=device)
        self._eps = torch.finfo(torch.float64).eps

    def update(self, residuals, values):
        """Add residuals (n, n_features), computed from `values` of the same shape.

        Magnitude and dtype of the values tell how much of the spread is rounding.
        """
        self._eps = max(self._eps, torch.finfo(values.dtype).eps)
        residuals = residuals.double()
        self.n_samples += len(residuals)
        squares = residuals.square().sum(1)
        self._size += values.double().square().sum() + squares.sum()
        self.first += residuals.sum(0)
        self.second += residuals.T @ residuals
        self.third += squares @ residuals
        self.fourth += squares.square().sum()

    def centered(self):
        """Moments of the same residuals around their mean, exact; to be read, not updated."""
        moments = self + ResidualMoments(len(self.first), self.first.device)
        if not self.n_samples:
            return moments
        mean = self.first / self.n_samples
        square = mean.square().sum()
        moments.first = torch.zeros_like(mean)
        moments.second = self.second - self.n_samples * torch.outer(mean, mean)
        moments.fourth = (
            self.fourth
            - 4 * mean @ self.third
            + 4 * mean @ self.second @ mean
            + 2 * square * self.second.trace()
            - 3 * self.n_samples * square.square()
        )
        return moments

    def __add__(self, other):
        total = ResidualMoments(len(self.second), self.second.device)
        for name in ("n_samples", "first", "second", "third", "fourth", "_size"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total._eps = max(self._eps, other._eps)
        return total

    def covariance(self):
        """Maximum-likelihood covariance in float64, zero where nothing varies but by rounding."""
        if _is_rounding(self.second.trace(), self.n_samples, self._size, self._eps):
            return torch.zeros_like(self.second)
        return self.second / self.n_samples

    def ledoit_wolf_shrinkage(self):
        """Shrinkage in [0, 1] that Ledoit and Wolf (2004) find optimal; 1 when nothing varies.

        It is what `sklearn.covariance.ledoit_wolf_shrinkage` gives for centered data.
        """
        covariance = self.covariance()
        n_features = len(covariance)
        mean_variance = covariance.trace() / n_features
        # Relative moments: raw features of scale 1e-8 would underflow in the fourth power.
        if not mean_variance > 0:
            return 1.0
        spread = (covariance / mean_variance).square().sum()
        fourth = self.fourth / mean_variance / mean_variance / self.n_samples
        return _shrinkage(fourth, spread, self.n_samples, n_features)


def gaussian_shrinkage(covariance, n_samples):
    """Shrinkage of Ledoit and Wolf, the fourth moments taken to be those of a Gaussian.

    The covariance alone tells them. `ResidualMoments.ledoit_wolf_shrinkage` measures them.
    """
    mean_variance = covariance.trace() / len(covariance)
    if not mean_variance > 0:
        return 1.0
    spread = (covariance / mean_variance).square().sum()
    return gaussian_shrinkage_of(spread, n_samples, len(covariance))


def gaussian_shrinkage_of(spread, n_samples, n_features):
    """As `gaussian_shrinkage`, from the sum of squares of a covariance of mean variance 1."""
    return _shrinkage(n_features**2 + 2 * spread, spread, n_samples, n_features)


def ledoit_wolf_shrinkage(residuals, n_features):
    """Shrinkage of Ledoit and Wolf (2004) for vectors (n, r) around zero.

    It is what `sklearn.covariance.ledoit_wolf_shrinkage` gives, in n d min(n, d) operations. The
    vectors may leave out those of `n_features` features in which they do not vary.
    """
    n, squares = len(residuals), residuals.square().sum(1)
    mean_variance = squares.mean() / n_features
    if not mean_variance > 0:
        return 1.0
    tall = residuals if residuals.shape[1] <= n else residuals.T
    spread = (tall.T @ tall / n / mean_variance).square().sum()
    fourth = (squares / mean_variance).square().mean()
    return _shrinkage(fourth, spread, n, n_features)


def _shrinkage(fourth, spread, n_samples, n_features):
    """Shrinkage from moments of vectors whose mean variance is 1."""
    distance = spread - n_features
    if not distance > 0:
        return 1.0
    return float(((fourth - spread) / n_samples / distance).clamp(0, 1))


def is_rounding(squares, n_samples, size, dtype):
    """Whether a sum of squared residuals is no more than rounding of vectors of a dtype.

    `size` is the sum of the squares of the vectors themselves, at least.
    """
    return _is_rounding(squares, n_samples, size, torch.finfo(dtype).eps)


def _is_rounding(squares, n_samples, size, eps):
    # A sum of n values errs by up to n eps of float64, a flow by some 100 eps of its dtype.
    # Without this, whitening would magnify the rounding errors of identical rows.
    tolerance = n_samples * torch.finfo(torch.float64).eps + 100 * eps
    return bool(squares <= tolerance**2 * size)


def shrink(covariance, shrinkage):
    """Shrink a covariance towards the identity of the same mean variance.

    Zero becomes the identity.
    """
    n_features = len(covariance)
    mean_variance = covariance.trace() / n_features
    identity = torch.eye(n_features, dtype=covariance.dtype, device=covariance.device)
    if not mean_variance > 0:
        return identity
    return (1 - shrinkage) * covariance + shrinkage * mean_variance * identity


def unshrink(covariance, shrinkage):
    """Undo `shrink`, of a shrinkage below 1."""
    n_features = len(covariance)
    identity = torch.eye(n_features, dtype=covariance.dtype, device=covariance.device)
    prior = shrinkage * (covariance.trace() / n_features) * identity
    return (covariance - prior) / (1 - shrinkage)


def whitening_matrix(covariance):
    """Inverse square root W of a float64 covariance: W = W.T and W.T @ covariance @ W = I.

    Eigenvalues below 1e-10 of the largest are raised to that. The symmetric root does not depend on
    the signs and the order of eigenvectors, which rounding decides where eigenvalues are close.
    """
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors / values.clamp_min(1e-10 * values[-1]).sqrt()) @ vectors.T


def class_means(pairs, samples, n_features=None):
    """Mean of the vectors of each class over images and positions, and the images of each class.

    Each pair holds vectors (n, n_positions, n_features) and codes (n,). `samples` gives the sizes,
    and sums over processes; `n_features` None = that of the samples.

    Means (n_classes, n_features), zero for a class without images, and
    counts (n_classes,) are float64.
    """
    n_classes = samples.n_classes
    n_features = samples.n_features if n_features is None else n_features
    sums = torch.zeros(n_classes, n_features, dtype=torch.float64)
    counts = torch.zeros(n_classes, dtype=torch.float64)
    for vectors, codes in pairs:
        sums.index_add_(0, codes, vectors.double().mean(1))
        counts += torch.bincount(codes, minlength=n_classes)
    sums, counts = samples.total(sums), samples.total(counts)
    return sums / counts.clamp_min(1)[:, None], counts


def residuals_within(vectors, groups):
    """Vectors (n, n_features) less the mean of their group; groups (n,), int64, from 0."""
    counts = torch.bincount(groups)
    sums = vectors.new_zeros(len(counts), vectors.shape[1]).index_add_(0, groups, vectors)
    return vectors - (sums / counts.clamp_min(1)[:, None])[groups]


def coordinates_in_span(vectors):
    """Return vectors (n, n_features), of more features than vectors, as coordinates (n, n).

    They are those in some orthonormal axes of the space that the vectors span, so that lengths,
    distances and angles stay.
    """
    return torch.linalg.qr(vectors.T, mode="r").R.T.contiguous()
