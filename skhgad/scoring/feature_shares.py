"""How much each feature of a vector adds to its anomaly score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .scores import LOWEST, finite

if TYPE_CHECKING:
    from .fitted import FittedModel

_N_NODES = (8, 64, 512)  # of the quadrature, until it is exact enough
_EXACT = 1e-6  # largest rest, as a share of the whole
_NEARER = 1e-50  # by which a vector is brought to its center while its score overflows
_N_NEARER = 8  # times; then it lies at the center


def feature_shares(
    fitted: FittedModel, vectors: NDArray[Any], codes: NDArray[np.int64], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share out the anomaly score of vectors to their features.

    The shares are the integrals of the gradient along the straight line from the center of the
    class that is most responsible for the vector (Aumann and Shapley). They add up to what the
    anomaly score has beyond that of the center. Under one Gaussian they are the terms
    ``d[i] * (P @ d)[i] / 2`` of its quadratic form, but for the scale of the scores, and add up
    exactly; under mixtures, and after a training, up to the quadrature.

    Parameters
    ----------
    fitted : FittedModel
        Of vectors.
    vectors : ndarray of shape (n_samples, n_features)
    codes : ndarray of shape (n_samples,)
        Class of each.
    device : torch.device

    Returns
    -------
    shares : ndarray of shape (n_samples, n_features)
        Positive: makes the sample more anomalous.
    base_scores : ndarray of shape (n_samples,)
        Scores of the centers, so that ``score = base_score - shares.sum()``.
    """
    model = fitted.on(device)
    dtype = model.levels[0].start.mean.dtype
    shares, bases = [], []
    for vector, code in zip(vectors, codes.tolist(), strict=True):
        x = torch.tensor(vector, dtype=dtype, device=device)
        own, base = _shares_of(model, x, code)
        shares.append(own)
        bases.append(base)
    return np.stack(shares), np.concatenate(bases)


def _shares_of(model: Any, x: torch.Tensor, code: int) -> tuple[Any, NDArray[np.float64]]:
    center = _center(model.levels[0], x, code)
    with torch.no_grad():
        base, end = _anomaly(model, torch.stack((center, x)), code)
    if not end.isfinite():
        return _shares_of_overflow(model, x, center, code)
    way, whole = x - center, float(end - base)
    shares = torch.zeros_like(x)
    for n_nodes in _N_NODES:
        shares = way * _mean_gradient(model, center, way, code, n_nodes)
        rest = abs(float(shares.sum()) - whole)
        if rest <= _EXACT * max(1.0, abs(whole)):
            break
    return shares.double().cpu().numpy(), finite(-base[None])


@torch.no_grad()
def _shares_of_overflow(model: Any, x: torch.Tensor, center: torch.Tensor, code: int) -> Any:
    """Share out the lowest score as that of a nearer vector in the same direction.

    Where the center itself has the lowest score, nothing is left to share.
    """
    for times in range(1, _N_NEARER):
        nearer = center + (x - center) * _NEARER**times
        if _anomaly(model, nearer[None], code).isfinite():
            shares, base = _shares_of(model, nearer, code)
            return shares / shares.sum() * (base[0] - LOWEST), base
    return np.zeros(len(x)), np.array([LOWEST])


def _mean_gradient(
    model: Any, center: torch.Tensor, way: torch.Tensor, code: int, n_nodes: int
) -> torch.Tensor:
    """Return the mean of the gradient along the line, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    times = torch.as_tensor((nodes + 1) / 2).to(way)
    means = torch.as_tensor(weights / 2).to(way)
    with torch.enable_grad():
        points = (center + times[:, None] * way).detach().requires_grad_()
        (gradients,) = torch.autograd.grad(_anomaly(model, points, code).sum(), points)
    return means @ gradients


def _anomaly(model: Any, points: torch.Tensor, code: int) -> torch.Tensor:
    """Return the anomaly scores of vectors (n, n_features) of one class."""
    codes = torch.full((len(points),), code, device=points.device)
    maps, _ = model([points[:, None]], codes)
    return maps[:, 0, 0]


@torch.no_grad()
def _center(level: Any, x: torch.Tensor, code: int) -> torch.Tensor:
    """Return the center of a class that is most responsible for a vector, as raw features.

    Where a center is a length in some directions, the point of that length nearest the vector.
    """
    z, _ = level.latent(x[None, None])
    if level.densities is None:
        centers = level.mixture.centers()[code].reshape(-1, z.shape[-1])
        chosen = (z[0] - centers).square().sum(-1).argmin()
    else:
        centers = level.densities.centers_of(code)
        chosen = level.densities.center_posterior(z[0, 0], code).argmax()
    latent = centers[chosen][None, None]
    return level.start.inverse(level.flow.inverse(latent), near=x[None, None])[0, 0]
