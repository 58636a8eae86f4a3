"""What X may be, how y becomes codes, and which messages say otherwise."""

from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning

from skhgad.datasets import load_folder
from skhgad.images import ImageSource
from skhgad.validation import check_class_labels, check_X, check_y

VECTORS = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    return tmp_path / "a.png"


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize(
    "X",
    [
        VECTORS,
        VECTORS.astype(np.float32),
        VECTORS.astype(int),
        np.asfortranarray(VECTORS),
        VECTORS.tolist(),
        tuple(map(tuple, VECTORS)),
        list(VECTORS),
        VECTORS.astype(object),
    ],
)
def test_numbers_in_two_dimensions_are_vectors(X):
    for estimator in (None, BaseEstimator()):
        checked = check_X(X, estimator=estimator, reset=True)
        assert checked.dtype == np.float64
        np.testing.assert_array_equal(checked, VECTORS)
    assert estimator.n_features_in_ == 3


def test_object_that_only_knows_array():
    class Wrapped:
        def __array__(self, dtype=None, copy=None):
            return VECTORS.astype(dtype or float)

    np.testing.assert_array_equal(check_X(Wrapped()), VECTORS)


def test_data_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    estimator = BaseEstimator()
    frame = pandas.DataFrame(VECTORS, columns=["a", "b", "c"])
    np.testing.assert_array_equal(check_X(frame, estimator=estimator, reset=True), VECTORS)
    assert list(estimator.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        check_X(frame[["b", "a", "c"]], estimator=estimator)


def test_number_of_features_is_compared():
    estimator = BaseEstimator()
    check_X(VECTORS, estimator=estimator, reset=True)
    with pytest.raises(ValueError, match="2 features, but BaseEstimator is expecting 3"):
        check_X(VECTORS[:, :2], estimator=estimator)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (VECTORS[0], ValueError, "Expected 2D array, got 1D array"),
        ([1.0, 2.0], ValueError, "Expected 2D array, got 1D array"),
        (np.float64(3), ValueError, "Expected 2D array, got scalar"),
        (np.where(VECTORS > 4, np.nan, VECTORS), ValueError, "X contains NaN"),
        (np.where(VECTORS > 4, np.inf, VECTORS), ValueError, "X contains infinity"),
        (VECTORS + 1j, ValueError, "Complex data not supported"),
        (sparse.csr_array(VECTORS), TypeError, "[Ss]parse"),
        (np.empty((0, 3)), ValueError, r"0 sample\(s\)"),
        (np.empty((3, 0)), ValueError, r"0 feature\(s\)"),
        (np.array([[{"a": 1}, 2], [3, 4]], dtype=object), TypeError, "argument must be .*string"),
        ([{"a": 1}, {"a": 2}], TypeError, "argument must be .*string"),
        ([["a", "b"], ["c", "d"]], ValueError, "could not convert string to float"),
    ],
)
def test_scikit_learn_judges_numbers(X, error, message):
    for estimator in (None, BaseEstimator()):
        with pytest.raises(error, match=message):
            check_X(X, estimator=estimator, reset=True)


def test_ragged_and_masked_vectors():
    with pytest.raises(ValueError, match=r"X\[2\] has 1 features while X\[0\] has 2"):
        check_X([[1, 2], [3, 4], [5]])
    with pytest.raises(ValueError, match=r"X has masked values.*filled"):
        check_X(np.ma.masked_equal(VECTORS, 4))


# ---------------------------------------------------------------- images


def test_each_kind_of_images(path):
    pandas = pytest.importorskip("pandas")
    picture = Image.open(path)
    array_1d = np.empty(2, dtype=object)
    array_1d[:] = [PICTURE, PICTURE]
    for X in (
        PICTURE[None],
        [PICTURE, path],
        (str(path),),
        [picture, PICTURE[:2]],
        np.array([str(path)]),
        np.array([path, path], dtype=object),
        array_1d,
        pandas.Series([str(path)], index=["row"]),
    ):
        source = check_X(X)
        assert isinstance(source, ImageSource) and len(source) == len(X)
        np.testing.assert_array_equal(source.read(0), PICTURE)
    grey = check_X(np.zeros((2, 8, 9)) + 0.25)
    np.testing.assert_array_equal(grey.read(1), np.full((8, 9, 3), 0.25, np.float32))
    flat = check_X([PICTURE[..., 0]])  # one 2-D array in a list is an image, not a vector
    np.testing.assert_array_equal(flat.read(0)[..., 1], PICTURE[..., 0])


