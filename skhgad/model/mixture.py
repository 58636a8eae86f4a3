"""The hierarchical Gaussian mixture prior: classes, and centers inside each class."""

import copy
import math

import torch
from torch import nn

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def class_means(n_classes, n_features, separation):
    r"""Place the starting class means: a scaled identity, tiled along the features.

    Mean k is :math:`s / \sqrt{2 r}` in the features congruent to k modulo K, zero elsewhere, with
    r = floor(d / K) copies of the identity; features beyond r K stay zero. Any two means are then
    `separation` apart. With fewer features than classes no such placement exists; the means are
    then points of a fixed low-discrepancy draw (one feature: equal steps), scaled so that the
    closest two are `separation` apart. A single class starts at the origin.

    Parameters
    ----------
    n_classes : int
        K.
    n_features : int
        d.
    separation : float
        Euclidean distance between any two means (between the closest two if d < K).

    Returns
    -------
    Tensor of shape (n_classes, n_features), float32
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
    return points * (separation / torch.pdist(points).min())


def squared_distances(z, centers):
    """Squared Euclidean distances by one matrix product.

    Parameters
    ----------
    z : Tensor of shape (..., d)
    centers : Tensor of shape (n, d)

    Returns
    -------
    Tensor of shape (..., n)
        Never negative.
    """
    cross = z @ centers.T
    squares = z.square().sum(-1, keepdim=True) + centers.square().sum(-1)
    return torch.add(squares, cross, alpha=-2).clamp_min(0)


_PER_CLASS = ("means", "prior_logits", "offsets", "center_logits", "generations")


class HierarchicalMixture(nn.Module):
    r"""The prior that training learns: a Gaussian a class, and centers inside each class.

    All covariances are the identity, as published.

    Parameters
    ----------
    means : Tensor of shape (n_classes, n_features)
        Where the class means :math:`\mu_k` start.
    n_components : int
        M, centers inside each class. Center 1 is the class mean; the others are offset from it by
        a learned :math:`\delta_{k,m}`.
    offset_scale : float, default=1.0
        Standard deviation of each coordinate of the starting offsets.
    generator : torch.Generator
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
        r"""Centers :math:`c_{k,m}`; no gradient reaches the class means through them.

        Returns
        -------
        Tensor of shape (n_classes, n_components, n_features)
        """
        means = self.means.detach()[:, None]
        return torch.cat((means, means + self.offsets), dim=1)

    def class_logits(self, z):
        r"""Unnormalised log-probability of each class, :math:`-\|z - \mu_k\|^2 / 2`.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)

        Returns
        -------
        Tensor of shape (..., n_classes)
        """
        return -0.5 * squared_distances(z, self.means)

    def posterior_entropy(self, z, codes):
        """Entropy of the class posterior, over the classes known when an image's class was fitted.

        Parameters
        ----------
        z : Tensor of shape (n_images, n_positions, n_features)
        codes : Tensor of shape (n_images,), int64
            Class of each image.

        Returns
        -------
        Tensor of shape (n_images, n_positions)
            In nats.
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
        """Return the mixture of the classes of both.

        Parameters
        ----------
        other : HierarchicalMixture
            Classes that join later, of as many components.
        order : Tensor of shape (n_classes of both,), int64
            Where each class of the result stands in the classes of this one, then the other's.

        Returns
        -------
        HierarchicalMixture
            The class posterior of samples of this one's classes is unchanged.
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

    def class_discriminants(self, z):
        """Log-density of each class by its mean alone, by which training tells the classes apart.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)

        Returns
        -------
        Tensor of shape (..., n_classes)
            Up to a constant that is the same for all classes.
        """
        return z @ self.means.T - 0.5 * self.means.square().sum(1)

    def log_prior(self):
        """Log-probability of each class, Tensor of shape (n_classes,)."""
        return self.prior_logits.log_softmax(0)

    def log_density_of(self, z, code):
        r"""Intra-class log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)
        code : int

        Returns
        -------
        Tensor of shape (...)
            logsumexp_m( log w_{k,m} - ||z - c_{k,m}||^2 / 2 ).
        """
        distances = squared_distances(z, self.centers()[code])
        log_weights = self.center_logits[code].log_softmax(0)
        return torch.logsumexp(log_weights - 0.5 * distances, dim=-1)

    def expected_center(self, z, codes):
        """Mean of the centers of each image's class, weighted by their posterior at each position.

        Parameters and shapes are those of `log_density_within_class`.

        Returns
        -------
        Tensor of shape (n_images, n_positions, n_features)
        """
        centers = self.centers()[codes]
        posterior = self._center_logits_of(z, centers, codes).softmax(-1)
        return posterior @ centers

    def log_density_within_class(self, z, codes):
        """Log-density under the class of each image, differentiable.

        Parameters
        ----------
        z : Tensor of shape (n_images, n_positions, n_features)
        codes : Tensor of shape (n_images,), int64
            Class of each image.

        Returns
        -------
        Tensor of shape (n_images, n_positions)
        """
        centers = self.centers()[codes]  # one gather an image, not a vector
        return torch.logsumexp(self._center_logits_of(z, centers, codes), dim=-1)

    def _center_logits_of(self, z, centers, codes):
        """-||z - c_{y,m}||^2 / 2 + log w_{y,m} for centers of shape (n_images, M, n_features)."""
        squares = z.square().sum(-1, keepdim=True) + centers.square().sum(-1)[:, None]
        distances = (squares - 2 * z @ centers.transpose(1, 2)).clamp_min(0)
        return self.center_logits.log_softmax(1)[codes][:, None] - 0.5 * distances


def entropy(logits):
    """Entropy, in nats, of softmax(logits) over the last axis."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def log_likelihood(log_density, log_det, n_features):
    """Log-likelihood per dimension, a / d - ln(2 pi) / 2, with a = log_density + log_det."""
    return (log_density + log_det) / n_features - HALF_LOG_2PI
