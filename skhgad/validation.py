"""The kinds of X, the labels y, and the class labels given at prediction.

Two-dimensional numbers, and inputs that scikit-learn rejects, go to scikit-learn, because its
estimator checks expect its messages.
"""

import difflib
import math
import os
import unicodedata
import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import sparse
from sklearn import config_context
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import check_array, validate_data

from .budget import MOST_CLASSES
from .images.source import ImageSource, check_value_range

__all__ = [
    "check_X",
    "check_anomaly_labels",
    "check_class_labels",
    "check_groups",
    "check_known_label",
    "check_map",
    "check_rate",
    "check_score_values",
    "check_scored_X",
    "check_y",
    "is_integer",
    "label_of_text",
    "listed",
    "marks_anomaly",
    "written_alike",
]

_ANOMALY = (-1, "-1")
_MAX_LISTED = 20
_SMALLEST_RATE = 1e-9  # the samples that promise less cannot be counted
_MISSING = ("NAType", "NaTType")  # of pandas, which is no dependency
_TIMES = ("date", "time", "duration", "period")  # dtypes of NumPy, pandas, polars and pyarrow
_KINDS_OF_X = (
    "feature vectors (n_samples, n_features); images as an array (n, height, width) or "
    "(n, height, width, channels); or a list of file paths, PIL images or image arrays"
)


def check_X(X, *, value_range=None, estimator=None, reset=False, n_channels=3):
    """Tell feature vectors from images, and validate either.

    Parameters
    ----------
    X : array-like, DataFrame, Series, sequence or ImageSource
        Feature vectors of shape (n_samples, n_features), also as a list of lists or of 1-D arrays;
        or images, as `skhgad.images.ImageSource` takes them, or such a source.
    value_range : tuple (low, high), default=None
        Pixel values that mean black and white, for images of more than 8 bits.
    estimator : estimator object, default=None
        Where `n_features_in_` and `feature_names_in_` are kept; None checks the values alone.
    reset : bool, default=False
        True, in fit, sets those attributes, or removes them for images; False compares with them.
    n_channels : int, default=3
        Channels of images, as in `skhgad.images.ImageSource`.

    Returns
    -------
    ndarray of shape (n_samples, n_features), dtype float64, or ImageSource
        The images are not yet decoded.

    Raises
    ------
    TypeError
        X is none of these, a single path or image, sparse, or holds None or times.
    ValueError
        Empty input, vectors mixed with images, rows of different lengths; as
        `sklearn.utils.check_array` for vectors and as `ImageSource` for images.
    FileNotFoundError
        A path does not exist.

    Examples
    --------
    >>> check_X([[0, 1], [2, 3]])
    array([[0., 1.],
           [2., 3.]])
    >>> import numpy as np
    >>> check_X(np.zeros((5, 8, 8)))
    ImageSource(n_images=5, value_range=None)
    """
    _refuse_single(X)
    if isinstance(X, ImageSource) or _is_images(X):
        source = X
        if not isinstance(X, ImageSource):
            source = ImageSource(X, value_range=value_range, n_channels=n_channels)
        elif (X.value_range, X.n_channels) != (check_value_range(value_range), n_channels):
            raise ValueError(
                f"X is an ImageSource with value_range={X.value_range} and n_channels="
                f"{X.n_channels}; value_range={value_range} and n_channels={n_channels} are needed."
            )
        if reset:
            for stale in ("n_features_in_", "feature_names_in_"):
                if hasattr(estimator, stale):
                    delattr(estimator, stale)
        return source
    if np.ma.is_masked(X):
        raise ValueError("X has masked values; fill them, e.g. with X.filled(0).")
    _refuse_columns(X)
    with config_context(array_api_dispatch=False):  # a Tensor becomes an array
        try:
            if estimator is None:
                return check_array(X, dtype=np.float64, input_name="X")
            return validate_data(estimator, X, dtype=np.float64, reset=reset)
        except (TypeError, ValueError) as error:
            if any(text in str(error) for text in ("contains NaN", "contains infinity")):
                raise ValueError(_not_finite(X)) from error
            name, value = _no_number(X)
            if name is None:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"X[{name!r}] holds {str(value)!r}, which is no number: encode the column, e.g. "
                "by sklearn.preprocessing.OneHotEncoder, or leave it out."
            ) from error


