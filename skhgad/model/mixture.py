"""The hierarchical Gaussian mixture prior."""

import copy
import math

import torch
from torch import nn

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BLOCK = 512  # points whose distances from all others are computed at once
# Of exponents: normal in single precision. What underflows takes processors twenty times as long.
LOWEST_EXPONENT = -80.0
_EXACT = "donot_use_mm_for_euclid_dist"


def class_means(n_classes, n_features, separation):
    r"""Place the starting class means, float32 (n_classes, n_features), `separation` apart.

    Mean k is :math:`s / \sqrt{2 r}` in the features congruent to k modulo K, zero elsewhere, with r
    = floor(d / K); features beyond r K stay zero. With fewer features than classes, the means are
    points of a fixed low-discrepancy draw (one feature: equal steps), scaled so that the closest
    two are `separation` apart. A single class starts at the origin.
    """
    if n_classes == 1:
        return torch.zeros(1, n_features)
    repeats = n_features // n_classes
    if repeats:
        means = torch.zeros(n_classes, n_features)
        tiled = torch.eye(n_classes).repeat(1, repeats)
        means[:, : tiled.shape[1]] = tiled * (separation / math.sqrt(2 * repeats))
        return means
    if n_features == 1:
        steps = torch.arange(n_classes) - (n_classes - 1) / 2
        return steps[:, None] * separation
    # The Sobol points are distinct, so the smallest distance is positive.
    points = torch.quasirandom.SobolEngine(n_features).draw(n_classes) - 0.5
    return points * (separation / _smallest_distance(points))


def _smallest_distance(points):
    """Smallest distance between two of the points (n, d), in memory for a block of rows."""
    nearest = []
    for first in range(0, len(points) - 1, _BLOCK):
        block = points[first : first + _BLOCK]
        distances = torch.cdist(block, points[first:], compute_mode=_EXACT)
        distances.diagonal().fill_(torch.inf)
        nearest.append(distances.min())
    return torch.stack(nearest).min()


def squared_distances(z, centers):
    """Squared Euclidean distances (..., n), never negative, of z (..., d) from centers (n, d)."""
    cross = z @ centers.T
    squares = z.square().sum(-1, keepdim=True) + centers.square().sum(-1)
    return torch.add(squares, cross, alpha=-2).clamp_min(0)


def log_sum_exp(logits):
    """Logarithm of the sum of exponentials over the last axis, as torch's logsumexp.

    Terms below e^-80 of the largest are raised to that, which changes nothing.
    """
    if logits.shape[-1] == 1:
        return logits[..., 0]
    highest = logits.amax(-1, keepdim=True)
    return (logits - highest).clamp_min(LOWEST_EXPONENT).exp().sum(-1).log() + highest[..., 0]


_PER_CLASS = ("means", "prior_logits", "offsets", "center_logits", "generations")


