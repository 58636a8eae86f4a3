"""The parts of the model with a closed form: the whitened start and the class covariances."""

import torch

from ..model.flow import LinearStart
from ..model.level import LevelModel
from ..model.mixture import HierarchicalMixture
from .covariance import ResidualMoments, shrink, whitening_matrix
from .processes import ALONE

_BACKGROUND_SHRINKAGE = 0.1


def identity_start(n_features):
    """Start that changes nothing: the flow sees the raw features."""
    return LinearStart(torch.zeros(n_features), torch.eye(n_features))


def whitened_start(blocks, n_classes, n_features, shrinkage="ledoit_wolf", processes=ALONE):
    """Whiten by the pooled within-class covariance.

    Parameters
    ----------
    blocks : callable
        Each call iterates over (x, codes): Tensors of shape (n, n_positions, n_features) and (n,).
    n_classes, n_features : int
    shrinkage : float in [0, 1] or "ledoit_wolf"
        Towards the identity of the same mean variance; or Ledoit and Wolf's estimate.
    processes : Processes, default=ALONE
        Who visit the samples together; `blocks` are those of this one.

    Returns
    -------
    start : LinearStart
    """
    means, counts = _class_means(blocks(), torch.empty(n_classes, n_features), processes)
    moments = ResidualMoments(n_features)
    for x, codes in blocks():
        x = x.double()
        moments.update((x - means[codes][:, None]).flatten(0, 1), x.flatten(0, 1))
    moments = processes.total(moments)
    if shrinkage == "ledoit_wolf":
        shrinkage = moments.ledoit_wolf_shrinkage()
    covariance = shrink(moments.covariance(), shrinkage)
    return LinearStart(means[counts > 0].mean(0), whitening_matrix(covariance))


@torch.no_grad()
def align_start(start, blocks, flow, means, processes=ALONE):
    """Turn and move a whitened start so that the classes begin near their latent means.

    The orthogonal Procrustes rotation; distances between vectors stay what they are. Without it,
    the class posterior of an untrained flow says little where features are few.

    Parameters
    ----------
    start : LinearStart
    blocks : callable
        As for `whitened_start`.
    flow : ConditionalFlow
        Untrained, its blocks at the identity: a rotation.
    means : Tensor of shape (n_classes, n_features)
        Of the mixture.
    processes : Processes, default=ALONE
        As for `whitened_start`.

    Returns
    -------
    LinearStart
    """
    started = ((start(x.double())[0], codes) for x, codes in blocks())
    found, _ = _class_means(started, means, processes)
    turn = torch.eye(means.shape[1], dtype=torch.float64)
    for mix in flow.blocks.mix.double():
        turn = turn @ mix.T
    wanted = means.double() @ turn.T  # before the blocks
    center, wanted_center = found.mean(0), wanted.mean(0)
    cross = (found - center).T @ (wanted - wanted_center)
    # Few classes leave directions free; there, the rotation nearest the identity is taken.
    cross += 1e-6 * torch.linalg.matrix_norm(cross) * torch.eye(len(cross), dtype=cross.dtype)
    u, _, v = torch.linalg.svd(cross)
    matrix = start.matrix @ u @ v
    move = torch.linalg.solve(matrix.T, (center @ u @ v - wanted_center))
    return LinearStart(start.mean + move, matrix)


