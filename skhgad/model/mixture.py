"""The hierarchical Gaussian mixture prior: classes, and centers inside each class."""

import copy
import math

import torch
from torch import nn


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


_OF_CLASSES = (
    "means", "class_logits", "offsets", "center_logits", "shifts", "whiteners",
    "whitened_offsets", "log_dets", "locations", "discriminants", "generations",
)  # fmt: skip


class HierarchicalMixture(nn.Module):
    r"""Gaussians around class means and around centers inside each class.

    Covariances are the identity, as published, until `set_covariances` gives every class its own
    for the intra-class density.

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
        self.class_logits = nn.Parameter(torch.zeros(n_classes))
        self.offsets = nn.Parameter(
            offset_scale * torch.randn(n_classes, n_components - 1, n_features, generator=generator)
        )
        self.center_logits = nn.Parameter(torch.zeros(n_classes, n_components))
        for name in (
            "shifts", "whiteners", "whitened_offsets", "log_dets",
            "locations", "shared_precision", "discriminants",
        ):  # fmt: skip
            self.register_buffer(name, None)
        # Classes that joined later take no part in the posterior of those before them.
        self.register_buffer("generations", torch.zeros(n_classes, dtype=torch.int64))
        for name in ("background_mean", "background_whitener", "background_log_det"):
            self.register_buffer(name, None)

    def centers(self):
        r"""Centers :math:`c_{k,m}`; no gradient reaches the class means through them.

        Returns
        -------
        Tensor of shape (n_classes, n_components, n_features)
        """
        means = self.means.detach()[:, None]
        return torch.cat((means, means + self.offsets), dim=1)

    def class_logits_of(self, z):
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
        """Entropy of the class posterior, over the classes that an image's class was fitted among.

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
            return entropy(self.class_logits_of(z))
        found = torch.empty_like(z[..., 0])
        own_generations = self.generations[codes]
        for generation in own_generations.unique().tolist():
            own, known = own_generations == generation, self.generations <= generation
            found[own] = entropy(-0.5 * squared_distances(z[own], self.means[known]))
        return found

    def joined(self, other, order):
        """Return the mixture of the classes of both, with the background of this one.

        Parameters
        ----------
        other : HierarchicalMixture
            Classes that join later, of as many components, covariances set.
        order : Tensor of shape (n_classes of both,), int64
            Where each class of the result stands in the classes of this one, then the other's.

        Returns
        -------
        HierarchicalMixture
            Each class's density, and the posterior and the discriminants of the classes of this
            one, are unchanged.
        """
        other = copy.deepcopy(other)
        other.set_shared_precision(self.shared_precision)
        result = copy.deepcopy(self)
        for name in _OF_CLASSES:
            own, more = getattr(self, name), getattr(other, name)
            if name == "generations":
                more = torch.full_like(more, int(own.max()) + 1)
            values = torch.cat((own.detach(), more.detach().to(own)))[order]
            if isinstance(own, nn.Parameter):
                values = nn.Parameter(values, requires_grad=own.requires_grad)
            setattr(result, name, values)
        return result

    def class_discriminants(self, z):
        """Tell how well each class fits, by a covariance that all classes share.

        Linear discriminants: by their own covariances, anomalies of a tight class would be taken
        for samples of the widest.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)

        Returns
        -------
        Tensor of shape (..., n_classes)
            Log-density of each class, up to a constant that all classes share. With unit
            covariances that of the class means, by which training tells the classes apart.
        """
        if self.locations is None:
            return z @ self.means.T - 0.5 * self.means.square().sum(1)
        return z @ self.discriminants.T - 0.5 * (self.discriminants * self.locations).sum(1)

    def log_prior(self):
        """Log-probability of each class, Tensor of shape (n_classes,)."""
        return self.class_logits.log_softmax(0)

    def set_covariances(self, shifts, whiteners, locations, shared_precision):
        """Fix the covariance of each class, and the one that all share.

        Parameters
        ----------
        shifts : Tensor of shape (n_classes, n_features)
            Added to all centers of a class.
        whiteners : Tensor of shape (n_classes, n_features, n_features)
            Inverse square roots W of the covariances, acting on rows from the right.
        locations : Tensor of shape (n_classes, n_features)
            Mean of the vectors of each class; not that of its centers, most of which may be idle.
        shared_precision : Tensor of shape (n_features, n_features)
            Inverse of the covariance that `class_discriminants` takes for all classes.
        """
        self.shifts = shifts.to(self.means)
        self.whiteners = whiteners.to(self.means)
        centers = self.centers().detach()
        self.whitened_offsets = (centers - centers[:, :1]) @ self.whiteners
        # One by one: the batched factorisation of MKL fails on stacks of large matrices.
        self.log_dets = torch.stack([torch.linalg.slogdet(w)[1] for w in whiteners]).to(self.means)
        self.locations = locations.to(self.means)
        self.set_shared_precision(shared_precision)

    def set_shared_precision(self, precision):
        """Tell classes apart by this inverse covariance, Tensor (n_features, n_features)."""
        self.shared_precision = precision.to(self.means)
        self.discriminants = self.locations @ self.shared_precision

    def set_background(self, mean, whitener):
        """Fix the Gaussian of all classes together for `log_density_background`.

        Parameters
        ----------
        mean : Tensor of shape (n_features,)
        whitener : Tensor of shape (n_features, n_features)
            Inverse square root of the covariance, acting on rows from the right.
        """
        self.background_mean = mean.to(self.means)
        self.background_whitener = whitener.to(self.means)
        self.background_log_det = torch.linalg.slogdet(whitener)[1].to(self.means)

    def log_density_background(self, z):
        r"""Log-density of the background, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)

        Returns
        -------
        Tensor of shape (...)
        """
        distances = ((z - self.background_mean) @ self.background_whitener).square().sum(-1)
        return self.background_log_det - 0.5 * distances

    def log_density_of(self, z, code):
        r"""Intra-class log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)
        code : int

        Returns
        -------
        Tensor of shape (...)
            logsumexp_m( log w_{k,m} - ||(z - c_{k,m}) W_k||^2 / 2 ) + log |det W_k|, where W_k is
            the identity for unit covariances.
        """
        log_weights = self.center_logits[code].log_softmax(0)
        if self.whiteners is None:
            distances = squared_distances(z, self.centers()[code])
            return torch.logsumexp(log_weights - 0.5 * distances, dim=-1)
        # Subtract the class mean before the product: distances stay exact far from the origin.
        white = (z - (self.means[code] + self.shifts[code])) @ self.whiteners[code]
        distances = squared_distances(white, self.whitened_offsets[code])
        return torch.logsumexp(log_weights - 0.5 * distances, dim=-1) + self.log_dets[code]

    def expected_center(self, z, codes):
        """Mean of the centers of each image's class, weighted by their posterior at each position.

        Parameters and shapes as in `log_density_within_class`; unit covariances.

        Returns
        -------
        Tensor of shape (n_images, n_positions, n_features)
        """
        centers = self.centers()[codes]
        posterior = self._center_logits_of(z, centers, codes).softmax(-1)
        return posterior @ centers

    def log_density_within_class(self, z, codes):
        """Log-density under each image's own class, differentiable; unit covariances.

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
