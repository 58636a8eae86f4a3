"""The densities that score: a Gaussian mixture for each class, with its own covariance."""

import copy

import torch
from torch import nn

from .mixture import squared_distances

_PER_CLASS = (
    "origins", "whiteners", "whitened_offsets", "center_log_weights", "log_dets", "locations",
    "discriminants",
)  # fmt: skip


class ClassDensities(nn.Module):
    """Gaussian mixtures of the classes, measured on latent vectors after training.

    The centers of class k share one covariance, :math:`(W_k W_k^T)^{-1}`. The module also holds the
    covariance that all classes share, and, with several classes, the background: one Gaussian of
    all latent vectors together.
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

        The result has the mixture's dtype and device.

        Parameters
        ----------
        mixture : HierarchicalMixture
        shifts : Tensor of shape (n_classes, n_features)
            Added to all centers of a class.
        whiteners : Tensor of shape (n_classes, n_features, n_features)
            Inverse square roots W of the covariances, acting on rows from the right.
        locations : Tensor of shape (n_classes, n_features)
            Mean of the vectors of each class. That of its centers can be elsewhere, because most
            may be idle.
        shared_precision : Tensor of shape (n_features, n_features)
            Inverse of the covariance that all classes share.
        background : tuple (mean, whitener), default=None
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

        `order` is that of `HierarchicalMixture.joined`. The other's discriminants take this one's
        shared precision; else nothing changes.
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
        """Log-density of each class under the shared covariance, up to a common constant.

        By the classes' own covariances, anomalies of a tight class would be taken for samples of
        the widest one. `z` has shape (..., n_features), the result (..., n_classes).
        """
        return z @ self.discriminants.T - 0.5 * (self.discriminants * self.locations).sum(1)

    def log_density_of(self, z, code):
        r"""Log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        For z (..., n_features), shape (...):
        logsumexp_m( log w_{k,m} - ||(z - c_{k,m}) W_k||^2 / 2 ) + log |det W_k|.
        """
        # The class mean is subtracted before the product: distances stay exact far from the origin.
        white = (z - self.origins[code]) @ self.whiteners[code]
        distances = squared_distances(white, self.whitened_offsets[code])
        log_weights = self.center_log_weights[code]
        return torch.logsumexp(log_weights - 0.5 * distances, dim=-1) + self.log_dets[code]

    def log_density_background(self, z):
        """Log-density of the background, with shapes and constant of `log_density_of`."""
        distances = ((z - self.background_mean) @ self.background_whitener).square().sum(-1)
        return self.background_log_det - 0.5 * distances