def _column_names(X):
    """Return the names of the columns of a DataFrame or pyarrow.Table; else an empty list."""
    return list(X.column_names if hasattr(X, "column_names") else getattr(X, "columns", ()))


def _refuse_columns(X):
    """Refuse times, which NumPy would take for numbers, and the sparse columns of pandas."""
    names, types = [f"X[{name!r}]" for name in _column_names(X)], ()
    if not names:
        names, types = ["X"], [getattr(X, "dtype", None)]
    elif hasattr(X, "dtypes"):
        types = X.dtypes
    elif hasattr(X, "schema"):
        types = X.schema.types
    for name, kind in zip(names, map(str, types), strict=False):
        if kind.lower().startswith(_TIMES):
            raise TypeError(
                f"{name} holds times ({kind}), and no numbers: pass e.g. the hours since a start, "
                "or leave them out."
            )
        if kind.startswith("Sparse"):
            raise TypeError(f"{name} is sparse ({kind}): pass X.astype(float).")


def _not_finite(X):
    """Return what to say of X, of which a cell is NaN or infinite."""
    values = check_array(X, dtype=np.float64, ensure_all_finite=False)
    rows, columns = np.nonzero(~np.isfinite(values))
    value, names = values[rows[0], columns[0]], _column_names(X)
    column = repr(names[columns[0]]) if names else columns[0]
    kind = "NaN" if np.isnan(value) else "infinity or a value too large for float64"
    return (
        f"Input X contains {kind}: X[{rows[0]}, {column}] is {value} (cells that are not finite: "
        f"{len(rows)}). Impute them, e.g. by sklearn.impute.KNNImputer in a pipeline, or leave "
        "out their rows."
    )


def _no_number(X):
    """Return name and value of the first cell of a DataFrame that is no number, or two None."""
    for name in _column_names(X):
        values = np.asarray(X[name])
        if values.ndim != 1 or values.dtype.kind in "biufc":
            continue
        for value in values.tolist():
            try:
                float(value)
            except (TypeError, ValueError):
                return name, value
    return None, None


def check_scored_X(X: Any, estimator: Any, *, takes_images: bool) -> Any:
    """Validate X for scoring: as `check_X`, and of the kind seen at fit, else ValueError.

    The `value_range` of its fit, `n_features_in_` and `feature_names_in_` are used.
    """
    fitted = estimator.model_
    X = check_X(
        X,
        value_range=fitted.value_range,
        estimator=estimator,
        reset=False,
        n_channels=fitted.n_channels,
    )
    if isinstance(X, ImageSource) != takes_images:
        seen, given = (
            ("images", "feature vectors") if takes_images else ("feature vectors", "images")
        )
        hint = " A single grey image is X[None]." if takes_images else ""
        raise ValueError(f"X holds {given}, but this detector was fitted on {seen}.{hint}")
    return X


def _refuse_single(X):
    if isinstance(X, (str, os.PathLike)):
        if os.path.isdir(X):
            raise TypeError(
                f"X is a single folder, {os.fspath(X)!r}; pass the paths of its images: after data "
                f"= skhgad.datasets.load_folder({os.fspath(X)!r}) they are data.images. For fit, "
                "load with split='train'; data.target is its y."
            )
        raise TypeError(f"X is a single path, {os.fspath(X)!r}; wrap it in a list: [X].")
    if isinstance(X, Image.Image):
        raise TypeError("X is a single PIL image; wrap it in a list: [X].")


