"""The t distribution: it stands for one Gaussian where tails are heavy."""

import math

import torch

_DEGREES = (2.1, 2.3, 2.6, 3.0, 4.0, 6.0, 10.0, 30.0, 1000.0)


def likeliest_student(distances, n_features):
    r"""Log-densities (n,) of vectors under the t distribution that makes them most likely.

    It has the mean and the covariance of a Gaussian, of which `distances` (n,) are the squared
    Mahalanobis distances, so it ranks vectors as that does. Its degrees of freedom are chosen, more
    than 2. Up to log-determinant and constant, :math:`-\frac{d}{2}\ln 2\pi`, of the Gaussian.
    """
    fits = [_log_density(distances, n_features, degrees) for degrees in _DEGREES]
    return max(fits, key=lambda fit: float(fit.mean()))


def _log_density(distances, d, degrees):
    constant = math.lgamma((degrees + d) / 2) - math.lgamma(degrees / 2)
    constant -= d / 2 * math.log(degrees / 2 - 1)
    return constant - (degrees + d) / 2 * torch.log1p(distances / (degrees - 2))
