"""What `fit` leaves: everything that scoring needs, in one object."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from ..devices import move_to
from ..features.extractor import FeatureExtractor
from .calibration import Calibration
from .scores import score_batch
from .scoring_model import ScoringModel


@dataclass
class FittedModel:
    """A fitted detector without its threshold.

    Attributes
    ----------
    extractor : FeatureExtractor or None
        Turns images into features; None for feature vectors.
    model : ScoringModel
        Turns features into evidence and anomaly maps.
    calibration : Calibration
        What the model finds in the normal samples that judge all others.
    classes : ndarray of shape (n_classes,)
        Labels of the product classes.
    parameters : dict
        Parameters of the fit, see `skhgad.parameters.parameters_of_fit`. They count, whatever
        `set_params` changes in the detector later.
    """

    extractor: FeatureExtractor | None
    model: ScoringModel
    calibration: Calibration
    classes: np.ndarray
    parameters: dict

    def __post_init__(self):
        """Prepare the flows, so that every fitted model is ready to score."""
        self.model.freeze()

    @property
    def takes_images(self):
        """Whether the detector was fitted on images."""
        return self.extractor is not None

    @property
    def image_size(self):
        """(height, width) to which images are resized; only after a fit on images."""
        return tuple(self.extractor.spec["image_size"])

    @property
    def value_range(self):
        """Pixel values meaning black and white, as at fit, or None."""
        return self.parameters["value_range"]

    def on(self, device):
        """Return the scoring model on a device, moved there if need be, by one thread alone."""
        move_to(self.model, device, self.model.freeze)
        return self.model

    @torch.inference_mode()
    def scored_batches(self, reader, X, codes=None):
        """Score samples batch by batch.

        Parameters
        ----------
        reader : FeatureReader
        X : ndarray or ImageSource
            From `check_scored_X`.
        codes : ndarray of shape (n_samples,), int64, default=None
            Class of each sample, an index into `classes`; None = inferred.

        Yields
        ------
        ScoredBatch
        """
        model, n_seen = self.on(reader.device), 0
        codes = None if codes is None else torch.from_numpy(codes)
        for features, sizes in reader.batches(X):
            given = None
            if codes is not None:
                given = codes[n_seen : n_seen + len(sizes)].to(reader.device)
            yield score_batch(model, features, given, sizes)
            n_seen += len(sizes)

    def inferred_codes(self, reader, X):
        """Infer the class of each sample, ndarray of shape (n_samples,); as `scored_batches`."""
        return np.concatenate([batch.codes for batch in self.scored_batches(reader, X)])

    def require_images(self, purpose):
        """Raise ValueError, naming the purpose, after a fit on feature vectors."""
        if not self.takes_images:
            raise ValueError(
                f"{purpose} needs images; this detector was fitted on feature vectors."
            )

    def __setstate__(self, state):
        """Restore a pickled model, ready to score."""
        self.__dict__.update(state)
        self.__post_init__()

    def __getstate__(self):
        """Move tensors to the CPU, so that a model fitted on a GPU loads anywhere."""
        state = self.__dict__.copy()
        for name in ("model", "extractor"):
            module = state[name]
            if module is not None and next(module.buffers()).device.type != "cpu":
                state[name] = copy.deepcopy(module).cpu()
        return state
