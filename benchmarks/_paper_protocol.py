"""The authors' evaluation: what their published figures were measured by, and an estimator cannot.

It is told the class of each test image, takes the maxima of its exponential maps over the whole
test set of a class, and keeps the pass with the best test AUROC. Here it runs beside training and
changes nothing in it: the same fit gives the honest figures too.
"""

import copy
import time

import numpy as np
import torch

from skhgad import HGADDetector
from skhgad.fitting.fit import fit_detector
from skhgad.fitting.map_constants import fit_normalizers
from skhgad.metrics import image_metrics
from skhgad.scoring.scoring_model import ScoringModel


class PaperProtocolDetector(HGADDetector):
    """HGADDetector that evaluates itself on the test set while it trains.

    `watch` must be called before `fit`. Afterwards `best_` holds what the protocol keeps:
    a dict of "n_pass", "auroc" (mean over classes), "scores" (n,) and "maps" (n, height, width);
    `watch_seconds_` is what that took.
    """

    def watch(self, features, codes, y, every=1):
        """Name the test set.

        Parameters
        ----------
        features : Features
            Of the test samples.
        codes : ndarray of int
            Their class codes: indices into the sorted training classes.
        y : ndarray of int
            +1 normal, -1 anomaly.
        every : int, default=1
            Evaluate after each so many passes, and after the last.
        """
        self._watched = features, codes, y, every
        self.best_, self.watch_seconds_ = None, 0.0
        return self

    def fit(self, X, y=None):
        """Fit as HGADDetector does; the finished model is the last candidate."""
        self.__dict__.update(fit_detector(self, X, y, on_pass=self._after_pass))
        self._evaluate(self.n_iter_, self.model_.model.levels)
        return self

    def _after_pass(self, info, levels):
        if info.number % self._watched[3] == 0:
            self._evaluate(info.number, levels)

    @torch.no_grad()
    def _evaluate(self, number, levels):
        start = time.perf_counter()
        features, codes, y, _ = self._watched
        model = self._published_model(levels, features)
        codes = torch.from_numpy(codes)

        found = [
            model.evidence(own_levels, codes[rows].to(features.device))
            for rows, own_levels in features.blocks(np.arange(len(features)))
        ]
        fit_normalizers(model, found)  # maxima of each class: over the test set, here
        maps = torch.cat([model.maps(evidence).float().cpu() for evidence in found])
        scores = -maps.amax((1, 2)).double().numpy()
        per_class = image_metrics(y, scores, codes.numpy()).per_class.values()
        auroc = float(np.nanmean([figures.auroc for figures in per_class]))
        if self.best_ is None or auroc > self.best_["auroc"]:
            self.best_ = {"n_pass": number, "auroc": auroc, "scores": scores, "maps": maps}
        self.watch_seconds_ += time.perf_counter() - start

    def _published_model(self, levels, features):
        """Assemble a copy of the levels with exponential maps."""
        criterion = self.criterion
        if criterion == "auto":
            criterion = "likelihood" if features.is_table else "likelihood_entropy"
        model = ScoringModel(
            copy.deepcopy(list(levels)),
            features.map_size,
            criterion,
            "exponential",
            self.blur_sigma,
        )
        dtype = torch.float64 if features.is_table else torch.float32
        return model.requires_grad_(False).to(features.device, dtype)
