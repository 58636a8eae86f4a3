"""Properties of the input checks: whatever comes in is used faithfully or refused by name."""

import copy

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skhgad import HGADDetector
from skhgad.images import ImageSource
from skhgad.parameters import check_parameters
from skhgad.validation import check_class_labels, check_X, check_y

REFUSALS = (ValueError, TypeError, FileNotFoundError)
quick = settings(max_examples=150, deadline=None, derandomize=True)

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(),
    hnp.unicode_string_dtypes(max_len=3),
    hnp.datetime64_dtypes(),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
numbers = hnp.arrays(dtypes, shapes)
unit_images = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(*[st.integers(1, 4)] * 3, st.sampled_from([1, 3])),
    elements=st.floats(0, 1, width=32),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=4)
)
small_arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.float64, bool]), hnp.array_shapes(max_dims=3)
)
junk = st.recursive(
    st.one_of(scalars, small_arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    max_leaves=8,
)
labels = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(["a", "b", "-1", ""]),
    st.sampled_from([1.0, -1.0, 0.5, np.nan, np.inf, None, True, b"a", np.int8(2), np.str_("c")]),
    st.integers(),
)
ranges = st.sampled_from([None, (0, 255), (-1.5, 2), (0, 65535)])


def is_same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    return a == b or (a != a and b != b)


def read_all(source):
    """Every image, or None where it was refused by its name."""
    images = []
    for i in range(len(source)):
        try:
            images.append(source.read(i))
        except REFUSALS as error:
            assert f"X[{i}]" in str(error)
            images.append(None)
    return images


@quick
@given(X=st.one_of(numbers, junk), value_range=ranges)
def test_any_X_is_used_faithfully_or_refused(X, value_range):
    before = copy.deepcopy(X)
    try:
        checked = check_X(X, value_range=value_range)
    except REFUSALS as error:
        assert str(error)
    else:
        assert len(checked) == len(X)
        if isinstance(checked, ImageSource):
            for image in read_all(checked):
                if image is not None:
                    assert image.ndim == 3 and image.shape[2] == 3 and image.size
                    assert image.dtype in (np.uint8, np.float32)
                    assert image.dtype == np.uint8 or (image.min() >= 0 and image.max() <= 1)
        else:
            assert checked.dtype == np.float64 and np.isfinite(checked).all()
            np.testing.assert_array_equal(checked, np.asarray(before, dtype=np.float64))
    assert is_same(X, before)


@quick
@given(X=unit_images)
def test_images_in_range_arrive_unchanged(X):
    for given_X in (X, list(X)):
        for image, expected in zip(read_all(check_X(given_X)), X, strict=True):
            np.testing.assert_array_equal(
                image, np.broadcast_to(expected, image.shape).astype(np.float32)
            )


@quick
@given(X=unit_images, data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 2.0]))
def test_one_bad_pixel_names_its_image(X, data, bad):
    where = tuple(data.draw(st.integers(0, side - 1)) for side in X.shape)
    X[where] = bad
    refused = [image is None for image in read_all(check_X(X))]
    assert refused == [i == where[0] for i in range(len(X))]


@pytest.mark.filterwarnings("ignore:A column-vector")
@quick
@given(y=st.one_of(st.lists(labels, max_size=6), numbers, junk), n_samples=st.integers(1, 6))
def test_any_y_is_encoded_faithfully_or_refused(y, n_samples):
    try:
        codes, classes = check_y(y, n_samples)
    except REFUSALS as error:
        assert str(error)
        return
    assert codes.shape == (n_samples,) and codes.dtype == np.int64
    assert len(np.unique(classes)) == len(classes) == codes.max() + 1
    if y is None:
        return
    for code, label in zip(codes, np.ravel(np.asarray(y, dtype=object)), strict=True):
        assert label in (-1, "-1") if code == -1 else classes[code] == label


@pytest.mark.filterwarnings("ignore:A column-vector")
@quick
@given(
    class_labels=st.one_of(st.lists(labels, max_size=4), labels, junk),
    classes=st.sampled_from([np.array(["a", "b"]), np.array([-2, 0, 3])]),
    n_samples=st.integers(1, 4),
)
def test_any_class_labels_are_encoded_faithfully_or_refused(class_labels, classes, n_samples):
    try:
        codes = check_class_labels(class_labels, classes, n_samples)
    except REFUSALS as error:
        assert str(error)
        return
    expected = np.broadcast_to(np.ravel(np.asarray(class_labels, dtype=object)), n_samples)
    assert all(classes[code] == label for code, label in zip(codes, expected, strict=True))


@quick
@given(name=st.sampled_from(sorted(HGADDetector().get_params())), value=junk)
@example(name="criterion", value=np.zeros(2))
def test_any_parameter_is_accepted_or_refused_by_name(name, value):
    parameters = {**HGADDetector().get_params(), name: value}
    try:
        check_parameters(parameters)
    except REFUSALS as error:
        assert name in str(error)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (40, 3)), rng.normal(6, 1, (40, 3))])
    return HGADDetector(max_iter=1, n_blocks=2, random_state=0).fit(X, np.repeat(["a", "b"], 40))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # sums of huge numbers
@quick
@given(X=hnp.arrays(np.float64, (4, 3), elements=st.floats(width=64)))
@example(X=np.full((4, 3), 1.7e308))
def test_any_vectors_get_a_finite_score_or_are_refused(fitted, X):
    if not np.isfinite(X).all():
        with pytest.raises(ValueError, match="NaN|infinity"):
            fitted.score_samples(X)
        return
    scores = fitted.score_samples(X)
    assert np.isfinite(scores).all()
    assert set(fitted.predict_class(X)) <= {"a", "b"}
    p_values = fitted.p_values(X)
    assert ((p_values > 0) & (p_values <= 1)).all()
    far = np.abs(X).max(1) > 1e3
    assert (fitted.predict(X)[far] == -1).all()
    assert (p_values[far] == p_values.min()).all()
