"""The densities that score: one Gaussian mixture a class with a covariance of its own, frozen."""

import copy

import torch
from torch import nn

from .mixture import squared_distances

_PER_CLASS = (
    "origins", "whiteners", "whitened_offsets", "center_log_weights", "log_dets", "locations",
    "discriminants",
)  # fmt: skip


class ClassDensities(nn.Module):
    r"""Gaussian mixtures of the classes, measured on latent vectors after training.

    The centers of class k share one covariance, :math:`(W_k W_k^T)^{-1}`. The module also holds
    the covariance that all classes share, by which classes are told apart, and the background: one
    Gaussian of all latent vectors together. Nothing here is learned by gradient.

    Parameters
    ----------
    n_classes, n_components, n_features : int
        Sizes K, M and d.
    has_background : bool
        Whether a background is fitted; it says nothing with a single class.
    """

    def __init__(self, n_classes, n_components, n_features, *, has_background):
        super().__init__()
        shapes = {
            "origins": (n_classes, n_features),
            "whiteners": (n_classes, n_features, n_features),
            "whitened_offsets": (n_classes, n_components, n_features),
            "center_log_weights": (n_classes, n_components),
            "log_dets": (n_classes,),
            "locations": (n_classes, n_features),
            "shared_precision": (n_features, n_features),
            "discriminants": (n_classes, n_features),
        }
        if has_background:
            shapes["background_mean"] = (n_features,)
            shapes["background_whitener"] = (n_features, n_features)
            shapes["background_log_det"] = ()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.has_background = has_background

    @classmethod
    @torch.no_grad()
    def around_centers(
        cls, mixture, shifts, whiteners, locations, shared_precision, background=None
    ):
        """Freeze the centers of a trained mixture, moved, with covariances of their own.

        Parameters
        ----------
        mixture : HierarchicalMixture
            Gives the centers and their weights; the result has its dtype and device.
        shifts : Tensor of shape (n_classes, n_features)
            Added to all centers of a class.
        whiteners : Tensor of shape (n_classes, n_features, n_features)
            Inverse square roots W of the covariances, acting on rows from the right.
        locations : Tensor of shape (n_classes, n_features)
            Mean of the vectors of each class. The mean of its centers can be elsewhere, because
            most centers may be idle.
        shared_precision : Tensor of shape (n_features, n_features)
            Inverse of the covariance that `class_discriminants` takes for all classes.
        background : tuple (mean, whitener), default=None
            Of shapes (n_features,) and (n_features, n_features).

        Returns
        -------
        ClassDensities
        """
        centers = mixture.centers()
        densities = cls(*centers.shape, has_background=background is not None).to(centers)
        densities.origins.copy_(mixture.means + shifts.to(centers))
        densities.whiteners.copy_(whiteners)
        densities.whitened_offsets.copy_((centers - centers[:, :1]) @ densities.whiteners)
        densities.center_log_weights.copy_(mixture.center_logits.log_softmax(1))
        # One by one: the batched factorisation of MKL fails on stacks of large matrices.
        log_dets = [torch.linalg.slogdet(whitener)[1] for whitener in whiteners]
        densities.log_dets.copy_(torch.stack(log_dets))
        densities.locations.copy_(locations)
        densities.set_shared_precision(shared_precision)
        if background is not None:
            mean, whitener = background
            densities.background_mean.copy_(mean)
            densities.background_whitener.copy_(whitener)
            densities.background_log_det.copy_(torch.linalg.slogdet(whitener)[1])
        return densities

    def set_shared_precision(self, precision):
        """Tell classes apart by this inverse covariance, Tensor (n_features, n_features)."""
        self.shared_precision.copy_(precision)
        self.discriminants.copy_(self.locations @ self.shared_precision)

    def joined(self, other, order):
        """Return the densities of the classes of both, with the background of this one.

        Parameters
        ----------
        other : ClassDensities
            Of classes that join later, with as many components.
        order : Tensor of shape (n_classes of both,), int64
            Where each class of the result stands in the classes of this one, then the other's.

        Returns
        -------
        ClassDensities
            The density of each class, and the discriminants of the classes of this one, are
            unchanged. Those of the other's classes take the shared precision of this one.
        """
        other = copy.deepcopy(other)
        other.set_shared_precision(self.shared_precision)
        result = copy.deepcopy(self)
        for name in _PER_CLASS:
            values = getattr(self, name)
            joined = torch.cat((values, getattr(other, name).to(values)))
            setattr(result, name, joined[order])
        return result

    def class_discriminants(self, z):
        """Log-density of each class under the covariance that all classes share.

        These are linear discriminants. By the classes' own covariances, anomalies of a tight class
        would be taken for samples of the widest one.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)

        Returns
        -------
        Tensor of shape (..., n_classes)
            Up to a constant that is the same for all classes.
        """
        return z @ self.discriminants.T - 0.5 * (self.discriminants * self.locations).sum(1)

    def log_density_of(self, z, code):
        r"""Log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        Parameters
        ----------
        z : Tensor of shape (..., n_features)
        code : int

        Returns
        -------
        Tensor of shape (...)
            logsumexp_m( log w_{k,m} - ||(z - c_{k,m}) W_k||^2 / 2 ) + log |det W_k|.
        """
        # The class mean is subtracted before the product: distances stay exact far from the origin.
        white = (z - self.origins[code]) @ self.whiteners[code]
        distances = squared_distances(white, self.whitened_offsets[code])
        log_weights = self.center_log_weights[code]
        return torch.logsumexp(log_weights - 0.5 * distances, dim=-1) + self.log_dets[code]

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
