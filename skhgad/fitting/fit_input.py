"""What `fit` is given, checked: first by each process for itself, then between the processes."""

from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from ..features.extractor import channels_of
from ..features.framing import product_masks
from ..features.reader import FeatureReader
from ..images import ImageSource
from ..parameters import check_parameters, plain_parameters
from ..validation import check_parts, check_X, check_y
from .far_cells import check_magnitude, far_cells
from .known_masks import check_masks
from .many_classes import with_fewer_features
from .objective import check_trainable
from .same_call import check_same_data, check_same_parameters, check_same_regions
from .table_memory import check_table_memory
from .wide_tables import with_rounded_rows


@dataclass(frozen=True)
class FitInput:
    """The valid arguments of one call of `fit`, the same in all processes.

    Attributes
    ----------
    parameters : dict
        Of the detector.
    X : ndarray of shape (n_samples, n_features), float64, or ImageSource
    codes : ndarray of shape (n_samples,), int64
        Class of each sample; -1 = known anomaly.
    classes : ndarray of shape (n_classes,)
        Labels by code.
    masks : list of bool ndarrays and None, or None
        As from `check_masks`.
    regions : ProductMasks, list of Region, or None
        As from `product_masks`.
    reader : FeatureReader
    random_state : RandomState
    feature_names : ndarray of shape (n_features,), or None
    parts : ndarray of shape (n_samples,), int64, or None
        As from `check_parts`.
    """

    parameters: dict
    X: object
    codes: np.ndarray
    classes: np.ndarray
    masks: list | None
    regions: object
    reader: FeatureReader
    random_state: np.random.RandomState
    feature_names: np.ndarray | None
    parts: np.ndarray | None = None

    @property
    def takes_images(self):
        """Whether X holds images."""
        return self.reader.extractor is not None

    def groups(self):
        """Return the row numbers of normals to fit, of normals with far cells, and of anomalies.

        The fourth value lists the cells, see `far_cells`. Images have none. ValueError is raised if
        the squares of the normals to fit are 0 or infinite.
        """
        normal, anomalies = np.flatnonzero(self.codes >= 0), np.flatnonzero(self.codes < 0)
        if self.takes_images:
            return normal, normal[:0], anomalies, []
        cells = far_cells(self.X, self.codes)
        far = np.unique(np.array([cell.row for cell in cells], dtype=np.int64))
        normal = np.setdiff1d(normal, far)
        check_magnitude(self.X[normal], self.feature_names)
        return normal, far, anomalies, cells

    def rounded(self, normal):
        """Return the same with these rows of X as `rounded_rows` leaves them; images stay."""
        if self.takes_images or self.parameters["start"] != "whitened":
            return self
        return replace(self, X=with_rounded_rows(self.X, normal))


def checked_input(detector, X, y, masks, roi, groups, processes):
    """Check the arguments of `fit`; return them as FitInput.

    `n_features_in_` and `feature_names_in_` are set on the detector. What one process finds wrong,
    all raise.
    """
    parameters = detector.get_params(deep=False)
    with processes.agree():
        check_parameters(parameters)
        check_trainable(parameters["loss"])
        X = check_X(
            X,
            value_range=parameters["value_range"],
            estimator=detector,
            reset=True,
            n_channels=channels_of(parameters["backbone"]),
        )
        codes, classes = check_y(y, len(X))
        parts = check_parts(groups, codes, classes)
        takes_images = isinstance(X, ImageSource)
        n_classes = parameters["n_classes"]
        n_fitted = int(n_classes) if isinstance(n_classes, Integral) else len(classes)
        if not takes_images:
            check_table_memory(*X.shape, n_fitted, parameters)
        masks = check_masks(masks, codes, takes_images=takes_images)
        labels = classes if n_classes in ("auto", len(classes)) else None  # yet to be discovered
        regions = product_masks(roi, len(X), labels, takes_images=takes_images)
        random_state = check_random_state(parameters["random_state"])
        parameters = plain_parameters(parameters)
        n_normals = int((codes >= 0).sum())
        reader = FeatureReader.for_fit(with_fewer_features(parameters, n_normals, n_fitted), X)
    check_same_parameters(processes, parameters)
    check_same_data(processes, X, codes, classes, masks, parts)
    check_same_regions(processes, regions)
    if reader.extractor is not None:
        processes.share_state(reader.extractor)
    random_state = processes.broadcast(random_state)
    names = getattr(detector, "feature_names_in_", None)
    return FitInput(
        parameters, X, codes, classes, masks, regions, reader, random_state, names, parts
    )
