"""Which modes of pictures a class keeps on a level of maps."""

import numpy as np
import torch

from .map_frames import JudgingFrame
from .map_moments import MapFeatures, Moments
from .nearest_normals import evenly_spaced

# The samples of two folds tell whether the modes of a class stay, each by 36 of its positions.
# Where no fold is judged, samples are divided into five for this.
_CHOOSING_FOLDS, _CHOOSING_POSITIONS, _OF_FOLDS = 2, 36, 5
_LEAST_GAIN = 0.02  # of log-likelihood per dimension; less was seen to cost AUROC


def features_in_modes(samples, index, folds, device, modes, shrinkage):
    """Return the MapFeatures of a level, in those modes that make samples left out likelier.

    For parameters, see `fit_map_level`; `modes` are those found, `shrinkage` that of the raw
    covariance.
    """
    if modes.several and folds.max(initial=-1) < 0:
        folds = _some_folds(samples)
    features = MapFeatures(samples, index, folds, device, modes)
    if modes.several:
        features.merge(_modes_that_do_not_pay(features, shrinkage))
    return features


def _some_folds(samples):
    """Divide the samples of every class into folds, in turn; views with their pictures."""
    folds = np.empty(len(samples.rows), dtype=np.int64)
    numbers = samples.numbers_of(samples.rows)
    for code in range(samples.n_classes):
        is_own = samples.codes[samples.rows] == code
        folds[is_own] = np.unique(numbers[is_own], return_inverse=True)[1] % _OF_FOLDS
    return folds


def _modes_that_do_not_pay(features, shrinkage):
    """Return the classes that have several modes for nothing, a list.

    Samples left out must be likelier with them than with one Gaussian, by 0.02 nats a dimension and
    by two standard errors.
    """
    moments, modes = features.moments(), features.modes
    folds = range(_CHOOSING_FOLDS)
    frames = [JudgingFrame(moments, modes, fold, shrinkage) for fold in folds]
    for code in range(modes.n_classes):
        of_modes = features.moments_of_class(code)
        for frame in frames:
            frame.add_class(of_modes)
    gains = {code: [] for code in modes.several}
    for code, found in gains.items():
        of_modes = features.moments_of_class(code)
        for fold, frame in enumerate(frames):
            one = frame.gaussian(Moments.joined(of_modes), features.origins[code])
            several = frame.density(code, frame.covariances(of_modes))
            for _, x, inside in features.blocks(features.rows[code][fold]):
                some = evenly_spaced(x.shape[1], _CHOOSING_POSITIONS).to(x.device)
                weights = torch.ones_like(x[:, some, 0])
                weights = weights if inside is None else inside[:, some].to(x)
                gain = several.log_likelihood(x, some) - one.log_likelihood(x[:, some])
                found.append((gain * weights).sum(1) / weights.sum(1).clamp_min(1))
    return [code for code, found in gains.items() if not _is_gain(features.gather(found))]


def _is_gain(parts):
    values = torch.cat([torch.zeros(0), *(part.cpu() for part in parts)]).double()
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else torch.inf
    return bool(values.mean() > max(_LEAST_GAIN, 2 * error))
