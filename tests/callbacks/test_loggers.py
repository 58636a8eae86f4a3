"""TensorBoard and MLflow, the real packages: what they have written is read back."""

import json
import sys

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.callbacks import MLflowCallback, TensorBoardCallback

pytestmark = pytest.mark.once
X = np.concatenate([np.random.default_rng(0).normal(3 * k, 1, (30, 4)) for k in range(2)])
Y = ["bolt"] * 30 + ["nut"] * 30
TERMS = {"loss", "inter_class", "mutual_information", "entropy", "intra_class", "likelihood_margin"}


def quick(callbacks, **parameters):
    parameters = {"max_iter": 3, "n_blocks": 1, "n_components": 1, "random_state": 0, **parameters}
    return HGADDetector(callbacks=callbacks, **parameters)


def not_finite(step):
    return step.z.sum() * np.inf


# ---------------------------------------------------------------- TensorBoard


@pytest.fixture(scope="module")
def read_events():
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra tensorboard is not installed",
    )

    def read(folder):
        return reader.EventAccumulator(str(folder)).Reload()

    return read


def test_tensorboard_holds_every_pass_and_the_end(read_events, tmp_path):
    callback = TensorBoardCallback(tmp_path / "runs")
    detector = quick(callback, first_stage_fraction=0.5).fit(X, Y)
    assert callback.run_dir_ == tmp_path / "runs" / "fit_1"
    events = read_events(callback.run_dir_)
    assert {f"training/{name}" for name in (*TERMS, "learning_rate", "seconds")} < set(
        events.Tags()["scalars"]
    )
    losses = events.Scalars("training/loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == pytest.approx(
        [record["loss"] for record in detector.history_], rel=1e-5
    )
    assert events.Scalars("training/intra_class")[0].step > 1  # nan before
    (threshold,) = events.Scalars("fit/threshold")
    assert threshold.value == pytest.approx(detector.offset_, rel=1e-5)
    (text,) = events.Tensors("products/text_summary")
    assert b"| bolt | 30 | 6 | 1 |" in text.tensor_proto.string_val[0]
    (text,) = events.Tensors("parameters/text_summary")
    assert b"| max\\_iter | 3 |" in text.tensor_proto.string_val[0]
    (scores,) = events.Histograms("fit/calibration_scores")
    assert scores.histogram_value.num == 12  # a fifth is held out


def test_each_fit_has_a_folder_of_its_own_also_one_that_fails(read_events, tmp_path):
    detector = quick([TensorBoardCallback(str(tmp_path))], max_iter=0).fit(X, Y)
    with pytest.raises(FloatingPointError):
        detector.set_params(loss=not_finite, max_iter=1).fit(X)
    closed, failed = (read_events(tmp_path / name) for name in ("fit_1", "fit_2"))
    assert "fit/threshold" in closed.Tags()["scalars"]
    assert not any("training" in name for name in closed.Tags()["scalars"])
    assert failed.Tags()["scalars"] == []
    detector.set_params(loss=None).fit(X)  # the callback is as good as new
    assert (tmp_path / "fit_3").is_dir()


# ---------------------------------------------------------------- MLflow


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a store of files in a new folder, which is also MLflow's present store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # sqlite takes seconds to set up
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def test_mlflow_holds_parameters_passes_figures_and_the_model(client, tmp_path):
    callback = MLflowCallback(
        (tmp_path / "store").as_uri(), experiment_name="line 3", run_name="first",
        tags={"camera": "2"}, log_model=True,
    )  # fmt: skip
    detector = quick(callback, first_stage_fraction=0.5).fit(X, Y)
    run = client.get_run(callback.run_id_)
    experiment = client.get_experiment_by_name("line 3")
    assert run.info.experiment_id == experiment.experiment_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.tags["camera"] == "2" and "skhgad.version" in run.data.tags
    assert run.data.params["max_iter"] == "3" and "callbacks" not in run.data.params
    assert set(run.data.params) == set(detector.get_params()) - {"callbacks"}
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in losses] == [1, 2, 3]
    assert [metric.value for metric in losses] == [r["loss"] for r in detector.history_]
    assert TERMS < set(run.data.metrics)
    assert run.data.metrics["threshold"] == detector.offset_
    bounds = [found.bound for found in detector.certificate()]
    assert run.data.metrics["highest_false_alarm_bound"] == max(bounds)
    products = json.loads(_text(client, run, "fit.json", tmp_path))["products"]
    assert [(row["product"], row["n_normals"]) for row in products] == [("bolt", 30), ("nut", 30)]
    assert [row["false_alarm_bound"] for row in products] == bounds
    folder = client.download_artifacts(run.info.run_id, "model", str(tmp_path))
    loaded = HGADDetector.load(folder)
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))


def _text(client, run, name, folder):
    with open(client.download_artifacts(run.info.run_id, name, str(folder))) as file:
        return file.read()


def test_a_fit_that_fails_leaves_a_failed_run(client):
    import mlflow

    callback = MLflowCallback()
    with pytest.raises(FloatingPointError):
        quick(callback, loss=not_finite).fit(X)
    assert client.get_run(callback.run_id_).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_without_arguments_the_active_run_or_experiment_is_used(client):
    import mlflow

    callback = MLflowCallback()
    with mlflow.start_run() as run:
        quick(callback, max_iter=0).fit(X)
        assert callback.run_id_ == run.info.run_id
        assert client.get_run(run.info.run_id).info.status == "RUNNING"  # the caller ends it
    chosen = mlflow.set_experiment("chosen")
    quick(callback, max_iter=0).fit(X)
    found = client.get_run(callback.run_id_)
    assert (found.info.experiment_id, found.info.status) == (chosen.experiment_id, "FINISHED")
    assert "threshold" in found.data.metrics and "loss" not in found.data.metrics


# ---------------------------------------------------------------- not installed


@pytest.mark.parametrize(
    "module, callback, extra",
    [
        ("torch.utils.tensorboard", TensorBoardCallback("runs"), "tensorboard"),
        ("mlflow", MLflowCallback(), "mlflow"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    module, callback, extra, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {extra}.*pip install .*\[{extra}\]"):
        quick(callback).fit(X)
    assert list(tmp_path.iterdir()) == []
