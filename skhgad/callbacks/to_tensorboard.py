"""A fit in TensorBoard."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..text import markdown_cell, markdown_table
from ..version import needing
from .events import Callback
from .tables import figures, parameter_texts, products_table

if TYPE_CHECKING:
    from .events import FitInfo
    from .pass_info import PassInfo


class TensorBoardCallback(Callback):
    """Writes each fit as a run that TensorBoard shows: ``tensorboard --logdir LOG_DIR``.

    Each pass of the training adds the scalars ``training/loss``, ``training/learning_rate``,
    ``training/seconds`` and one for each term of the loss. The end adds ``fit/threshold`` and other
    figures, the histogram ``fit/calibration_scores`` and, as texts, the parameters and a table of
    the products with their certificates.

    Parameters
    ----------
    log_dir : str or path
        Each fit writes into a new folder inside: ``fit_1``, ``fit_2`` and so on. So do the fits of
        a grid search, also in several processes.

    Attributes
    ----------
    run_dir_ : pathlib.Path
        Folder of the latest fit.

    Raises
    ------
    ImportError
        If tensorboard is not installed: ``pip install ".[tensorboard]"`` in a clone of skhgad.

    Examples
    --------
    >>> from skhgad import HGADDetector
    >>> from skhgad.callbacks import TensorBoardCallback
    >>> detector = HGADDetector(max_iter=20, callbacks=TensorBoardCallback("runs"))
    """

    def __init__(self, log_dir: str | PathLike[str]) -> None:
        self.log_dir = log_dir
        self._writer: Any = None  # open during a fit alone, so that the callback can be copied

    def on_fit_start(self, detector: Any) -> None:
        """Open a new folder and note the parameters."""
        writer_class = _summary_writer()
        self.run_dir_ = new_folder(self.log_dir)
        self._writer = writer_class(str(self.run_dir_))
        table = markdown_table(
            ["parameter", "value"],
            [
                [markdown_cell(name), markdown_cell(value)]
                for name, value in parameter_texts(detector).items()
            ],
        )
        self._writer.add_text("parameters", table)
        self._writer.flush()

    def on_pass_end(self, info: PassInfo) -> None:
        """Add the scalars of a pass."""
        scalars = {**info.losses, "learning_rate": info.learning_rate, "seconds": info.seconds}
        for name, value in scalars.items():
            if not math.isnan(value):  # a term that does not count yet
                self._writer.add_scalar(f"training/{name}", value, info.number)
        self._writer.flush()  # so that a page that is open shows it

    def on_fit_end(self, detector: Any, info: FitInfo) -> None:
        """Add the figures of the fit and close the folder."""
        for name, value in figures(info).items():
            self._writer.add_scalar(f"fit/{name}", value, info.n_passes)
        scores = detector.model_.calibration.scores
        self._writer.add_histogram("fit/calibration_scores", scores, info.n_passes)
        self._writer.add_text("products", products_table(info), info.n_passes)
        self._close()

    def on_fit_error(self, error: BaseException) -> None:
        """Close the folder; what was written stays."""
        self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def new_folder(parent: str | PathLike[str]) -> Path:
    """Make the folder ``fit_N`` inside another, with the first number that nobody has."""
    parent, number = Path(parent), 1
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"fit_{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # of another fit, maybe one that runs now
            number += 1
        else:
            return folder


def _summary_writer() -> Any:
    with needing("TensorBoardCallback", "tensorboard", "tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter
