"""Kernel densities: a Gaussian at every vector, all of one shape, wider where vectors are rare."""

import math
from dataclasses import replace

import torch

from ..model.mixture import LOWEST_EXPONENT, squared_distances
from .gaussian_mixture import GaussianMixture, equal_log_weights, whitener
from .gaussian_shrinkage import is_clearly_better, robust_mean, varying_axes

_BANDWIDTHS = torch.logspace(math.log10(0.05), math.log10(2.0), 14, dtype=torch.float64)
_FINE = torch.logspace(-0.15, 0.15, 7, dtype=torch.float64)
_LOCAL = torch.logspace(-0.5, 0.1, 7, dtype=torch.float64)
_POWERS = (0.5, 1.0)  # of the distance of a neighbour, that give a kernel its width
_NEIGHBOUR = 5
_MOST_WIDTHS, _WIDTH_STEP = 12, 0.2  # a step in the logarithm
_PRIOR_SHARES = (0.1, 0.3, 0.6, 1.0)
_STEPS = 6
_SMALLEST_VARIANCE = 1e-6  # of a kernel's shape, where 1 is that of the class
ROWS_PER_FEATURE = 2  # that varies; with fewer, the shape of a kernel cannot be told
MOST_KERNELS = 4096
_MOST_JUDGED = 1000  # vectors whose left-out likelihood chooses the bandwidth
_BLOCK_ENTRIES = 1 << 17  # of a matrix of distances: more leave the cache of the processor


def fit_kernels(z, ties=None, parts=None):
    """Fit a kernel density to vectors (n, n_features), in latent space, n at least 2.

    1. The bandwidth h of round kernels, covariance h^2 I, is the one that makes vectors most likely
       under the kernels of all others.
    2. Leave-one-out expectation-maximisation gives the kernels a shape: each vector is explained by
       the other vectors' kernels, and the covariance becomes that of the weighted differences.
    3. How much of the round kernel stays is chosen by the likelihood of vectors that took no part
       in step 2.
    4. Each kernel gets a width in proportion to the distance of its fifth neighbour, or to the root
       of that, if it makes vectors left out more likely by two standard errors.

    The others of a vector are those that differ from it, and that are of other `parts` (n,), if any
    are given: copies would explain each other by kernels of no width. In step 4 neighbours are as
    far apart as `ties` of `tie_covariances` makes them at least; None: 0.

    Sources: J. M. Leiva-Murillo, A. Artes-Rodriguez, "Algorithms for maximum-likelihood bandwidth
    selection in kernel density estimators", Pattern Recognition Letters 33, 2012; of the widths,
    L. Breiman, W. Meisel, E. Purcell, "Variable kernel estimates of multivariate densities",
    Technometrics 19, 1977.
    """
    n, n_features = z.shape
    identity = torch.eye(n_features, dtype=z.dtype)
    places, copies = torch.unique(z, dim=0, return_inverse=True)
    if not copies.any():
        return GaussianMixture(z, equal_log_weights(n), identity[None])
    judged = min(n, _MOST_JUDGED)
    is_copy = copies[:judged, None] == copies
    if parts is not None and (parts != parts[0]).any():
        is_copy |= parts[:judged, None] == parts
    bandwidth = _best_bandwidth(z, is_copy, identity, _BANDWIDTHS)
    covariance = bandwidth**2 * identity
    has_shape = n >= max(10, ROWS_PER_FEATURE * varying_axes(z).shape[1])
    if has_shape:
        half = judged // 2
        learned = _shape(z, is_copy[:half], covariance)
        share = _best_share(z, is_copy, half, covariance, learned)
        if share < 1:
            covariance = _mixed(_shape(z, is_copy, covariance), covariance, share)
    likelihoods = _left_out(z, is_copy, covariance, _FINE)
    best = int(robust_mean(likelihoods).argmax())
    covariance = covariance * _FINE[best] ** 2
    mixture = GaussianMixture(z, equal_log_weights(n), covariance[None])
    if not has_shape or len(places) <= _NEIGHBOUR:
        return mixture
    return _with_widths(mixture, places, copies, is_copy, ties, likelihoods[:, best])


def _left_out(z, is_copy, covariance, bandwidths, log_widths=None, *, first=0):
    """Log-likelihoods (n_judged, n_bandwidths) of vectors of z under all the others.

    `is_copy`, bool of shape (n_judged, n), tells which vectors equal the judged one; they and
    itself are no others. The judged ones are the first of z from `first` on. A kernel has the
    bandwidth times its width; `log_widths` (n,), None: 0.
    """
    w = whitener(covariance)
    log_det, n_features = w.diagonal().log().sum(), z.shape[1]
    found = []
    for _, distances in _distances(z, is_copy, w, first):
        if log_widths is not None:
            distances *= (-2 * log_widths).exp()
        nearest = distances.amin(1, keepdim=True)
        # Single precision is enough for what is chosen by these, and twice as fast.
        distances = (distances - nearest).float()
        columns = []
        for h in bandwidths.tolist():
            exponents, highest = distances * (-0.5 / h**2), -0.5 / h**2 * nearest[:, 0]
            if log_widths is not None:
                exponents -= (n_features * log_widths).float()
                top = exponents.amax(1)
                exponents, highest = exponents.sub_(top[:, None]), highest + top
            total = exponents.clamp_min_(LOWEST_EXPONENT).exp_().sum(1)
            columns.append(total.log() + highest - n_features * math.log(h))
        found.append(torch.stack(columns, 1))
    n_others = (~is_copy[first:]).sum(1, keepdim=True)
    return torch.cat(found) + (log_det - n_others.log())


