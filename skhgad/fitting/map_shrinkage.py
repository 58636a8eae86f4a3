"""How far the covariances of a level of maps are shrunk: by the likelihood of samples left out."""

from typing import NamedTuple

import torch

from .map_frames import JudgingFrame
from .map_moments import CHOOSING_FOLDS, Moments
from .start import MAP_SHRINKAGE

_STRENGTHS = (1.0, 3.0)  # 10 was tried, and cost pooled AUROC with 5 pictures of a class
_CHOOSING_CLASSES = 8


class MapShrinkage(NamedTuple):
    """The shrinkage of a level.

    Attributes
    ----------
    raw : float
        Share of the identity in the covariance within the modes of all classes, the prior.
    strength : float
        What the odds of the prior in the covariance of a class are multiplied by. With 1, its share
        is that of Ledoit and Wolf, who take positions of one picture for independent.
    """

    raw: float
    strength: float = 1.0

    @classmethod
    def of_strength(cls, strength):
        """Return that under which the identity in the prior is as much stronger, too."""
        return cls(strengthened(MAP_SHRINKAGE, strength), strength)

    def of_class(self, share):
        """Return the share of the prior in a class, from that of Ledoit and Wolf."""
        return strengthened(share, self.strength)


def strengthened(share, strength):
    """Multiply the odds of a share in [0, 1]."""
    return strength * share / (1 + (strength - 1) * share)


def unchosen_shrinkage(parameters):
    """Return the MapShrinkage that the parameters of an estimator give, or that of strength 1."""
    raw = parameters["whitening_shrinkage"]
    return MapShrinkage(MAP_SHRINKAGE if isinstance(raw, str) else raw)


def choose_shrinkage(parameters, index, features, moments):
    """Choose the strength under which samples of two folds are likeliest, left out.

    That of 1 stays unless another is better by two standard errors. One strength holds for all
    classes, which would be compared unequally else; at most 8 of them choose it.

    Parameters
    ----------
    parameters : dict
        Of the estimator. A `whitening_shrinkage` other than "auto" leaves no choice, nor do
        "strengths" of the levels.
    index : int
        Of the level.
    features : MapFeatures
        In folds.
    moments : Moments
        Of all modes.

    Returns
    -------
    MapShrinkage
    """
    unchosen = unchosen_shrinkage(parameters)
    if parameters["whitening_shrinkage"] != "auto":
        return unchosen
    if "strengths" in parameters:
        return MapShrinkage.of_strength(parameters["strengths"][index])
    candidates = [MapShrinkage.of_strength(strength) for strength in _STRENGTHS]
    n_classes, folds = features.modes.n_classes, range(min(CHOOSING_FOLDS, features.n_folds))
    frames = [JudgingFrame(moments, features.modes, fold, unchosen) for fold in folds]
    found = []
    for code in range(0, n_classes, -(-n_classes // _CHOOSING_CLASSES)):
        of_class = Moments.joined(features.moments_of_class(code))
        for fold, frame in enumerate(frames):
            gaussians = frame.gaussians(of_class, features.origins[code], candidates)
            for x, some, weights in features.some_positions(code, fold):
                values = [one.log_likelihood(x[:, some]) * weights for one in gaussians]
                found.append(torch.stack(values, -1).sum(1).cpu())
    found = features.gather(found)
    if not found:
        return unchosen
    likelihoods = torch.cat(found).double()
    best = int(likelihoods.mean(0).argmax())
    gain = likelihoods[:, best] - likelihoods[:, 0]
    is_clear = len(gain) > 1 and gain.mean() > 2 * gain.std() / len(gain) ** 0.5
    return candidates[best] if is_clear else unchosen


def shrinkage_of(densities, parameters):
    """Return the MapShrinkage of a level that was fitted with these parameters."""
    if parameters["whitening_shrinkage"] != "auto":
        return unchosen_shrinkage(parameters)
    return MapShrinkage.of_strength(float(densities.strength))