def _is_images(X):
    """Tell images from vectors; refuse a mixture and unknown containers."""
    if sparse.issparse(X):
        return False
    if not isinstance(X, (list, tuple)):
        n_dims = _n_dims(X)
        if n_dims is None:
            raise TypeError(f"X is a {type(X).__name__}; expected {_KINDS_OF_X}.")
        if n_dims == 2:
            _refuse_image_column(X)
        if n_dims != 1:
            return n_dims > 2
    items = list(X) if hasattr(X, "__iter__") else np.asarray(X).tolist()
    if not items:
        raise ValueError(f"X is empty; expected {_KINDS_OF_X}.")
    kinds = [_kind_of_item(item) for item in items]
    if "none" in kinds:
        i = kinds.index("none")
        raise TypeError(f"X[{i}] is {items[i]}, a missing value; remove it or replace it.")
    if "image" in kinds and "vector" in kinds:
        i, v = kinds.index("image"), kinds.index("vector")
        raise ValueError(
            f"X mixes images and feature vectors: X[{i}] is an image ({type(items[i]).__name__}), "
            f"X[{v}] is a vector ({type(items[v]).__name__}). Pass one kind."
        )
    if set(kinds) == {"vector"}:
        lengths = [len(item) for item in items]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        if odd is not None:
            raise ValueError(
                f"X[{odd}] has {lengths[odd]} features while X[0] has {lengths[0]}; all feature "
                "vectors must have the same length."
            )
    return "image" in kinds


def _refuse_image_column(X):
    """Refuse a 2-D column of paths or PIL images."""
    if not hasattr(X, "shape") or X.shape[1] != 1 or X.shape[0] == 0:
        return
    first = X.iloc[0, 0] if hasattr(X, "iloc") else X[0, 0]
    if isinstance(first, (str, os.PathLike, Image.Image)) and not _is_number(first):
        column = f"X[{X.columns[0]!r}]" if hasattr(X, "columns") else "X[:, 0]"
        raise ValueError(
            f"X is a 2-D column of {type(first).__name__}, shape {tuple(X.shape)}; images come in "
            f"1-D: pass {column}."
        )


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _n_dims(X):
    """Return the number of dimensions, or None for what is no array."""
    if hasattr(X, "shape"):
        return len(X.shape)
    return np.ndim(np.asarray(X)) if hasattr(X, "__array__") else None


def _kind_of_item(item):
    if isinstance(item, (str, bytes, os.PathLike, Image.Image)) or hasattr(item, "read"):
        return "image"
    if item is None or type(item).__name__ in _MISSING:
        return "none"
    if isinstance(item, (list, tuple)):
        return "vector"
    n_dims = _n_dims(item)
    if n_dims is None or n_dims == 0:
        return "scalar"
    return "vector" if n_dims == 1 else "image"


