"""Fit one scoring model to some samples: start, training and densities."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ..features.extractor import FeatureExtractor
from ..scoring.scoring_model import Evidence, ScoringModel, build_scoring_model
from ..threads import granted_threads, in_threads, torch_threads
from .calibrate import evidence_of, judges
from .class_covariances import fit_covariances
from .flow_choice import flow_pays
from .map_closed_form import fit_map_level, has_closed_form
from .novelty import keep_vectors
from .objective import hgad_loss
from .picture_modes import find_picture_modes
from .pictures import left_out_evidence
from .schedule import TrainingPlan
from .start import build_level
from .training import train_levels
from .unclean import centers_to_find
from .vector_choices import VectorChoices

_BLOCK = 32  # samples whose maps are judged at once
# Multiplications of a product, some 10 ms of one thread. Threads that share a smaller one wait for
# each other as long as they compute, where other processes keep the cores busy.
_LARGE_PRODUCT = 2**28


class Fit(NamedTuple):
    """A model and what was judged by models that did not see it.

    Attributes
    ----------
    model : ScoringModel
        Its constants are not set.
    evidence : list
        Of the spared samples, as from `evidence_of`.
    of_synthetic : list
        Of synthetic anomalies, likewise.
    history : list of dict
        Of the training.
    """

    model: ScoringModel
    evidence: list
    of_synthetic: list
    history: list


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

    def fit(self, samples, spared, synthetic=None, *, on_pass=None, verbose=0):
        """Fit a model, and judge normal samples by models that did not see them.

        Parameters
        ----------
        samples : LabelledSamples
        spared : ndarray of shape (n_groups, n_samples), bool
            From `folds.spare`. The model is fitted without the samples of a single group, and to
            all samples where there are several.
        synthetic : Synthetic, default=None
            Judged, too; None = there are none.
        on_pass : callable, default=None
            on_pass(info, levels), with a PassInfo, is called after each pass of the training.
        verbose : int, default=0
            >= 1 shows the progress of the training.

        Returns
        -------
        Fit
        """
        if len(spared) > 1 and self._leaves_folds_out():
            return self._fit_and_leave_out(samples, spared, synthetic)
        seen = samples.chosen(np.flatnonzero(~spared[0])) if len(spared) == 1 else samples
        recipe, model, history = self, None, []
        if len(spared) and self._may_drop_flow():
            told, untold = {"on_pass": on_pass, "verbose": verbose}, []
            if len(spared) > 1:  # a flow that stays is trained again, on all samples
                told = {"on_pass": lambda *call: untold.append(call)}
            recipe, model, history = self._better_of_two(samples, spared[0], **told)
            for call in untold if recipe is not self and on_pass is not None else ():
                on_pass(*call)
        if model is None or len(spared) > 1:
            model, trained = recipe._fit(seen, on_pass, verbose)
            history = trained or history
        for_folds = recipe._with_choices_of(model, seen) if len(spared) > 1 else recipe
        evidence, of_synthetic = [], []
        of_folds = judges(lambda chosen: for_folds._fit(chosen)[0], model, samples, spared)
        for group, (judge, rows) in enumerate(of_folds):
            evidence += evidence_of(judge, samples.chosen(rows), self.device)
            if synthetic is not None:
                of_synthetic += evidence_of(judge, synthetic.of_group(group), self.device)
        return Fit(model, evidence, of_synthetic, history)

    def _fit(self, samples, on_pass=None, verbose=0):
        if has_closed_form(self.parameters, self.shapes):
            nothing = np.full(len(samples), -1)
            levels, *_ = self._closed_form(samples, nothing)
            return self._scoring_model(levels), []
        generator = torch.Generator().manual_seed(self.seed)
        levels = self._untrained_levels(samples, generator)
        with torch_threads(granted_threads() if self._has_large_steps() else 1):
            history = train_levels(
                levels, samples, self.plan, generator, self.device, verbose=verbose, on_pass=on_pass
            )
        model = self._scoring_model(levels, samples)
        return model, history

    def _has_large_steps(self):
        """Whether products of a training step are large enough for several threads to share."""
        hidden, n_images = self.parameters["hidden_ratio"], self.plan.batch_size
        share = self.plan.position_fraction
        return _LARGE_PRODUCT < max(
            n_images * height * width * share * hidden * n_features**2
            for n_features, height, width in self.shapes
        )

    def _may_drop_flow(self):
        """Whether a flow is trained that a mixture found without it may replace.

        That of feature vectors, by the published objective, from the whitened start, where the
        likelihood alone scores.
        """
        return (
            self.plan.n_passes > 0
            and self.extractor is None
            and self.plan.loss in (None, hgad_loss)
            and self.parameters["start"] == "whitened"
            and self.parameters["class_covariance"]
            and self.parameters["criterion"] in ("auto", "likelihood")
        )

    def _better_of_two(self, samples, left_out, on_pass=None, verbose=0):
        """Fit once with a flow and once without; the samples left out choose between the two.

        Returns the recipe of the better model, this model, and the history of the training.
        """
        seen = samples.chosen(np.flatnonzero(~left_out))
        judging = samples.chosen(samples.judged(np.flatnonzero(left_out)))
        trained, history = self._fit(seen, on_pass, verbose)
        plain = replace(
            self,
            parameters=self.parameters | {"max_iter": 0},
            plan=replace(self.plan, n_passes=0),
        )
        untrained, _ = plain._fit(seen)
        if flow_pays(trained, untrained, judging, self.device):
            return self, trained, history
        return plain, untrained, history

    def _with_choices_of(self, model, samples):
        """Return a recipe that takes what a model chose, fitted to the samples."""
        if has_closed_form(self.parameters, self.shapes):
            strengths = [float(level.densities.strength) for level in model.levels]
            return replace(self, parameters=self.parameters | {"strengths": strengths})
        if self.extractor is not None:
            return self
        n_components = centers_to_find(self.parameters)
        choices = VectorChoices.of(model.levels[0], samples, n_components, self.seed)
        return replace(self, parameters=self.parameters | {"choices": choices})

    def _leaves_folds_out(self):
        """Whether the closed form judges the samples of all folds at once, by likelihood alone."""
        return (
            has_closed_form(self.parameters, self.shapes)
            and self.parameters["criterion"] in ("auto", "likelihood")
            and self.parameters["map_normalization"] == "standardized"
        )

    @torch.no_grad()
    def _fit_and_leave_out(self, samples, spared, synthetic):
        folds = np.where(spared.any(axis=0), spared.argmax(axis=0), -1)
        levels, left_out, of_synthetic = self._closed_form(samples, folds, synthetic)
        model = self._scoring_model(levels)
        evidence, found = self._left_out_evidence(model, samples, left_out), []
        if synthetic is not None:
            found = self._left_out_evidence(model, synthetic.samples, of_synthetic)
        return Fit(model, evidence, found, [])

    def _left_out_evidence(self, model, samples, left_out):
        """Turn what models without their folds say of samples into pairs, as `evidence_of` does."""
        if samples.pictures is not None:
            return left_out_evidence(model, samples, left_out, self.device)
        rows = left_out[0].rows
        codes = sum(level.class_likelihoods for level in left_out).argmax(1).numpy()
        wrong = np.flatnonzero(codes != samples.codes[rows])
        inferred = [level.likelihoods.clone() for level in left_out]
        for likelihoods, level in zip(inferred, left_out, strict=True):
            likelihoods[wrong] = level.judge(rows[wrong], codes[wrong])
        pairs = [
            self._judged(
                model, samples, [level.part(places) for level in left_out],
                torch.from_numpy(codes[places]), [values[places] for values in inferred],
            )
            for places in np.split(np.arange(len(rows)), range(_BLOCK, len(rows), _BLOCK))
            if len(places)
        ]  # fmt: skip
        return samples.cache.processes.gather(pairs, self.device)

    def _closed_form(self, samples, folds, synthetic=None):
        """Fit all levels; returns three tuples of one item a level, as from `fit_map_level`."""
        modes = None
        if self.parameters["n_components"] == "auto":
            modes = find_picture_modes(samples, self.seed)

        def fit(index):
            return fit_map_level(
                self.parameters, self.shapes[index], samples, index, folds, self.device, synthetic,
                modes,
            )  # fmt: skip

        # Several processes must communicate in one order, so each uses one thread. A GPU gains
        # nothing from a second thread, and two must not load torch's linear algebra at once.
        is_alone = samples.cache.processes.size == 1
        n_threads = granted_threads() if is_alone and self.device.type == "cpu" else 1
        return zip(*in_threads(fit, range(len(self.shapes)), n_threads), strict=True)

    def _judged(self, model, samples, left_out, codes, likelihoods):
        """Turn what models without a fold say of its samples into Evidence, as `evidence_of` does.

        `left_out` is under the classes given, `likelihoods` under those inferred, `codes`.
        """
        rows = left_out[0].rows
        given = Evidence(
            torch.from_numpy(samples.codes[rows]),
            [level.likelihoods for level in left_out],
            [level.backgrounds for level in left_out],
            [None] * len(left_out),
            rows=torch.from_numpy(rows),
        )
        inferred = given._replace(codes=codes, likelihoods=likelihoods)
        inferred = inferred._replace(typicality=model.typicality(inferred)).to(self.device)
        is_right = bool((codes == given.codes).all())
        return inferred, inferred if is_right else given.to(self.device)

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

    def _scoring_model(self, levels, samples=None):
        """Assemble the levels; `samples`, if given, settle their densities."""
        model = build_scoring_model(self.parameters, levels, self.extractor)
        model.cpu().to(self._dtype)
        for level in levels:
            level.drop_last_mix()
        model.freeze()
        if samples is not None and self.parameters["class_covariance"]:
            choices = self.parameters.get("choices")
            n_components = centers_to_find(self.parameters)
            fit_covariances(levels, samples, n_components, self.seed, choices)
            if self.extractor is None:
                keep_vectors(levels[0], samples.level(0), self.parameters, choices)
        model.to(self.device).freeze()
        return model

    @property
    def _dtype(self):
        """float64 for vectors, which may be of any magnitude, float32 for images."""
        return torch.float64 if self.extractor is None else torch.float32
