"""Shorter descriptions of each class where classes are many, so that a model stays small."""

import math

import torch

# Of the widest level: whitening matrices of all classes, a byte for each pair of features.
_MATRIX_BYTES = 12_000_000
# Widths that cost no accuracy: so many for each picture of a class, and so many in any case.
_FEATURES_OF_A_PICTURE = 5
_LEAST_FEATURES = 192
# Kept vectors of a level, all classes together: 16 MB in one byte a number. As many bytes are half
# as many vectors in two.
_MOST_VECTORS = 500_000


def with_fewer_features(parameters, n_pictures, n_classes):
    """Return the parameters of an estimator with a lower `max_features` where classes are many.

    Levels are not brought below what the pictures of a class, in mean, can tell apart.
    """
    most = parameters["max_features"]
    if most is None:
        return parameters
    width = max(
        _LEAST_FEATURES,
        _FEATURES_OF_A_PICTURE * n_pictures // n_classes,
        math.isqrt(2 * _MATRIX_BYTES // n_classes),
    )
    return parameters | {"max_features": min(most, width)}


def vectors_of_a_class(bank_size, n_classes):
    """Return how many vectors a level keeps of each class: `bank_size`, or less of many classes."""
    return min(bank_size, max(1, _MOST_VECTORS // n_classes))


def type_of_vectors(bank_size, n_classes):
    """Return how whole numbers of kept vectors are stored: torch.int8 where they may be many."""
    return torch.int8 if 2 * bank_size * n_classes > _MOST_VECTORS else torch.int16
