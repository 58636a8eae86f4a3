"""What `fit` leaves: everything that scoring needs, in one object."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..devices import move_to
from ..features.extractor import FeatureExtractor
from ..features.framing import framed, product_masks, regions_by_code
from ..images import ImageSource
from ..images.appearance import ObservedSource
from ..images.roi import ProductMasks
from ..images.views import ViewSource
from .blank import BlankPictures
from .calibration import Calibration
from .kept_vectors import KeptVectors
from .picture_sizes import warn_of_fewer_pixels
from .scores import score_batch
from .scoring_model import ScoringModel
from .views import judged_pictures, scored_views


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
    roi : ProductMasks or None
        The regions of interest given to fit, unless each picture had its own.
    appearances : KeptVectors or None
        How the normal pictures looked, see `appearances_of`; None for vectors, and for models of
        older versions.
    least_sides : ndarray of shape (n_classes, 2), int64, or None
        Least height and width of the normal pictures; None as for `appearances`.
    kept : KeptVectors or None
        Normal vectors with which `update` fits a class anew; None for images, of which nothing is
        kept but sums.
    """

    extractor: FeatureExtractor | None
    model: ScoringModel
    calibration: Calibration
    classes: np.ndarray
    parameters: dict
    roi: ProductMasks | None = None
    kept: KeptVectors | None = None
    appearances: KeptVectors | None = None
    least_sides: np.ndarray | None = None

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
    def n_channels(self):
        """Channels of images; 3 where there are none."""
        return 3 if self.extractor is None else self.extractor.n_channels

    @property
    def value_range(self):
        """Pixel values meaning black and white, as at fit, or None."""
        return self.parameters["value_range"]

    @property
    def n_components(self):
        """Centers of each class in each level, ndarray of shape (n_levels, n_classes), int64."""
        return np.stack([level.n_centers.cpu().numpy() for level in self.model.levels])

    @property
    def level_weights(self):
        """What each level of a class counts in a score, ndarray (n_levels, n_classes); mean 1.

        By how much anomalies stand out in it, painted or known ones; 1 where none were used.
        """
        return self.model.level_weights[:-1].double().cpu().numpy()

    def on(self, device):
        """Return the scoring model on a device, moved there if need be, by one thread alone."""
        move_to(self.model, device, self.model.freeze)
        return self.model

    def observed(self, X):
        """Return images as a source that notes how they look when they are read.

        `X` is an ImageSource, or what it takes. Regions of interest are those of the fit.
        """
        if not isinstance(X, ImageSource):
            X = ImageSource(X, value_range=self.value_range, n_channels=self.n_channels)
        return ObservedSource(X, self.roi)

    def with_roi(self, roi):
        """Return this model with other regions of interest, for every picture that follows.

        `roi` is one mask for all, or a mapping of label to mask, as in `HGADDetector.fit`.
        """
        masks = product_masks(roi, 0, self.classes, takes_images=self.takes_images)
        return replace(self, roi=masks)

    def seen(self, reader, X, codes=None, roi=None):
        """Return X as this model sees it, and the classes whose regions were used.

        Parameters
        ----------
        reader : FeatureReader
        X : ndarray or ImageSource
            From `check_scored_X`.
        codes : ndarray of shape (n_samples,), int64, default=None
            Classes, where they are given.
        roi : default=None
            As in `HGADDetector.score_samples`; None = the regions of the fit.

        Returns
        -------
        X : ndarray, ImageSource or ViewSource
        codes : ndarray or None
            Those given. Where products have different regions and no class is given, the classes
            inferred from what all regions have in common.
        """
        found = product_masks(roi, len(X), self.classes, takes_images=self.takes_images)
        found = self.roi if found is None else found
        if not self.takes_images:
            return X, codes
        if isinstance(found, ProductMasks) and codes is None:
            if not found.is_common:
                codes = self._inferred_codes(reader, X, found)
                regions = found.regions(codes)
            else:
                regions = found.regions(np.zeros(len(X), dtype=np.int64))
        else:
            regions = regions_by_code(found, codes)
        if regions is not None and not any(region is not None for region in regions):
            regions = None
        return framed(X, self.extractor, self.parameters, regions), codes

    def _inferred_codes(self, reader, X, masks):
        parts = [masks.common_part(X.size(i), X.name(i)) for i in range(len(X))]
        views = framed(X, self.extractor, self.parameters, parts)
        judged = judged_pictures(self.on(reader.device), reader, views)
        return np.concatenate([evidence.codes.cpu().numpy() for evidence, _ in judged])

    def scored_batches(self, reader, X, codes=None, roi=None):
        """Score samples batch by batch.

        Parameters
        ----------
        reader : FeatureReader
        X : ndarray or ImageSource
            From `check_scored_X`.
        codes : ndarray of shape (n_samples,), int64, default=None
            Class of each sample, an index into `classes`; None = inferred.
        roi : default=None
            As in `HGADDetector.score_samples`.

        Yields
        ------
        ScoredBatch
        """
        if self.appearances is None:
            yield from self._scored(reader, X, codes, roi)
            return
        observed = X if isinstance(X, ObservedSource) else self.observed(X)
        blank = BlankPictures(self.appearances, self.calibration, len(self.classes))
        n_seen, inferred = 0, [np.zeros(0, dtype=np.int64)]
        for batch in self._scored(reader, observed, codes, roi):
            n_before, n_seen = n_seen, n_seen + len(batch.scores)
            inferred.append(batch.codes)
            yield blank.judged(batch, observed.appearance[n_before:n_seen])
        if self.least_sides is not None and self.parameters["tile_size"] is None:
            codes = np.concatenate(inferred)
            warn_of_fewer_pixels(observed, codes, self.least_sides, self.image_size)

    @torch.inference_mode()
    def _scored(self, reader, X, codes, roi):
        """Score as `scored_batches`, whatever a picture looks like as a whole."""
        model, n_seen, is_given = self.on(reader.device), 0, codes is not None
        X, codes = self.seen(reader, X, codes, roi)
        codes = None if codes is None else torch.from_numpy(codes)
        if isinstance(X, ViewSource):
            yield from scored_views(model, reader, X, codes, given=is_given)
            return
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