def check_y(y, n_samples):
    """Turn product labels into class codes.

    Parameters
    ----------
    y : array-like of shape (n_samples,), or None
        Product classes, all str or all int; floats without a fraction count as ints. The label -1
        (or "-1") marks a known anomaly. None means one class, 0.
    n_samples : int

    Returns
    -------
    codes : ndarray of shape (n_samples,), dtype int64
        Index of each label in `classes`; -1 for a known anomaly.
    classes : ndarray of shape (n_classes,)
        The distinct labels in sorted order, without the anomaly mark.

    Raises
    ------
    ValueError
        Wrong length or shape, continuous, missing or infinite labels, str mixed with int, or only
        anomalies.
    TypeError
        A label of another type, among them bool.

    Warns
    -----
    sklearn.exceptions.DataConversionWarning
        y is a column of shape (n_samples, 1).

    Examples
    --------
    >>> check_y(["cable", "bottle", "-1", "cable"], 4)
    (array([ 1,  0, -1,  1]), array(['bottle', 'cable'], dtype='<U6'))
    """
    if y is None:
        return np.zeros(n_samples, dtype=np.int64), np.array([0])
    labels = _read_labels(y, "y", n_samples)
    normal = np.array([label not in _ANOMALY for label in labels], dtype=bool)
    kept = [label for label in labels if label not in _ANOMALY]
    if not kept:
        raise ValueError(
            f"y marks all {n_samples} samples as known anomalies (-1); at least one must be normal."
        )
    is_str = [isinstance(label, str) for label in kept]
    if any(is_str) and not all(is_str):
        text, number = kept[is_str.index(True)], kept[is_str.index(False)]
        raise ValueError(
            f"y mixes str and int labels, e.g. {text!r} and {number!r}; use one type, e.g. "
            "[str(label) for label in y]."
        )
    classes, kept_codes = np.unique(kept, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        raise ValueError(
            f"y names {len(classes):,} classes, at most {MOST_CLASSES:,} are allowed: pass the "
            "product of each sample, not the sample's own name."
        )
    codes = np.full(n_samples, -1, dtype=np.int64)
    codes[normal] = kept_codes
    return codes, classes


def check_parts(groups, codes, classes):
    """Turn `groups` as users give them into numbers of parts; None if each normal is its own.

    Parameters
    ----------
    groups : array-like of shape (n_samples,), or None
        Equal labels, str or int, mark samples of one part.
    codes : ndarray of shape (n_samples,), int64
        Class of each sample, -1 = known anomaly.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n_samples,), int64, or None

    Raises
    ------
    ValueError, TypeError
        If there is not one label a sample, a label is missing or not hashable, or a part has normal
        samples of two classes.
    """
    if groups is None:
        return None
    if isinstance(groups, str) or not hasattr(groups, "__len__"):
        raise TypeError(f"groups is {groups!r}: give one label for each sample.")
    shape = np.shape(groups) if hasattr(groups, "shape") else (len(groups),)
    if shape != (len(codes),):
        raise ValueError(
            f"groups has the shape {shape}, and X has {len(codes)} samples: give one label for "
            "each sample, equal for samples of one part."
        )
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    found, numbers = {}, np.empty(len(labels), dtype=np.int64)
    for place, label in enumerate(labels):
        if _is_missing(label):
            raise ValueError(
                f"groups[{place}] is {label!r}: a sample that is the only one of its part needs a "
                "label of its own."
            )
        try:
            numbers[place] = found.setdefault(label, len(found))
        except TypeError:
            raise TypeError(f"groups[{place}] is {label!r}: labels are str or int.") from None
    if len(np.unique(numbers[codes >= 0])) == np.count_nonzero(codes >= 0):
        return None
    pairs = np.unique(np.stack((numbers, codes))[:, codes >= 0], axis=1)
    twice = np.unique(pairs[0][1:][pairs[0][1:] == pairs[0][:-1]])
    if len(twice):
        label = list(found)[twice[0]]
        names = classes[pairs[1][pairs[0] == twice[0]]].tolist()
        raise ValueError(
            f"groups: the part {label!r} has normal samples of the classes "
            f"{listed(map(repr, names))}. All of a part belong to one class."
        )
    return numbers


def check_class_labels(class_labels, classes, n_samples):
    """Turn class labels given at prediction, or one for all, into int64 codes (n_samples,).

    `classes` are those of `check_y`. Raises ValueError for a label that is missing or none of them,
    and for a wrong length or shape; TypeError for a label that is neither str nor int.

    Examples
    --------
    >>> import numpy as np
    >>> check_class_labels("cable", np.array(["bottle", "cable"]), 3)
    array([1, 1, 1])
    """
    if isinstance(class_labels, (str, Real)):
        labels = [_read_label(class_labels, "class_labels")] * n_samples
    else:
        labels = _read_labels(class_labels, "class_labels", n_samples)
    known = classes.tolist()
    code_of = {label: code for code, label in enumerate(known)}
    for i, label in enumerate(labels):
        if label not in code_of:
            raise ValueError(
                f"class_labels[{i}] is {label!r}, which was not seen at fit. Known classes: "
                f"{listed(map(repr, known))}.{_suggestion(label, known)}"
            )
    return np.array([code_of[label] for label in labels], dtype=np.int64)


def check_known_label(label: Any, classes: NDArray[Any], name: str) -> Any:
    """Return the element of `classes` that equals `label`; else ValueError, naming `name`."""
    known = classes.tolist()
    if isinstance(label, bool) or label not in known:
        raise ValueError(
            f"{name} names the class {label!r}, which was not seen at fit. Known classes: "
            f"{listed(map(repr, known))}.{_suggestion(label, known)}"
        )
    return known[known.index(label)]


def label_of_text(text: str, classes: NDArray[Any], name: str) -> Any:
    """Return the element of `classes` that is written `text`; else ValueError, naming `name`."""
    labels = {str(label): label for label in classes.tolist()}
    found = written_alike(text, labels)
    if found is None:
        raise ValueError(f"{name} {text!r}: the model knows {list(labels)}.")
    return labels[found]


def written_alike(text: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is `text`, or is it in other characters; None if none is.

    A Mac writes "ö" in names of files as "o" and a diaeresis: to Unicode they are equivalent.
    """
    names = list(names)
    if text in names:
        return text
    form = unicodedata.normalize("NFC", text)
    return next((name for name in names if unicodedata.normalize("NFC", name) == form), None)


def check_level(level: Any, n_levels: int) -> None:
    """Raise ValueError unless `level`, maybe negative, is an index of `n_levels` levels."""
    if not is_integer(level) or not -n_levels <= level < n_levels:
        raise ValueError(f"level={level!r}: the detector has the levels 0 to {n_levels - 1}.")


def check_rate(rate, name):
    """Raise ValueError, or TypeError, unless a rate lies strictly between 0 and 1."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"{name} must be a number between 0 and 1, got {rate!r}.")
    if not 0 < rate < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {rate!r}.")
    if rate < _SMALLEST_RATE:
        raise ValueError(f"{name} must be at least {_SMALLEST_RATE:g}, got {rate!r}.")


def listed(texts):
    """Join texts for a message; of many, the first ones and their number."""
    texts = list(texts)
    shown = ", ".join(texts[:_MAX_LISTED])
    return shown if len(texts) <= _MAX_LISTED else f"{shown}, ... ({len(texts)} in all)"


def _suggestion(label, known):
    spelled = {str(k).casefold(): k for k in known}
    close = difflib.get_close_matches(str(label).casefold(), spelled, n=1)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


def _read_labels(labels, name, n_samples):
    if sparse.issparse(labels) or isinstance(labels, (str, bytes, dict, set)):
        raise TypeError(
            f"{name} is a {type(labels).__name__}; pass a list or 1-D array of {n_samples} labels."
        )
    # As objects, because NumPy would turn ["bottle", 1] into strings without a word.
    is_list = isinstance(labels, (list, tuple))
    values = np.asarray(labels, dtype=object) if is_list else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        warnings.warn(
            f"A column-vector {name} was passed when a 1d array was expected. Please change the "
            "shape to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=3,
        )
        values = values.ravel()
    if values.ndim != 1:
        raise ValueError(f"{name} should be a 1d array, got an array of shape {values.shape}.")
    if len(values) != n_samples:
        raise ValueError(
            f"{name} has {len(values)} labels but X has {n_samples} samples; pass one per sample."
        )
    return [_read_label(value, f"{name}[{i}]") for i, value in enumerate(values.tolist())]


def _read_label(value, name):
    if isinstance(value, str):
        return str.__str__(value)  # of an Enum with str values the value, as NumPy takes it
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{name} is {value}, a bool; labels name product classes (str or int). If True marks "
            "anomalies, pass np.where(y, -1, 1)."
        )
    if _is_missing(value):
        raise ValueError(f"Input {name} contains NaN or None; give every sample a label.")
    if isinstance(value, Real):
        if math.isinf(value):
            raise ValueError(f"Input {name} contains infinity; give every sample a label.")
        if value != int(value):
            raise ValueError(
                f"Unknown label type: continuous. {name} is {value}; labels name product classes "
                "(str or int), -1 a known anomaly."
            )
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} is {value}, which does not fit into int64.")
        return int(value)
    raise TypeError(f"{name} is {value!r:.80} ({type(value).__name__}); labels must be str or int.")


