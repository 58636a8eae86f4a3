"""What the covariance of each center of a mixture borrows, and how much: by left-out vectors."""

import torch

from .gaussian_shrinkage import robust_mean

PSEUDO_PER_FEATURE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_MOST_JUDGED = 2000
_FEWEST = 1e-3  # vectors of a center without one of its own


def likeliest_priors(z, responsibilities, whitener, ties):
    """Choose the scale of the prior of each center of a mixture, and how much the priors count.

    The centers of a class have the shape of a covariance in common, and a spread each of its own:
    the prior of a center is t `common`, with t the mean variance of its vectors and of a single
    coordinate more, whose variance is that of `common`. It counts as the same number of vectors in
    each center: as makes vectors most likely under the mixture of all the others.

    Parameters
    ----------
    z : Tensor of shape (n, n_features)
        In random order.
    responsibilities : Tensor of shape (n, n_components)
    whitener : Tensor of shape (n_features, n_features)
        Of `common`.
    ties : Tensor of shape (n_features, n_features)
        From `tie_covariances`; it counts with each vector.

    Returns
    -------
    scales : Tensor of shape (n_components,)
        t of each center.
    pseudo_count : float
    """
    likelihoods, scales = left_out_likelihoods(z, responsibilities, whitener, ties)
    best = int(robust_mean(likelihoods).argmax())
    return scales, PSEUDO_PER_FEATURE[best] * z.shape[1]


def left_out_likelihoods(z, responsibilities, whitener, ties):
    r"""Log-likelihoods of vectors under the mixture of all the others, for each strength of prior.

    Without vector i, of share r, a center of n vectors and scatter S around its mean c has
    n - r vectors, and the scatter :math:`S - r n / (n - r) (z_i - c) (z_i - c)^T`. This is a change
    of rank one, as in `left_out_distances`. Responsibilities and the scales of the priors stay.

    Returns
    -------
    likelihoods : Tensor of shape (n_judged, n_strengths)
        Of the first 2,000 vectors, in nats, up to a constant.
    scales : Tensor of shape (n_components,)
        t of each center; see `likeliest_priors`.
    """
    n_features = z.shape[1]
    counts = responsibilities.sum(0).clamp_min(1e-10)
    centers = (responsibilities.T @ z) / counts[:, None]
    pseudo_counts = n_features * torch.tensor(PSEUDO_PER_FEATURE, dtype=z.dtype)
    ties = whitener.T @ ties @ whitener
    scales, by_center = [], []
    for center, count, shares in zip(centers, counts, responsibilities.T, strict=True):
        residuals = (z - center) @ whitener
        weighted = residuals * shares[:, None].sqrt()
        scatter, axes = torch.linalg.eigh(weighted.T @ weighted + count * ties)
        scatter = scatter.clamp_min(0)
        scale = (scatter.sum() + 1) / (count * n_features + 1)
        squares = (residuals[:_MOST_JUDGED] @ axes).square()
        variances = scatter[:, None] + pseudo_counts * scale
        by_center.append(
            _left_out(squares, variances, count, shares[:_MOST_JUDGED, None], pseudo_counts)
        )
        scales.append(scale)
    return torch.stack(by_center).logsumexp(0), torch.stack(scales)


def _left_out(squares, variances, count, shares, pseudo_counts):
    """Log of count times density (n, n_strengths) of vectors under a center without their shares.

    `squares` (n, n_features) are their squared coordinates in the axes of the scatter, `variances`
    (n_features, n_strengths) its eigenvalues and those of the prior.
    """
    others = (count - shares).clamp_min(_FEWEST)
    total = others + pseudo_counts
    distances = squares @ variances.reciprocal()
    left = (1 - shares * count / others * distances).clamp_min(1e-12)
    log_det = variances.log().sum(0) + left.log() - squares.shape[1] * total.log()
    distances = total * (count / others).square() * distances / left
    return others.log() - 0.5 * (distances + log_det)
