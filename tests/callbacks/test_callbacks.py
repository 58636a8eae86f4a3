"""Callbacks of a fit: who is told what and when, and what an exception leaves."""

import json
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skhgad import HGADDetector
from skhgad.callbacks import Callback, FitInfo, MLflowCallback, PassInfo, TensorBoardCallback
from skhgad.callbacks.tables import parameter_texts, products, products_table

X = np.concatenate([np.random.default_rng(0).normal(3 * k, 1, (30, 4)) for k in range(2)])
Y = ["bolt"] * 30 + ["nut"] * 30


class Recorder:
    """Has all methods, and is no subclass of Callback."""

    def __init__(self):
        self.calls = []

    def on_fit_start(self, detector):
        self.calls.append(("start", hasattr(detector, "model_")))

    def on_pass_end(self, info):
        self.calls.append(("pass", info))

    def on_fit_end(self, detector, info):
        self.calls.append(("end", info, detector.score_samples(X[:2])))

    def on_fit_error(self, error):
        self.calls.append(("error", error))

    @property
    def names(self):
        return [call[0] for call in self.calls]


def failing(method):
    """Return a callback whose method of this name raises."""

    def raise_error(*arguments):
        raise OverflowError(f"raised in {method}")

    return type("Failing", (Callback,), {method: raise_error})()