def _is_missing(value):
    return value is None or type(value).__name__ in _MISSING or value != value


def is_integer(value: object) -> bool:
    """Tell whether a value is an integer of Python or NumPy."""
    return isinstance(value, Integral)


def marks_anomaly(label: Any) -> bool:
    """Tell whether a label is the mark of an anomaly, -1 or "-1"."""
    return bool(label == -1 or str(label) == "-1")


def check_anomaly_labels(y: ArrayLike) -> NDArray[np.bool_]:
    """Return a bool array, True where `y` marks an anomaly.

    Raises ValueError if `y` is not 1-D, is empty, lacks a label or holds fractions, and TypeError
    if it is boolean.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"y must be labels of shape (n_samples,), n_samples > 0, got {labels!r:.80}."
        )
    if labels.dtype == bool:
        raise TypeError("y is boolean: use +1 for normal and -1 for anomaly.")
    if labels.dtype.kind == "f" and not np.all(labels == np.floor(labels)):
        index = int(np.flatnonzero(labels != np.floor(labels))[0])
        raise ValueError(f"y[{index}] = {labels[index]} is neither a label nor +1/-1.")
    if labels.dtype.kind in "iuf":
        return labels == -1
    _require_labels(y, "y")
    return np.array([marks_anomaly(label) for label in labels.tolist()])


def _require_labels(labels, name):
    """Raise ValueError if one is missing; NumPy would make the text "nan" of it beside texts."""
    for i, label in enumerate(np.asarray(labels, dtype=object).tolist()):
        if _is_missing(label):
            raise ValueError(f"{name}[{i}] is {label}: give every sample a label.")


def check_score_values(scores: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return scores as float64; raise ValueError unless there is a finite one per sample."""
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(f"scores must have shape ({n_samples},) as y, got {values.shape}.")
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"scores[{index}] is {values[index]}: every score must be finite.")
    return values


