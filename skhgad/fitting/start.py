"""The start of a level: features whitened inside the classes."""

import math

import torch

from ..model.flow import LinearStart
from ..model.level import empty_level
from .covariance import ResidualMoments, class_means, shrink, whitening_matrix

# A table has few rows for the small directions of its covariance; whitening would magnify those.
_WHITENING_SHRINKAGE = {"maps": 0.1, "vectors": 0.9}


def whitened_start(samples, shrinkage="ledoit_wolf"):
    """Whiten raw features by their pooled within-class covariance.

    `shrinkage`, in [0, 1] or "ledoit_wolf", moves the covariance towards the identity of the
    same mean variance.
    """
    means, counts = class_means(samples.blocks(), samples)
    moments = ResidualMoments(samples.n_features)
    for x, codes in samples.blocks():
        x = x.double()
        moments.update((x - means[codes][:, None]).flatten(0, 1), x.flatten(0, 1))
    moments = samples.total(moments)
    if shrinkage == "ledoit_wolf":
        shrinkage = moments.ledoit_wolf_shrinkage()
    covariance = shrink(moments.covariance(), shrinkage)
    return LinearStart(means[counts > 0].mean(0), whitening_matrix(covariance))


@torch.no_grad()
def align_start(start, samples, flow, means):
    """Rotate and move a whitened start so that the classes begin near their latent means.

    The rotation is the orthogonal Procrustes solution. Without it, the class posterior of an
    untrained flow says little where features are few. The blocks of the flow must be at the
    identity, so that it is a rotation.
    """
    started = ((start(x.double())[0], codes) for x, codes in samples.blocks())
    current, _ = class_means(started, samples)
    rotation = torch.eye(means.shape[1], dtype=torch.float64)
    for mix in flow.blocks.mix.double():
        rotation = rotation @ mix.T
    wanted = means.double() @ rotation.T  # before the blocks
    center, wanted_center = current.mean(0), wanted.mean(0)
    cross = (current - center).T @ (wanted - wanted_center)
    # Few classes leave directions free; there, the rotation nearest the identity is taken.
    cross += 1e-6 * torch.linalg.matrix_norm(cross) * torch.eye(len(cross), dtype=cross.dtype)
    u, _, v = torch.linalg.svd(cross)
    matrix = start.matrix @ u @ v
    move = torch.linalg.solve(matrix.T, (center @ u @ v - wanted_center))
    return LinearStart(start.mean + move, matrix)


def build_level(parameters, samples, map_shape, dtype, generator):
    """Create an untrained level: start, flow and mixture.

    The start gets `dtype`, that of the features: vectors may be of any magnitude and are float64.
    """
    level = empty_level(parameters, samples.n_features, map_shape, samples.n_classes, generator)
    if parameters["start"] == "whitened":
        is_vector = math.prod(map_shape) == 1
        shrinkage = parameters["whitening_shrinkage"]
        if shrinkage == "auto":
            shrinkage = _WHITENING_SHRINKAGE["vectors" if is_vector else "maps"]
        level.start = whitened_start(samples, shrinkage)
        if is_vector and samples.n_classes > 1:
            level.start = align_start(level.start, samples, level.flow, level.mixture.means)
    level.start.to(dtype)
    return level
