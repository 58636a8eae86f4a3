"""A fit as a run of MLflow."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import installed_version, needing
from .events import Callback
from .tables import figures, parameter_texts, products

if TYPE_CHECKING:
    from .events import FitInfo
    from .pass_info import PassInfo

_EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"


class MLflowCallback(Callback):
    """Logs each fit as a run of MLflow.

    The run has the detector's parameters; after each pass of the training the metrics "loss", its
    terms, "learning_rate" and "seconds"; at the end the metrics "threshold", "fit_seconds",
    "n_normals", "highest_false_alarm_bound" and others, and the file ``fit.json`` with the counts,
    centers and certificate of each product. A fit that raises leaves a run with status FAILED.

    Where a run is active (``with mlflow.start_run():``), and neither `tracking_uri` nor
    `experiment_name` is given, the fit is logged into it and it stays open.

    Parameters
    ----------
    tracking_uri : str, default=None
        Where MLflow keeps its runs, such as ``"http://host:5000"`` or ``"sqlite:///mlflow.db"``.
        None = as MLflow is set up.
    experiment_name : str, default=None
        Created where there is none. None = as MLflow is set up: by ``mlflow.set_experiment``
        unless `tracking_uri` is given, the variable ``MLFLOW_EXPERIMENT_NAME``, or "Default".
    run_name : str, default=None
        None = MLflow makes a name up.
    tags : mapping of str to str, default=None
        Further tags of the run. It always has "skhgad.version".
    log_model : bool, default=False
        Whether the run keeps the saved model, a folder ``model`` for `HGADDetector.load`.

    Attributes
    ----------
    run_id_ : str
        Of the latest fit.

    Raises
    ------
    ImportError
        If mlflow is not installed: ``pip install ".[mlflow]"`` in a clone of skhgad.

    Examples
    --------
    >>> from skhgad import HGADDetector
    >>> from skhgad.callbacks import MLflowCallback
    >>> detector = HGADDetector(
    ...     callbacks=MLflowCallback("sqlite:///mlflow.db", experiment_name="line 3")
    ... )
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment_name: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        log_model: bool = False,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.experiment_name = experiment_name
        self.run_name = run_name
        self.tags = tags
        self.log_model = log_model
        # During a fit alone, so that the callback can be copied.
        self._client: Any = None
        self._end_run: Callable[[str], Any] | None = None  # None of a run begun by others

    def on_fit_start(self, detector: Any) -> None:
        """Begin a run and log the parameters."""
        mlflow = _mlflow()
        self._client = mlflow.MlflowClient(self.tracking_uri)
        self.run_id_ = self._run(mlflow)
        tags = {"skhgad.version": installed_version(), **(self.tags or {})}
        self._client.log_batch(
            self.run_id_,
            params=[mlflow.entities.Param(*item) for item in parameter_texts(detector).items()],
            tags=[mlflow.entities.RunTag(*item) for item in tags.items()],
        )

    def on_pass_end(self, info: PassInfo) -> None:
        """Log the metrics of a pass; its number is the step."""
        metrics = {**info.losses, "learning_rate": info.learning_rate, "seconds": info.seconds}
        self._log(metrics, info.number)

    def on_fit_end(self, detector: Any, info: FitInfo) -> None:
        """Log the figures of the fit and, if asked for, the model; end the run."""
        self._log(figures(info), info.n_passes)
        self._client.log_dict(self.run_id_, {"products": products(info)}, "fit.json")
        if self.log_model:
            with tempfile.TemporaryDirectory() as folder:
                detector.save(Path(folder) / "model")
                self._client.log_artifacts(self.run_id_, str(Path(folder) / "model"), "model")
        self._end("FINISHED")

    def on_fit_error(self, error: BaseException) -> None:
        """End the run as FAILED, or KILLED after Ctrl-C."""
        self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _run(self, mlflow: Any) -> str:
        """Return the id of the run that is active, or of a new one, which `_end_run` ends."""
        if self.tracking_uri is None and self.experiment_name is None:
            run = mlflow.active_run()
            if run is None:
                run = mlflow.start_run(run_name=self.run_name)
                self._end_run = mlflow.end_run
        else:
            experiment = self._experiment(mlflow)
            run = self._client.create_run(experiment, run_name=self.run_name)
            self._end_run = partial(self._client.set_terminated, run.info.run_id)
        run_id: str = run.info.run_id
        return run_id

    def _experiment(self, mlflow: Any) -> str:
        """Return the id of the experiment; create it if there is none."""
        name = self.experiment_name or os.environ.get(_EXPERIMENT_VARIABLE) or "Default"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                created: str = self._client.create_experiment(name)
                return created
            except mlflow.MlflowException:  # another fit may have created it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        experiment_id: str = found.experiment_id
        return experiment_id

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        logged = [
            Metric(name, value, now, step)
            for name, value in metrics.items()
            if not math.isnan(value)  # a term that does not count yet
        ]
        self._client.log_batch(self.run_id_, metrics=logged)

    def _end(self, status: str) -> None:
        end_run, self._end_run, self._client = self._end_run, None, None
        if end_run is not None:
            end_run(status)


def _mlflow() -> Any:
    with needing("MLflowCallback", "mlflow", "mlflow", "mlflow-skinny"):
        import mlflow
    return mlflow