def check_groups(class_labels: ArrayLike | None, n_samples: int) -> list[Any]:
    """Return the product class of every sample; "all" where `class_labels` is None.

    Unlike in `check_class_labels`, the classes need not be known. Raises ValueError if the length
    is wrong, or a label is missing or marks an anomaly.
    """
    if class_labels is None:
        return ["all"] * n_samples
    array = np.asarray(class_labels)
    if array.shape != (n_samples,):
        raise ValueError(f"class_labels must have shape ({n_samples},), got {array.shape}.")
    _require_labels(class_labels, "class_labels")
    labels = array.tolist()
    for index, label in enumerate(labels):
        if marks_anomaly(label):
            raise ValueError(
                f"class_labels[{index}] is {label!r}: give the anomaly's product class, -1 in y."
            )
    return labels


def check_map(anomaly_map: ArrayLike, where: str) -> NDArray[Any]:
    """Return an anomaly map as a 2-D array of finite numbers; `where` names it in errors."""
    scores = np.asarray(anomaly_map)
    if scores.ndim != 2 or not scores.size or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"anomaly_map ({where}) must be numbers of shape (height, width), got "
            f"{scores.dtype} of shape {scores.shape}."
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"anomaly_map ({where}) is {scores[row, column]} at row {row}, column {column}."
        )
    return scores
