"""Shorter descriptions of each class where classes are many, so that a model stays small."""

import math

import torch

# Of the widest level: whitening matrices of all classes, a byte for each pair of features.
_MATRIX_BYTES = 12_000_000
# Widths that cost no accuracy: so many for each picture of a class, and so many in any case.
_FEATURES_OF_A_PICTURE = 8
_LEAST_FEATURES = 192
_MOST_OF_TWO_BYTES = 400_000  # kept vectors of a level


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


def type_of_vectors(bank_size, n_classes):
    """Return how whole numbers of kept vectors are stored: torch.int8 where they may be many."""
    return torch.int8 if bank_size * n_classes > _MOST_OF_TWO_BYTES else torch.int16
