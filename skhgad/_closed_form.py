"""The parts of the model with a closed form: the whitened start and the class covariances."""

import torch

from ._covariance import ResidualMoments, shrink, whitening_matrix
from ._flow import LinearStart

_BACKGROUND_SHRINKAGE = 0.1


def identity_start(n_features):
    """Start that changes nothing: the flow sees the raw features."""
    return LinearStart(torch.zeros(n_features), torch.eye(n_features))


def whitened_start(blocks, n_classes, n_features, shrinkage="ledoit_wolf"):
    """Whiten by the pooled within-class covariance.

    Parameters
    ----------
    blocks : callable
        Each call iterates over (x, codes): Tensors of shape (n, n_positions, n_features) and (n,).
    n_classes, n_features : int
    shrinkage : float in [0, 1] or "ledoit_wolf"
        Towards the identity of the same mean variance; or Ledoit and Wolf's estimate.

    Returns
    -------
    start : LinearStart
    """
    sums = torch.zeros(n_classes, n_features, dtype=torch.float64)
    counts = torch.zeros(n_classes, dtype=torch.float64)
    for x, codes in blocks():
        sums.index_add_(0, codes, x.double().mean(1))
        counts += torch.bincount(codes, minlength=n_classes)
    means = sums / counts.clamp_min(1)[:, None]
    moments = ResidualMoments(n_features)
    for x, codes in blocks():
        x = x.double()
        moments.update((x - means[codes][:, None]).flatten(0, 1), x.flatten(0, 1))
    if shrinkage == "ledoit_wolf":
        shrinkage = moments.ledoit_wolf_shrinkage()
    covariance = shrink(moments.covariance(), shrinkage)
    return LinearStart(means[counts > 0].mean(0), whitening_matrix(covariance))


@torch.no_grad()
def fit_class_covariances(level, blocks, shrinkage="ledoit_wolf"):
    """Give every class the covariance its latent vectors have around their centers.

    A flow trained on few samples leaves each class a shape of its own, which unit covariances read
    as noise. With an untrained flow and one center, the level becomes the Ledoit-Wolf Mahalanobis
    distance of each class: the classical detector is a special case of the model.

    Each vector is compared with the mean of the centers, weighted by their posterior; the mean
    residual of a class moves its centers, the covariance of the residuals becomes its covariance.
    The background is one Gaussian with the mean and covariance of all latent vectors together.

    Parameters
    ----------
    level : LevelModel
        Changed in place.
    blocks : callable
        As for `whitened_start`; raw features.
    shrinkage : float in [0, 1] or "ledoit_wolf"
    """
    mixture = level.mixture
    n_classes, n_features = mixture.means.shape
    sums = torch.zeros(n_classes, n_features, dtype=torch.float64)
    counts = torch.zeros(n_classes, dtype=torch.float64)
    total = torch.zeros(n_features, dtype=torch.float64)
    for z, residuals, codes in _residuals(level, blocks):
        sums.index_add_(0, codes, residuals.double().mean(1))
        counts += torch.bincount(codes, minlength=n_classes)
        total += z.double().mean(1).sum(0)
    shifts = sums / counts.clamp_min(1)[:, None]
    mean = total / counts.sum()
    moments = [ResidualMoments(n_features) for _ in range(n_classes)]
    overall = ResidualMoments(n_features)
    for z, residuals, codes in _residuals(level, blocks):
        centered = residuals.double() - shifts[codes][:, None]
        for code in codes.unique().tolist():
            own = codes == code
            moments[code].update(centered[own].flatten(0, 1), z[own].flatten(0, 1))
        overall.update((z.double() - mean).flatten(0, 1), z.flatten(0, 1))

    within = sum(moments, ResidualMoments(n_features))
    # A class whose vectors are all the same has no spread of its own: it borrows everybody's.
    own = [own if own.covariance().trace() > 0 else within for own in moments]
    whiteners = []
    for source in own:
        weight = source.ledoit_wolf_shrinkage() if shrinkage == "ledoit_wolf" else shrinkage
        whiteners.append(whitening_matrix(shrink(source.covariance(), weight)))
    mixture.set_covariances(shifts, torch.stack(whiteners))
    if n_classes > 1:  # of a single class, the background is the class
        covariance = shrink(overall.covariance(), _BACKGROUND_SHRINKAGE)
        mixture.set_background(mean, whitening_matrix(covariance))


def _residuals(level, blocks):
    """Iterate over (latent vectors, the same minus the center that explains them, codes)."""
    for x, codes in blocks():
        z, _ = level.latent(x)
        yield z, z - level.mixture.expected_center(z, codes), codes