@torch.no_grad()
def fit_class_covariances(level, blocks, shrinkage="ledoit_wolf", *, first=None, processes=ALONE):
    """Give every class the covariance its latent vectors have around their centers.

    A flow trained on few samples leaves each class a shape of its own, which unit covariances read
    as noise. With an untrained flow and one center, the level becomes the Ledoit-Wolf Mahalanobis
    distance of each class: the classical detector is a special case of the model.

    The centers of a class are moved to where its vectors are. Then each vector is compared with the
    mean of the centers, weighted by their posterior; the mean residual moves the centers again, and
    the covariance of the residuals becomes that of the class. The classes are told apart by the
    mean of their covariances.
    The background is one Gaussian with the mean and covariance of all latent vectors together.

    Parameters
    ----------
    level : LevelModel
        Changed in place.
    blocks : callable
        As for `whitened_start`; raw features.
    shrinkage : float in [0, 1] or "ledoit_wolf"
    first : callable, default=None
        Like `blocks`, of some images of each class, enough to move its centers near its vectors;
        None = all images.
    processes : Processes, default=ALONE
        As for `whitened_start`.
    """
    mixture = level.mixture
    n_classes, n_features = mixture.means.shape
    shifts = _provisional_shifts(level, blocks if first is None else first, processes)
    origin = shifts.mean(0)
    moments = [ResidualMoments(n_features) for _ in range(n_classes)]
    overall = ResidualMoments(n_features)
    sums = torch.zeros(n_classes, n_features, dtype=torch.float64)
    for x, codes in blocks():
        z, _ = level.latent(x)
        sums.index_add_(0, codes, z.double().sum(1))
        moved = z - shifts[codes][:, None].to(z)
        residuals = moved - mixture.expected_center(moved, codes)
        for code in codes.unique().tolist():
            own = codes == code
            moments[code].update(residuals[own].flatten(0, 1), z[own].flatten(0, 1))
        if n_classes > 1:  # of a single class, the background is the class
            overall.update((z.double() - origin).flatten(0, 1), z.flatten(0, 1))
    moments = [processes.total(own) for own in moments]
    counts = torch.tensor([[max(1, own.n_samples)] for own in moments])
    locations = processes.total(sums) / counts
    shifts = shifts + torch.stack([own.first / max(1, own.n_samples) for own in moments])
    moments = [own.centered() for own in moments]
    within = sum(moments, ResidualMoments(n_features))
    # A class whose vectors are all the same has no spread of its own: it borrows everybody's.
    own = [own if own.covariance().trace() > 0 else within for own in moments]
    whiteners, shared = [], torch.zeros(n_features, n_features, dtype=torch.float64)
    for source in own:
        weight = source.ledoit_wolf_shrinkage() if shrinkage == "ledoit_wolf" else shrinkage
        covariance = shrink(source.covariance(), weight)
        whiteners.append(whitening_matrix(covariance))
        shared += covariance / n_classes
    root = whitening_matrix(shared)
    mixture.set_covariances(shifts, torch.stack(whiteners), locations, root @ root.T)
    if n_classes > 1:
        overall = processes.total(overall)
        mean = origin + overall.first / overall.n_samples
        covariance = shrink(overall.centered().covariance(), _BACKGROUND_SHRINKAGE)
        mixture.set_background(mean, whitening_matrix(covariance))


def _provisional_shifts(level, blocks, processes):
    """Move the centers of each class to the mean of its latent vectors in `blocks`, if any."""
    mixture = level.mixture
    latents = ((level.latent(x)[0], codes) for x, codes in blocks())
    means, counts = _class_means(latents, mixture.means, processes)
    weights = mixture.center_logits.softmax(1)[:, None]
    shifts = means - (weights @ mixture.centers())[:, 0].double()
    shifts[counts == 0] = 0
    return shifts


@torch.no_grad()
def fit_new_classes(level, blocks, n_classes):
    """Fit a mixture of classes that the level has not seen; its start and flow stay.

    Every center of such a class is its mean, and its covariance that of its latent vectors.

    Parameters
    ----------
    level : LevelModel
        Not changed.
    blocks : callable
        As for `whitened_start`; codes count the new classes from 0.
    n_classes : int
        Of the new classes.

    Returns
    -------
    HierarchicalMixture
        For `HierarchicalMixture.joined`.
    """
    known = level.mixture
    pairs = ((level.latent(x)[0], codes) for x, codes in blocks())
    means, _ = _class_means(pairs, torch.empty(n_classes, level.n_features))
    mixture = HierarchicalMixture(
        means, known.n_components, offset_scale=0.0, generator=torch.Generator()
    ).to(known.means)
    mixture.class_logits.fill_(known.class_logits.mean())
    fitted = LevelModel(level.start, level.flow, mixture, level.map_shape)
    fit_class_covariances(fitted, blocks, first=tuple)  # none: the centers are in place
    return mixture


def _class_means(pairs, like, processes=ALONE):
    """Mean over images and positions of each class's vectors, and images of each class, float64."""
    sums = torch.zeros(like.shape, dtype=torch.float64)
    counts = torch.zeros(len(like), dtype=torch.float64)
    for vectors, codes in pairs:
        sums.index_add_(0, codes, vectors.double().mean(1))
        counts += torch.bincount(codes, minlength=len(like))
    sums, counts = processes.total(sums), processes.total(counts)
    return sums / counts.clamp_min(1)[:, None], counts