def _distances(z, is_copy, w, first=0):
    """Yield rows, a slice, and the squared distances of these vectors from all others."""
    whitened = z @ w
    step = max(1, _BLOCK_ENTRIES // len(z))
    for start in range(first, len(is_copy), step):
        rows = slice(start, min(start + step, len(is_copy)))
        yield (
            rows,
            squared_distances(whitened[rows], whitened).masked_fill_(is_copy[rows], torch.inf),
        )


def _best_bandwidth(z, is_copy, covariance, bandwidths):
    likelihoods = robust_mean(_left_out(z, is_copy, covariance, bandwidths))
    return float(bandwidths[int(likelihoods.argmax())])


def _shape(z, is_copy, prior):
    """Covariance of the differences between vectors and the kernels that explain them."""
    covariance = prior
    for _ in range(_STEPS):
        # A little of the prior keeps the covariance regular where vectors have equal features.
        learned = _mixed(_differences(z, is_copy, whitener(covariance)), prior, _PRIOR_SHARES[0])
        if torch.linalg.cholesky_ex(learned).info:  # rounding, of clusters that are very far apart
            break
        covariance = learned
    return covariance


def _differences(z, is_copy, w):
    judged = z[: len(is_copy)]
    totals = z.new_zeros(len(z))
    expected = torch.empty_like(judged)
    for rows, distances in _distances(z, is_copy, w):
        posterior = (distances - distances.amin(1, keepdim=True)).mul_(-0.5)
        posterior = posterior.clamp_min_(LOWEST_EXPONENT).exp_()
        posterior /= posterior.sum(1, keepdim=True)
        expected[rows] = posterior @ z
        totals += posterior.sum(0)
    cross = judged.T @ expected
    scatter = judged.T @ judged + z.T @ (totals[:, None] * z) - cross - cross.T
    return scatter / len(judged)


def _mixed(learned, prior, share):
    """Mix a learned covariance with the prior, scaled to the same mean variance."""
    # Vectors that are equal but for rounding explain each other by kernels of no width.
    scale = (learned.trace() / prior.trace()).clamp_min(_SMALLEST_VARIANCE)
    return (1 - share) * learned + share * scale * prior


def _best_share(z, is_copy, half, prior, learned):
    scores = []
    for share in _PRIOR_SHARES:
        covariance = prior if share == 1 else _mixed(learned, prior, share)
        likelihoods = _left_out(z, is_copy, covariance, _FINE, first=half)
        scores.append(robust_mean(likelihoods).max())
    return _PRIOR_SHARES[int(torch.stack(scores).argmax())]


def _with_widths(mixture, places, copies, is_copy, ties, likelihoods):
    """Give the kernels widths of their own where that pays; else return them as they are.

    `places` are the distinct vectors, `copies` (n,) tells where each vector lies. `likelihoods` are
    those of the judged vectors with one width.
    """
    z, covariance = mixture.centers, mixture.covariances[0]
    n, n_features = z.shape
    w = whitener(covariance)
    squares = _neighbour_distances(places @ w)
    if ties is not None:
        squares = squares + 2 * ((w.T @ ties) * w.T).sum()
    logs = 0.5 * squares[copies].log()
    logs -= logs.mean()
    best, chosen = likelihoods, None
    for power in _POWERS:
        names, log_widths = _grouped(power * logs, max(1, min(_MOST_WIDTHS, n // n_features)))
        found = _left_out(z, is_copy, covariance, _LOCAL, log_widths[names])
        column = int(robust_mean(found).argmax())
        if is_clearly_better(found[:, column], best):
            best, chosen = found[:, column], (names, log_widths + _LOCAL[column].log())
    if chosen is None:
        return mixture
    names, log_widths = chosen
    return replace(
        mixture, covariances=(2 * log_widths).exp()[:, None, None] * covariance, names=names
    )


def _neighbour_distances(x):
    """Squared distance (n,) of each vector from its fifth neighbour, and what rounding may hide."""
    x = x - x.mean(0)
    rounding = 100 * torch.finfo(x.dtype).eps * x.square().sum(1).max()
    step = max(1, _BLOCK_ENTRIES // len(x))
    found = [
        squared_distances(block, x).topk(_NEIGHBOUR + 1, largest=False).values[:, -1]
        for block in x.split(step)
    ]
    return torch.cat(found) + rounding


def _grouped(logs, most):
    """Put numbers (n,) in steps: the group of each, int64, and the mean of each group."""
    low, high = float(logs.min()), float(logs.max())
    step = max(_WIDTH_STEP, (high - low) / most)
    names = torch.unique(((logs - low) / step).long().clamp_max(most - 1), return_inverse=True)[1]
    return names, torch.bincount(names, logs) / torch.bincount(names)