def test_value_range_reaches_the_images():
    source = check_X([np.array([[0, 512, 1023]], np.uint16)], value_range=(0, 1023))
    np.testing.assert_allclose(source.read(0)[0, :, 0], [0, 512 / 1023, 1])
    np.testing.assert_array_equal(check_X(VECTORS, value_range=(0, 1023)), VECTORS)


def test_images_leave_no_feature_count():
    estimator = BaseEstimator()
    check_X(PICTURE[None], estimator=estimator, reset=True)
    assert vars(estimator) == {}
    estimator.n_features_in_, estimator.feature_names_in_ = 2, np.array(["a", "b"], dtype=object)
    check_X(PICTURE[None], estimator=estimator)
    assert estimator.n_features_in_ == 2
    check_X(PICTURE[None], estimator=estimator, reset=True)
    assert vars(estimator) == {}


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("a.png", TypeError, r"single path, 'a.png'; wrap it in a list: \[X\]"),
        (Image.new("L", (2, 2)), TypeError, r"single PIL image; wrap it in a list"),
        (None, TypeError, "X is a NoneType; expected feature vectors"),
        (3, TypeError, "X is a int; expected"),
        ({"a": [1]}, TypeError, "X is a dict; expected"),
        ((x for x in "ab"), TypeError, "X is a generator; expected"),
        ([], ValueError, "X is empty"),
        (np.array([]), ValueError, "X is empty"),
        (np.zeros((8, 9, 3)), ValueError, r"batch axis; pass X\[None\]"),
        (np.zeros((2, 3, 8, 9)), ValueError, "channels seem to come first"),
        (np.zeros((1, 2, 3, 4, 5)), ValueError, r"\(1, 2, 3, 4, 5\); expected"),
        ([PICTURE, None], TypeError, r"X\[1\] is None, a missing value"),
        (np.array([None, "a.png"], dtype=object), TypeError, r"X\[0\] is None"),
        ([[1, 2], None], TypeError, r"X\[1\] is None"),
        ([PICTURE, 3.5], TypeError, r"X\[1\] is 3.5 \(float\), not an image"),
        ([VECTORS[0], PICTURE], ValueError, r"mixes.*X\[1\] is an image.*X\[0\] is a vector"),
        ([[1.0, 2.0], "a.png"], ValueError, r"mixes.*X\[1\] is an image \(str\)"),
        (["nowhere/a.png"], FileNotFoundError, r"X\[0\] \(nowhere/a.png\) does not exist"),
        ([b"a.png"], TypeError, r"X\[0\] is b'a.png'"),
    ],
)
def test_what_is_neither_is_refused(X, error, message):
    with pytest.raises(error, match=message):
        check_X(X)


def test_folder_and_column_of_paths(tmp_path, path):
    pandas = pytest.importorskip("pandas")
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(TypeError, match=r"single folder.*skhgad\.datasets\.load_folder"):
            check_X(folder)
    with pytest.raises(TypeError, match="single path"):
        check_X(path)
    assert len(check_X(load_folder(tmp_path).images)) == 1  # what the message says works
    with pytest.raises(ValueError, match=r"2-D column.*pass X\['file'\]"):
        check_X(pandas.DataFrame({"file": [str(path)]}))
    with pytest.raises(ValueError, match=r"2-D column.*pass X\[:, 0\]"):
        check_X(np.array([[str(path)]]))
    np.testing.assert_array_equal(check_X(np.array([["1.5"], ["2"]])), [[1.5], [2.0]])


# ---------------------------------------------------------------- y


def test_no_labels_are_one_class():
    codes, classes = check_y(None, 3)
    np.testing.assert_array_equal(codes, [0, 0, 0])
    np.testing.assert_array_equal(classes, [0])
    assert codes.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "codes", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (np.array(["b", "-1", "b"]), [0, -1, 0], ["b"]),
        (np.array(["b", "a", "c"], dtype=object), [1, 0, 2], ["a", "b", "c"]),
        ([1, -1, 1], [0, -1, 0], [1]),
        (np.array([7, 3, -1], np.int8), [1, 0, -1], [3, 7]),
        (np.array([2, 0, 2], np.uint8), [1, 0, 1], [0, 2]),
        ([1.0, -1.0, 2.0], [0, -1, 1], [1, 2]),
        (np.array([5.0, -1.0, 5.0], np.float32), [0, -1, 0], [5]),
        (["b", -1, "a"], [1, -1, 0], ["a", "b"]),
        ([-2, 4, -2], [0, 1, 0], [-2, 4]),
        ((1, np.int64(2), np.float64(2)), [0, 1, 1], [1, 2]),
    ],
)
def test_labels_become_codes(y, codes, classes):
    got, found = check_y(y, 3)
    np.testing.assert_array_equal(got, codes)
    assert found.tolist() == classes
    assert got.dtype == np.int64
    assert found.dtype.kind == ("U" if isinstance(classes[0], str) else "i")


