"""Which modes of pictures a class keeps on a level of maps."""

import torch

from .map_frames import JudgingFrame
from .map_moments import CHOOSING_FOLDS, MapFeatures, Moments

_LEAST_GAIN = 0.02  # of log-likelihood per dimension; less was seen to cost AUROC


def features_in_modes(samples, index, folds, device, modes, shrinkage):
    """Return the MapFeatures of a level, in those modes that make samples left out likelier.

    For parameters, see `fit_map_level`; `modes` are those found, `shrinkage` is a MapShrinkage.
    """
    features = MapFeatures(samples, index, folds, device, modes)
    if modes.several:
        features.merge(_modes_that_do_not_pay(features, shrinkage))
    return features


def _modes_that_do_not_pay(features, shrinkage):
    """Return the classes that have several modes for nothing, a list.

    Samples left out must be likelier with them than with one Gaussian, by 0.02 nats a dimension and
    by two standard errors.
    """
    moments, modes = features.moments(), features.modes
    folds = range(CHOOSING_FOLDS)
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
            for x, some, weights in features.some_positions(code, fold):
                gain = several.log_likelihood(x, some) - one.log_likelihood(x[:, some])
                found.append((gain * weights).sum(1))
    return [code for code, found in gains.items() if not _is_gain(features.gather(found))]


def _is_gain(parts):
    values = torch.cat([torch.zeros(0), *(part.cpu() for part in parts)]).double()
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else torch.inf
    return bool(values.mean() > max(_LEAST_GAIN, 2 * error))