class HierarchicalMixture(nn.Module):
    r"""The prior that training learns: a Gaussian a class, and centers inside each class.

    All covariances are the identity, as published. `means` (n_classes, n_features) are where the
    class means :math:`\mu_k` start. The first of M = `n_components` centers is the class mean; the
    others are offset from it by a learned :math:`\delta_{k,m}`, which starts with a standard
    deviation of `offset_scale` in each coordinate.
    """

    def __init__(self, means, n_components, *, offset_scale=1.0, generator):
        super().__init__()
        n_classes, n_features = means.shape
        self.n_components = n_components
        self.means = nn.Parameter(means.clone())
        self.prior_logits = nn.Parameter(torch.zeros(n_classes))  # psi of the paper
        self.offsets = nn.Parameter(
            offset_scale * torch.randn(n_classes, n_components - 1, n_features, generator=generator)
        )
        self.center_logits = nn.Parameter(torch.zeros(n_classes, n_components))  # phi
        # Classes that joined later take no part in the posterior of those before them.
        self.register_buffer("generations", torch.zeros(n_classes, dtype=torch.int64))

    def centers(self):
        """Centers :math:`c_{k,m}`, of shape (n_classes, n_components, n_features).

        No gradient reaches the class means through them.
        """
        means = self.means.detach()[:, None]
        return torch.cat((means, means + self.offsets), dim=1)

    def class_logits(self, z):
        r"""Unnormalised log-probabilities of the classes, :math:`-\|z - \mu_k\|^2 / 2`.

        `z` has shape (..., n_features), the result (..., n_classes).
        """
        return -0.5 * squared_distances(z, self.means)

    def posterior_entropy(self, z, codes):
        """Entropy (n_images, n_positions) of the class posterior, in nats.

        Classes that joined later than the class of an image take no part.
        """
        if not self.generations.any():
            return entropy(self.class_logits(z))
        result = torch.empty_like(z[..., 0])
        image_generations = self.generations[codes]
        for generation in image_generations.unique().tolist():
            chosen, known = image_generations == generation, self.generations <= generation
            result[chosen] = entropy(-0.5 * squared_distances(z[chosen], self.means[known]))
        return result

    def joined(self, other, order):
        """Return the mixture of the classes of both; the posterior among this one's is unchanged.

        `other` has as many components. `order`, int64 of shape (n_classes of both,), tells where
        each class of the result stands in this one's classes, then the other's.
        """
        result = copy.deepcopy(self)
        for name in _PER_CLASS:
            known, new = getattr(self, name), getattr(other, name)
            if name == "generations":
                new = torch.full_like(new, int(known.max()) + 1)
            values = torch.cat((known.detach(), new.detach().to(known)))[order]
            if isinstance(known, nn.Parameter):
                values = nn.Parameter(values, requires_grad=known.requires_grad)
            setattr(result, name, values)
        return result

    def without(self, codes):
        """Return the mixture without some classes, Tensor of int64."""
        result = copy.deepcopy(self)
        kept = torch.ones(len(self.means), dtype=torch.bool, device=self.means.device)
        kept[codes] = False
        for name in _PER_CLASS:
            known = getattr(self, name)
            values = known.detach()[kept]
            if isinstance(known, nn.Parameter):
                values = nn.Parameter(values, requires_grad=known.requires_grad)
            setattr(result, name, values)
        return result

    def class_discriminants(self, z):
        """Log-density of each class by its mean alone, up to a common constant.

        Shapes are those of `class_logits`.
        """
        return z @ self.means.T - 0.5 * self.means.square().sum(1)

    def log_prior(self):
        """Log-probability of each class, Tensor of shape (n_classes,)."""
        return self.prior_logits.log_softmax(0)

    def log_density_of(self, z, code):
        r"""Intra-class log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        For z (..., n_features): logsumexp_m( log w_{k,m} - ||z - c_{k,m}||^2 / 2 ).
        """
        distances = squared_distances(z, self.centers()[code])
        log_weights = self.center_logits[code].log_softmax(0)
        return torch.logsumexp(log_weights - 0.5 * distances, dim=-1)

    def standardised(self, z, code, draws):
        """Subtract one of the centers of a class; see `ClassDensities.standardised`."""
        centers = self.centers()[code]
        logits = self.center_logits[code].log_softmax(0) - 0.5 * squared_distances(z, centers)
        return z - centers[drawn_centers(logits, draws)]

    def expected_center(self, z, codes):
        """Mean of the centers of each image's class, weighted by their posterior at each position.

        Shapes are those of `z`; for arguments, see `log_density_within_class`.
        """
        centers = self.centers()[codes]
        posterior = self._center_logits_of(z, centers, codes).softmax(-1)
        return posterior @ centers

    def log_density_within_class(self, z, codes):
        """Log-density (n_images, n_positions) under the class of each image, differentiable.

        `z` has shape (n_images, n_positions, n_features); `codes` is int64 of shape (n_images,).
        """
        centers = self.centers()[codes]  # one gather an image, not a vector
        return torch.logsumexp(self._center_logits_of(z, centers, codes), dim=-1)

    def _center_logits_of(self, z, centers, codes):
        """-||z - c_{y,m}||^2 / 2 + log w_{y,m} for centers of shape (n_images, M, n_features)."""
        squares = z.square().sum(-1, keepdim=True) + centers.square().sum(-1)[:, None]
        distances = (squares - 2 * z @ centers.transpose(1, 2)).clamp_min(0)
        return self.center_logits.log_softmax(1)[codes][:, None] - 0.5 * distances


def drawn_centers(logits, draws):
    """Draw a center for each vector from softmax(logits), by uniform numbers in [0, 1).

    `logits` has shape (n, n_centers), `draws` and the result, int64, (n,).
    """
    below = logits.softmax(-1).cumsum(-1) <= draws[:, None]
    return below.sum(-1).clamp_max(logits.shape[-1] - 1)


def entropy(logits):
    """Entropy, in nats, of softmax(logits) over the last axis."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def log_likelihood(log_density, log_det, n_features):
    """Log-likelihood per dimension, a / d - ln(2 pi) / 2, with a = log_density + log_det."""
    return (log_density + log_det) / n_features - HALF_LOG_2PI