def test_a_column_that_holds_no_numbers_is_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(VECTORS, columns=["a", "b", "c"])
    n = len(frame)
    columns = {
        "'u', which is no number": (ValueError, ["u"] * n),
        "'v', which is no number": (ValueError, pandas.Categorical(["v"] * n)),
        "times .datetime64": (TypeError, pandas.date_range("2020", periods=n)),
        "times .timedelta64": (TypeError, pandas.to_timedelta([2] * n, unit="D")),
        "times .period": (TypeError, pandas.period_range("2020", periods=n, freq="D")),
    }
    for text, (kind, column) in columns.items():
        with pytest.raises(kind, match=rf"X\['k'\] holds {text}"):
            check_X(frame.assign(k=column))
    for times in (pandas.date_range("2020", periods=n), pandas.to_timedelta([2] * n, unit="D")):
        with pytest.raises(TypeError, match=r"X\['k'\] holds times"):  # alone they become numbers
            check_X(pandas.DataFrame({"k": times}))
    with pytest.raises(TypeError, match=r"X\['k'\] is sparse"):
        check_X(frame.assign(k=pandas.arrays.SparseArray([1.0] * n)))
    with pytest.raises(TypeError, match=r"X holds times \(datetime64\[D\]\)"):
        check_X(np.array([["2020-01-01"]] * n, dtype="datetime64[D]"))


def test_a_cell_that_is_not_finite_is_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(VECTORS, columns=["a", "b", "c"])
    holes = pandas.array([1, None], dtype="Float64")
    with pytest.raises(ValueError, match=r"X contains NaN: X\[1, 'k'\] is nan.*Impute"):
        check_X(frame.assign(k=holes))
    with pytest.raises(ValueError, match=r"X contains infinity.*: X\[1, 2\] is -inf"):
        check_X([[1, 2, 3], [4, 5, -np.inf]])


class Table:
    """A table as pyarrow has it."""

    column_names = ("a", "b")
    schema = SimpleNamespace(types=("double", "string"))
    shape = (2, 2)
    columns = ((1.0, 2.0), ("u", "v"))

    def __getitem__(self, name):
        return self.columns[self.column_names.index(name)]

    def __array__(self, dtype=None, copy=None):
        return np.array(list(zip(*self.columns, strict=True)), dtype=object).astype(dtype)


def test_a_column_of_a_table_of_another_library_is_named():
    with pytest.raises(ValueError, match=r"X\['b'\] holds 'u', which is no number"):
        check_X(Table())


def test_tensors_where_scikit_learn_dispatches_by_array(monkeypatch):
    pytest.importorskip("sklearn.externals.array_api_compat")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with config_context(array_api_dispatch=True):
        found = check_X(torch.tensor(VECTORS))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, VECTORS)


def test_labels_of_an_enum_are_its_values():
    product = Enum("Product", {"BOLT": "bolt", "NUT": "nut"}, type=str)
    codes, classes = check_y([product.NUT, product.BOLT], 2)
    assert classes.tolist() == ["bolt", "nut"] and codes.tolist() == [1, 0]
    assert check_class_labels([product.NUT, "bolt"], classes, 2).tolist() == [1, 0]


def test_pandas_labels():
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(["b", "-1", "a"], index=[9, 9, 1])
    for y in (series, series.astype("category"), pandas.Categorical(series), series.astype(object)):
        codes, classes = check_y(y, 3)
        np.testing.assert_array_equal(codes, [1, -1, 0])
        assert classes.tolist() == ["a", "b"]
    codes, classes = check_y(pandas.Series([4, -1, 2]).astype("category"), 3)
    np.testing.assert_array_equal(codes, [1, -1, 0])
    for missing in (
        pandas.Series(["a", None, "b"]),
        pandas.Series(["a", None, "b"], dtype="string"),
        pandas.Series([1, None, 2], dtype="Int64"),
        pandas.Categorical(["a", None, "b"]),
    ):
        with pytest.raises(ValueError, match=r"y\[1\] contains NaN or None"):
            check_y(missing, 3)