def trained(**parameters):
    return HGADDetector(**{"max_iter": 3, "n_blocks": 1, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def told():
    """A detector that trained for 3 passes, with -1 among its labels, and what it told."""
    recorder, functions = Recorder(), []
    detector = trained(
        callbacks=[recorder, functions.append], validation_fraction=0.2, lambda_intra=0.5,
        first_stage_fraction=0.5, n_components=1,
    ).fit([*X, X[0] + 9], [*Y, -1])  # fmt: skip
    return detector, recorder, functions


def test_methods_are_called_in_order(told):
    _, recorder, functions = told
    assert recorder.names == ["start", "pass", "pass", "pass", "end"]
    assert recorder.calls[0] == ("start", False)
    assert [type(info) for info in functions] == [PassInfo] * 3 + [FitInfo]


def test_passes_tell_what_history_records(told):
    detector, recorder, _ = told
    passes = [call[1] for call in recorder.calls if call[0] == "pass"]
    assert [(info.number, info.n_passes, info.n_samples) for info in passes] == [
        (1, 3, 48), (2, 3, 48), (3, 3, 48),
    ]  # fmt: skip
    for info, record in zip(passes, detector.history_, strict=True):
        np.testing.assert_equal({**info.losses, "learning_rate": info.learning_rate}, record)
        assert 0 < info.seconds < 60
    assert np.isnan(passes[0].losses["intra_class"])
    assert np.isfinite(passes[2].losses["intra_class"])


def test_the_end_tells_the_figures_of_the_fit(told):
    detector, recorder, _ = told
    _, info, scores = recorder.calls[-1]
    assert info.n_normals == {"bolt": 30, "nut": 30} and info.n_held_out == {"bolt": 6, "nut": 6}
    assert (info.n_anomalies, info.n_passes) == (1, 3)
    assert info.keeps_flow == (len(detector.model_.model.levels[0].flow.blocks.mix) > 0)
    assert info.threshold == detector.offset_
    assert info.certificate == detector.certificate(0.95)
    np.testing.assert_array_equal(info.n_components, detector.n_components_)
    assert info.known_anomalies is detector.known_anomalies_
    assert sum(call[1].seconds for call in recorder.calls[1:4]) < info.seconds < 60
    np.testing.assert_array_equal(scores, detector.score_samples(X[:2]))


def test_a_closed_form_tells_of_start_and_end_alone():
    recorder = Recorder()
    HGADDetector(callbacks=recorder, random_state=0, n_components=1).fit(X, Y)
    assert recorder.names == ["start", "end"]
    info = recorder.calls[-1][1]
    assert (info.n_passes, info.keeps_flow) == (0, False)
    assert info.n_held_out == {"bolt": 30, "nut": 30}  # by cross-fitting


def test_callbacks_change_no_score(told):
    detector = told[0]
    alone = clone(detector).set_params(callbacks=None).fit([*X, X[0] + 9], [*Y, -1])
    np.testing.assert_array_equal(alone.score_samples(X), detector.score_samples(X))


@pytest.mark.parametrize("method", ["on_fit_start", "on_pass_end", "on_fit_end"])
def test_an_exception_ends_the_fit_and_leaves_the_detector_as_it_was(method):
    detector = trained(max_iter=1, n_components=1).fit(X, Y)
    before, expected = set(detector.__dict__), detector.score_samples(X)
    recorder, last = Recorder(), Recorder()
    detector.set_params(callbacks=[recorder, failing(method), last], blur_sigma=2.0)
    with pytest.raises(OverflowError, match=f"raised in {method}"):
        detector.fit(X[:40] * 2, Y[:40])
    assert set(detector.__dict__) == before and detector.classes_.tolist() == ["bolt", "nut"]
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    unfitted = trained(max_iter=1, callbacks=failing(method))
    with pytest.raises(OverflowError):
        unfitted.fit(X)
    assert not hasattr(unfitted, "model_") and not hasattr(unfitted, "n_features_in_")
    # Who was told of the start is told once of the end.
    assert recorder.names[-1] == ("end" if method == "on_fit_end" else "error")
    assert last.names == ([] if method == "on_fit_start" else [*last.names[:-1], "error"])


def test_an_error_of_the_fit_reaches_the_callbacks():
    recorder = Recorder()
    with pytest.raises(FloatingPointError) as caught:
        trained(callbacks=recorder, loss=lambda step: step.z.sum() * np.inf).fit(X)
    assert recorder.names == ["start", "error"] and recorder.calls[-1][1] is caught.value


def test_a_fit_that_refuses_its_input_tells_nobody():
    recorder = Recorder()
    with pytest.raises(ValueError, match="NaN"):
        trained(callbacks=recorder).fit([[np.nan]])
    assert recorder.calls == []


def test_an_error_while_told_of_an_error_is_a_warning():
    def loss(step):
        raise OverflowError("first")

    with pytest.warns(RuntimeWarning, match="on_fit_error of Failing raised OverflowError"):
        with pytest.raises(OverflowError, match="first"):
            trained(callbacks=failing("on_fit_error"), loss=loss).fit(X)


@pytest.mark.parametrize(
    "value, message",
    [
        ("tensorboard", "callbacks must be a function or have one of the methods on_fit_start"),
        ([print, object()], r"callbacks\[1\] must be a function"),
        (TensorBoardCallback, r"callbacks is a class: write TensorBoardCallback\(...\)"),
    ],
)
def test_what_is_no_callback_is_refused_by_name(value, message):
    with pytest.raises(TypeError, match=message):
        HGADDetector(callbacks=value).fit(X)


def test_clones_pickles_and_grid_searches_take_them_along():
    detector = trained(max_iter=1, n_components=1, callbacks=[Recorder()])
    copy = clone(detector)
    assert copy.callbacks[0] is not detector.callbacks[0]
    copy.fit(X)
    assert detector.callbacks[0].calls == []
    stored = pickle.loads(pickle.dumps(copy))
    assert stored.callbacks[0].names == copy.callbacks[0].names == ["start", "pass", "end"]
    seen = []
    GridSearchCV(
        trained(max_iter=0, n_components=1, callbacks=[seen.append]), {"clamp": [1.0, 2.0]}, cv=2
    ).fit(X)
    assert sum(isinstance(info, FitInfo) for info in seen) == 5
    for callback in (TensorBoardCallback("runs"), MLflowCallback(log_model=True)):
        assert vars(clone(callback, safe=False)) == vars(callback)


def test_a_model_folder_holds_no_callbacks(tmp_path):
    recorder = Recorder()
    detector = trained(callbacks=[recorder], max_iter=1, n_components=1).fit(X)
    assert detector.model_.parameters["callbacks"] is None
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    assert loaded.callbacks is None
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert "callbacks" not in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_a_description_cannot_ask_for_callbacks_and_may_lack_them():
    from skhgad.storage.detector_state import pack, unpack

    tensors, description = pack(trained(max_iter=0, n_components=1).fit(X))
    description = json.loads(json.dumps(description))
    for change in ({"callbacks": "os.system"}, {}):
        parameters = {n: v for n, v in description["parameters"].items() if n != "callbacks"}
        found = unpack(
            HGADDetector, tensors, {**description, "parameters": parameters | change}, None
        )
        assert found.callbacks is None


def test_tables_of_loggers(told):
    info = told[1].calls[-1][1]
    odd = info.certificate[0]._replace(class_label="a|b", n_normals=0, rate=float("nan"))
    info = info._replace(
        n_normals={"a|b": 3, "nut": 30}, n_held_out={"a|b": 0, "nut": 6},
        certificate=[odd, info.certificate[1]],
    )  # fmt: skip
    rows = products(info)
    assert [(row["product"], row["n_normals"]) for row in rows] == [("a|b", 3), ("nut", 30)]
    json.dumps(rows, allow_nan=False)
    lines = products_table(info).split("\n")
    assert len(lines) == 4 and lines[2].startswith(r"| a\|b | 3 | 0 | 1 |")
    texts = parameter_texts(trained(loss=np.sum, callbacks=print, out_indices=(1,) * 400))
    assert texts["loss"] == "numpy.sum" and "callbacks" not in texts
    assert texts["max_iter"] == "3" and len(texts["out_indices"]) == 500
