"""The likeliest value of each feature of a vector given all others, and what it would change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .scores import LOWEST

if TYPE_CHECKING:
    from ..features.reader import FeatureReader
    from .fitted import FittedModel

_N_FEATURES = 64  # of a vector, whose rises are measured
_N_VALUES = 3  # that are tried for a feature; of a trained flow also a grid
_N_CENTERS = 64  # that count for a feature
_N_STEPS = 10  # from the mean of a Gaussian to a maximum of the mixture
_FAR = 1e6  # standard deviations, beyond which a value tells no more of the other features
_GRID, _GRID_END = 25, 3.0  # values, and standard deviations on both sides of the centers


class LikeliestValues(NamedTuple):
    """What single features of a vector would be expected to be, the largest rise first.

    Attributes
    ----------
    features : ndarray of shape (n,), int64
        Those whose change would help most, at most 64.
    values : ndarray of shape (n,)
        The likeliest value of each, while all other features stay.
    rises : ndarray of shape (n,)
        By how much the score would rise if this feature alone took this value. At least 0: where
        no value that was tried scores higher, the value is the feature's own.
    """

    features: NDArray[np.int64]
    values: NDArray[np.float64]
    rises: NDArray[np.float64]


def likeliest_values(
    fitted: FittedModel,
    reader: FeatureReader,
    vectors: NDArray[Any],
    codes: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> list[LikeliestValues]:
    """Find for single features of vectors the value that fits all others best.

    Under one Gaussian this is the mean of the feature given the others, ``x[i] - (P @ d)[i] /
    P[i, i]`` with P the precision and d the distance from the mean. Under a mixture it is a maximum
    of the mixture along the feature. The model scores the vector with this value, whatever else
    counts in its scores.

    Parameters
    ----------
    fitted : FittedModel
        Of vectors.
    reader : FeatureReader
    vectors : ndarray of shape (n_samples, n_features)
    codes : ndarray of shape (n_samples,)
        Class of each; it stays, whatever values are tried.
    scores : ndarray of shape (n_samples,)
        Of the vectors as they are.

    Returns
    -------
    list of LikeliestValues
    """
    level, lines, found = fitted.on(reader.device).levels[0], {}, []
    for x, code, score in zip(vectors.astype(np.float64), codes.tolist(), scores, strict=True):
        if code not in lines:
            lines[code] = _Lines(level, code)
        features, values = lines[code].likeliest(x)
        values = np.concatenate((x[None, features], values))
        changed = np.tile(x, (len(values) - 1, len(features), 1))
        changed[:, np.arange(len(features)), features] = values[1:]
        changed = changed.reshape(-1, len(x))
        batches = fitted.scored_batches(reader, changed, np.full(len(changed), code))
        tried = np.concatenate([batch.scores for batch in batches]).reshape(-1, len(features))
        rises = np.minimum(tried, -LOWEST) - score  # finite, because no score is below LOWEST
        rises = np.concatenate((np.zeros((1, len(features))), rises))
        best = rises.argmax(0)[None]
        rises, values = (
            np.take_along_axis(rises, best, 0)[0],
            np.take_along_axis(values, best, 0)[0],
        )
        order = np.argsort(-rises, kind="stable")
        found.append(LikeliestValues(features[order], values[order], rises[order]))
    return found


class _Gaussians(NamedTuple):
    """Gaussians of one whitener W, all in whitened latent space and less the first center."""

    first: torch.Tensor  # (n_latent,), of the centers
    whitener: torch.Tensor  # (n_latent, n_latent)
    centers: torch.Tensor  # (m, n_latent)
    log_weights: torch.Tensor  # (m, 1), with the log-determinant
    slopes: torch.Tensor  # (n_features, n_latent): how a feature moves vectors
    slopes_of_centers: torch.Tensor  # (m, n_features)
    precisions: torch.Tensor  # (n_features,): of a feature, given all others


class _Lines:
    """The density of a class along each feature of a vector, while all others stay: a mixture.

    Features are counted after their powers. Where a flow was trained, the density is that of
    Gaussians before the flow.
    """

    @torch.no_grad()
    def __init__(self, level: Any, code: int):
        start = level.start
        self.powers, self.mean, self.matrix = (
            start.powers,
            start.mean.double(),
            start.matrix.double(),
        )
        self.has_rest, self.has_flow = start.has_rest, len(level.flow.blocks.mix) > 0
        if self.has_rest:
            self.rest_scale = start.rest_scale.double()
            self.back = (self.matrix / start.lengths.double().square()).T
            left_out = 1 - (self.matrix * self.back.T).sum(1)
        else:
            self.back = torch.linalg.inv(self.matrix)
        self.groups, lows, highs = [], [], []
        for centers, log_weights, whitener in _mixture(level, code):
            slopes = self.matrix @ whitener[: len(self.back)]
            precisions = slopes.square().sum(1)
            spread = (torch.linalg.inv(whitener)[:, : len(self.back)] @ self.back).norm(dim=0)
            if self.has_rest:
                # It counts as directions of equal variance, which a feature moves evenly.
                rest = whitener[-1].norm() / self.rest_scale
                precisions = precisions + left_out.clamp_min(0) * rest.square()
                spread = spread + 1 / rest
            whitened = (centers - centers[0]) @ whitener
            self.groups.append(
                _Gaussians(
                    centers[0], whitener, whitened, log_weights[:, None], slopes,
                    whitened @ slopes.T, precisions.clamp_min(torch.finfo(precisions.dtype).tiny),
                )
            )  # fmt: skip
            places = self.mean + centers[:, : len(self.back)] @ self.back
            lows.append(torch.stack((places.amin(0), spread)))
            highs.append(torch.stack((places.amax(0), spread)))
        self.low, self.spread = torch.stack(lows).amin(0)[0], torch.stack(lows).amax(0)[1]
        self.high = torch.stack(highs).amax(0)[0]

    @torch.no_grad()
    def likeliest(self, x: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the features whose change may help most, and likely values of them, raw.

        Shapes (n,) and (n_values, n).
        """
        y = torch.tensor(x, dtype=torch.float64, device=self.mean.device)
        y = y if self.powers is None else self.powers(y)
        y = y.clamp(self.low - _FAR * self.spread, self.high + _FAR * self.spread)
        means, heights, precisions = self._along(y)
        order = heights.amax(0).argsort(descending=True, stable=True)
        features = order[:_N_FEATURES]
        heights, chosen = heights[:, features].topk(min(_N_CENTERS, len(heights)), dim=0)
        means = means[:, features].gather(0, chosen)
        precisions = precisions[:, features].gather(0, chosen)

        def log_densities(values):  # of each center, (n_values, n_centers, n_features)
            return heights - 0.5 * precisions * (values[:, None] - means).square()

        values = means
        if len(means) > 1:  # the likeliest means, and by expectation-maximisation on to maxima
            best = log_densities(means).logsumexp(1).topk(min(_N_VALUES, len(means)), dim=0)
            values = means.gather(0, best.indices)
            for _ in range(_N_STEPS):
                weights = log_densities(values).softmax(1) * precisions
                values = (weights * means).sum(1) / weights.sum(1)
        if self.has_flow:
            low, high, end = (
                bound[features] for bound in (self.low, self.high, _GRID_END * self.spread)
            )
            times = torch.linspace(0, 1, _GRID, dtype=y.dtype, device=y.device)[:, None]
            values = torch.cat((values, low - end + times * (high - low + 2 * end)))
        if self.powers is not None:
            every = y.repeat(len(values), 1)
            every[:, features] = values
            values = self.powers.inverse(every)[:, features]
        numbers, found = features.cpu().numpy(), values.cpu().numpy()
        return numbers, np.where(np.isfinite(found), found, x[numbers])

    def _along(self, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the mixture along each feature, through y.

        Means, largest log-densities and precisions, (n_centers, n_features) each.
        """
        moved = y - self.mean
        z = moved @ self.matrix
        if self.has_rest:
            left = moved - z @ self.back
            length = left.norm()
            unit = left / length.clamp_min(torch.finfo(y.dtype).tiny) / self.rest_scale
            z = torch.cat((z, length[None] / self.rest_scale))
        parts = []
        for group in self.groups:
            whitened = (z - group.first) @ group.whitener
            slopes = whitened @ group.slopes.T - group.slopes_of_centers
            apart = whitened - group.centers
            if self.has_rest:
                slopes = slopes + (apart @ group.whitener[-1])[:, None] * unit
            heights = group.log_weights - 0.5 * apart.square().sum(1, keepdim=True)
            parts.append(
                (
                    y - slopes / group.precisions,
                    heights + 0.5 * slopes.square() / group.precisions,
                    group.precisions.expand_as(slopes),
                )
            )
        return tuple(map(torch.cat, zip(*parts, strict=True)))


def _mixture(level: Any, code: int) -> list[tuple[torch.Tensor, ...]]:
    """Return (centers, log_weights, whitener) of each group of centers with one whitener.

    In the space before the flow, float64; the log-determinant is in the weights. Where a flow was
    trained, the start is taken to whiten.
    """
    if level.densities is None:
        centers = level.mixture.centers()[code]
        log_weights = level.mixture.center_logits[code].log_softmax(0)
    elif not len(level.flow.blocks.mix):
        return [
            tuple(values.double() for values in group) for group in level.densities.groups_of(code)
        ]
    else:
        groups = level.densities.groups_of(code)
        centers, log_weights = (torch.cat([group[i] for group in groups]) for i in (0, 1))
    centers = level.flow.inverse(centers[None])[0].double()
    identity = torch.eye(centers.shape[1], dtype=centers.dtype, device=centers.device)
    return [(centers, log_weights.double(), identity)]