def test_column_of_labels_warns():
    with pytest.warns(DataConversionWarning, match="column-vector y") as record:
        codes, _ = check_y(np.array([[1], [-1], [2]]), 3)
    assert len(record) == 1
    np.testing.assert_array_equal(codes, [0, -1, 1])


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([1, 2], ValueError, "y has 2 labels but X has 3 samples"),
        ([[1, 2], [3, 4], [5, 6]], ValueError, r"1d array, got an array of shape \(3, 2\)"),
        (5, ValueError, r"1d array, got an array of shape \(\)"),
        ("abc", TypeError, "y is a str; pass a list"),
        ({"a": 1}, TypeError, "y is a dict"),
        (sparse.csr_array(np.eye(3)), TypeError, "csr_array"),
        ([0, 0.5, 1], ValueError, r"Unknown label type: continuous. y\[1\] is 0.5"),
        (np.array([0.25, 1, 2]), ValueError, r"Unknown label type: continuous. y\[0\]"),
        (np.array([0, np.nan, 2]), ValueError, r"Input y\[1\] contains NaN"),
        (np.array([0, 1, -np.inf]), ValueError, r"Input y\[2\] contains infinity"),
        (["a", "b", None], ValueError, r"y\[2\] contains NaN or None"),
        ([True, False, True], TypeError, r"y\[0\] is True, a bool.*np\.where\(y, -1, 1\)"),
        (np.array([True, False, True]), TypeError, r"y\[0\] is True, a bool"),
        ([1, True, 2], TypeError, r"y\[1\] is True"),
        (["a", 1, "b"], ValueError, "y mixes str and int labels, e.g. 'a' and 1"),
        ([b"a", "b", "c"], TypeError, r"y\[0\] is b'a' \(bytes\)"),
        ([1j, 2, 3], TypeError, r"y\[0\] is 1j \(complex\)"),
        ([[1], [2, 3], [4]], TypeError, r"y\[0\] is \[1\] \(list\)"),
        ([2**70, 1, 2], ValueError, r"y\[0\] is 1180591620717411303424, which does not fit"),
        ([-1, -1, -1], ValueError, "all 3 samples as known anomalies"),
        (["-1", -1, -1.0], ValueError, "all 3 samples as known anomalies"),
    ],
)
def test_bad_labels(y, error, message):
    with pytest.raises(error, match=message):
        check_y(y, 3)


# ---------------------------------------------------------------- class_labels

NAMES = np.array(["bottle", "cable", "metal_nut"])
NUMBERS = np.array([3, 7])


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        (["cable", "bottle", "cable"], NAMES, [1, 0, 1]),
        (np.array(["metal_nut"] * 3), NAMES, [2, 2, 2]),
        ("cable", NAMES, [1, 1, 1]),
        (np.str_("cable"), NAMES, [1, 1, 1]),
        (7, NUMBERS, [1, 1, 1]),
        (np.int32(3), NUMBERS, [0, 0, 0]),
        (7.0, NUMBERS, [1, 1, 1]),
        ([3.0, 7.0, 7.0], NUMBERS, [0, 1, 1]),
    ],
)
def test_class_labels_become_codes(labels, classes, codes):
    got = check_class_labels(labels, classes, 3)
    np.testing.assert_array_equal(got, codes)
    assert got.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "classes", "error", "message"),
    [
        (["cable", "botle", "cable"], NAMES, ValueError, r"\[1\] is 'botle'.*mean 'bottle'\?$"),
        ("CABLE", NAMES, ValueError, r"Known classes: 'bottle', 'cable', .*mean 'cable'\?$"),
        ("zzz", NAMES, ValueError, r"Known classes: 'bottle', 'cable', 'metal_nut'\.$"),
        (["3", "7", "7"], NUMBERS, ValueError, r"\[0\] is '3', .*Did you mean 3\?"),
        (-1, NUMBERS, ValueError, r"class_labels\[0\] is -1, which was not seen at fit"),
        (["cable"], NAMES, ValueError, "class_labels has 1 labels but X has 3 samples"),
        (["cable", None, "cable"], NAMES, ValueError, r"class_labels\[1\] contains NaN or None"),
        (True, NUMBERS, TypeError, "class_labels is True, a bool"),
        (None, NUMBERS, ValueError, r"class_labels should be a 1d array"),
        ("x", np.arange(30), ValueError, r"18, 19, \.\.\. \(30 in all\)"),
    ],
)
def test_unknown_class_labels(labels, classes, error, message):
    with pytest.raises(error, match=message):
        check_class_labels(labels, classes, 3)
