"""Fit one scoring model to some samples: start, training and densities."""

from dataclasses import dataclass

import torch

from ..features.extractor import FeatureExtractor
from ..scoring.scoring_model import build_scoring_model
from .class_covariances import fit_covariances
from .schedule import TrainingPlan
from .start import build_level
from .training import train_levels


@dataclass(frozen=True)
class Recipe:
    """What a fit does with any choice of its samples, always with the same random numbers.

    Attributes
    ----------
    parameters : dict
        Of the estimator.
    plan : TrainingPlan
    shapes : list of tuples (n_features, height, width)
        Of the levels.
    extractor : FeatureExtractor or None
        None for feature vectors.
    device : torch.device
    seed : int
    """

    parameters: dict
    plan: TrainingPlan
    shapes: list
    extractor: FeatureExtractor | None
    device: torch.device
    seed: int

    def fit(self, samples, *, on_pass=None, verbose=0):
        """Return a ScoringModel whose constants are not set, and the history of its training.

        `samples` are LabelledSamples. on_pass(pass_number, levels) is called after each pass of the
        training. `verbose` >= 1 shows its progress.
        """
        generator = torch.Generator().manual_seed(self.seed)
        levels = self._untrained_levels(samples, generator)
        history = train_levels(
            levels, samples, self.plan, generator, self.device, verbose=verbose, on_pass=on_pass
        )
        model = self._freeze(levels, samples).to(self.device)
        model.freeze()
        return model, history

    def model(self, samples):
        """Return the ScoringModel alone; see `fit`."""
        return self.fit(samples)[0]

    def _untrained_levels(self, samples, generator):
        return [
            build_level(
                self.parameters,
                samples.level(index),
                map_shape,
                self._dtype,
                generator,
                is_trained=self.plan.n_passes > 0,
            )
            for index, (_, *map_shape) in enumerate(self.shapes)
        ]

    def _freeze(self, levels, samples):
        model = build_scoring_model(self.parameters, levels, self.extractor)
        model.cpu().to(self._dtype)
        for level in levels:
            level.drop_last_mix()
        model.freeze()
        if self.parameters["class_covariance"]:
            fit_covariances(levels, samples, self.parameters["n_components"], self.seed)
        return model

    @property
    def _dtype(self):
        """float64 for vectors, which may be of any magnitude, float32 for images."""
        return torch.float64 if self.extractor is None else torch.float32
