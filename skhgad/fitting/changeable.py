"""Whether more normals can change a fitted detector."""

from ..parameters import check_parameters, parameters_now


def parameters_of_change(detector, method):
    """Return the parameters with which more normals change a fitted detector, as dict.

    Raises ValueError, naming the method, if they cannot: the densities come from training alone.
    """
    check_parameters(detector.get_params(deep=False))
    if detector.model_.model.levels[0].densities is None:
        raise ValueError(
            f"{method} needs a detector fitted with class_covariance=True: unit covariances come "
            "from training, which only fit does."
        )
    return parameters_now(detector)
