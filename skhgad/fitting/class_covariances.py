"""The covariance of each class, measured after training."""

from dataclasses import replace

import torch

from ..model.class_densities import ClassDensities
from ..model.level import LevelModel
from ..model.mixture import HierarchicalMixture
from .class_mixtures import BACKGROUND_SHRINKAGE, fit_class_mixtures
from .covariance import ResidualMoments, class_means, shrink, whitening_matrix

_FIRST_IMAGES = 16  # of each class: enough to find its mean


def fit_covariances(levels, samples, n_components="auto", seed=0, choices=None):
    """Set the `densities` of every LevelModel, measured on the LabelledSamples to train on.

    `choices` as in `fit_class_mixtures`.
    """
    first = samples.first_of_each_class(_FIRST_IMAGES)
    for index, level in enumerate(levels):
        if level.has_one_position:
            level.densities = fit_class_mixtures(
                level, samples.level(index), n_components, seed, choices=choices
            )
        else:
            fit_class_covariances(level, samples.level(index), first=first.level(index))


@torch.no_grad()
def fit_class_covariances(level, samples, shrinkage="ledoit_wolf", *, first=None):
    """Measure the covariance of the latent vectors of each class around their centers.

    A flow trained on few samples gives each class a shape of its own, which unit covariances would
    take for noise. With an untrained flow and one center the level becomes the Ledoit-Wolf
    Mahalanobis distance of each class: the classical detector is a special case of the model.

    1. The centers of a class are moved to the mean of its vectors.
    2. Each vector is compared with the mean of the centers, weighted by their posterior. The mean
       residual moves the centers once more.
    3. The covariance of the residuals becomes that of the class. The mean of these covariances
       tells classes apart.
    4. The background is one Gaussian of all latent vectors together.

    The level's `densities` are set. `samples` holds raw features; `first` enough images of each
    class for step 1, None = all. `shrinkage` lies in [0, 1] or is "ledoit_wolf".
    """
    shifts = _provisional_shifts(level, samples if first is None else first)
    moments, sums, overall = _residual_moments(level, samples, shifts)
    counts = torch.tensor([[max(1, m.n_samples)] for m in moments])
    locations = samples.total(sums) / counts
    shifts = shifts + torch.stack([m.first / max(1, m.n_samples) for m in moments])
    covariances, weights = _class_covariances([m.centered() for m in moments], shrinkage)
    shared = torch.zeros_like(covariances[0])
    for covariance in covariances:
        shared += covariance / len(covariances)
    root = whitening_matrix(shared)
    level.densities = ClassDensities.of(
        mixtures_around(level.mixture, shifts, map(whitening_matrix, covariances)),
        locations.to(level.mixture.means),
        root @ root.T,
        _background(overall, samples) if samples.n_classes > 1 else None,
        evidence=([float(m.n_samples) for m in moments], weights),
    )


def mixtures_around(mixture, shifts, whiteners):
    """Freeze the centers of a prior, moved by `shifts`, with one whitener for each class."""
    centers = mixture.centers() + shifts[:, None].to(mixture.means)
    log_weights = mixture.center_logits.log_softmax(1)
    return [
        (class_centers, weights, whitener[None])
        for class_centers, weights, whitener in zip(centers, log_weights, whiteners, strict=True)
    ]


def _provisional_shifts(level, samples):
    """Return what moves the centers of each class to the mean of its latent vectors."""
    mixture = level.mixture
    latents = ((level.latent(x)[0], codes) for x, codes in samples.blocks())
    means, counts = class_means(latents, samples)
    weights = mixture.center_logits.softmax(1)[:, None]
    shifts = means - (weights @ mixture.centers())[:, 0].double()
    shifts[counts == 0] = 0
    return shifts


def _residual_moments(level, samples, shifts):
    """Visit all latent vectors once.

    Returns moments of each class around its moved centers, summed over processes; and, of this
    process alone, the sum of each class, and origin and moments of all vectors.
    """
    mixture, n_features, n_classes = level.mixture, samples.n_features, samples.n_classes
    origin = shifts.mean(0)
    moments = [ResidualMoments(n_features) for _ in range(n_classes)]
    overall = ResidualMoments(n_features)
    sums = torch.zeros(n_classes, n_features, dtype=torch.float64)
    for x, codes in samples.blocks():
        z, _ = level.latent(x)
        sums.index_add_(0, codes, z.double().sum(1))
        moved = z - shifts[codes][:, None].to(z)
        residuals = moved - mixture.expected_center(moved, codes)
        for code in codes.unique().tolist():
            chosen = codes == code
            moments[code].update(residuals[chosen].flatten(0, 1), z[chosen].flatten(0, 1))
        if n_classes > 1:  # of a single class, the background is the class
            overall.update((z.double() - origin).flatten(0, 1), z.flatten(0, 1))
    return [samples.total(m) for m in moments], sums, (origin, overall)


def _class_covariances(moments, shrinkage):
    within = sum(moments, ResidualMoments(len(moments[0].first)))
    covariances, weights = [], []
    for m in moments:
        # A class whose vectors are all the same has no spread: it takes that of all classes.
        source = m if m.covariance().trace() > 0 else within
        weight = source.ledoit_wolf_shrinkage() if shrinkage == "ledoit_wolf" else shrinkage
        covariances.append(shrink(source.covariance(), weight))
        weights.append(weight if source is m else 1.0)
    return covariances, weights


def _background(overall, samples):
    origin, moments = overall
    moments = samples.total(moments)
    mean = origin + moments.first / moments.n_samples
    covariance = shrink(moments.centered().covariance(), BACKGROUND_SHRINKAGE)
    return mean, whitening_matrix(covariance)


@torch.no_grad()
def fit_new_classes(level, samples, n_components="auto", seed=0):
    """Return mixture and densities of classes that are new to a level. The level does not change.

    In the prior, all centers of a new class lie at its mean. The codes of the raw features in
    `samples` count the new classes from 0.
    """
    known = level.mixture
    pairs = ((level.latent(x)[0], codes) for x, codes in samples.blocks())
    means, _ = class_means(pairs, samples, known.means.shape[1])
    mixture = HierarchicalMixture(
        means, known.n_components, offset_scale=0.0, generator=torch.Generator()
    ).to(known.means)
    mixture.prior_logits.fill_(known.prior_logits.mean())
    new = LevelModel(level.start, level.flow, mixture, level.map_shape)
    if level.has_one_position:
        return mixture, fit_class_mixtures(new, samples, n_components, seed, are_new=True)
    no_samples = replace(samples, blocks=tuple)  # the centers are in place
    fit_class_covariances(new, samples, first=no_samples)
    return mixture, new.densities
