"""Constants, calibration and threshold of a model, from normal samples that it did not see."""

import numpy as np
import torch

from ..scoring.calibration import Calibration, below_ties, threshold
from ..scoring.scores import finite, score_batch, score_evidence
from .class_scales import ClassScales, fit_class_scales, left_out_scores
from .map_constants import fit_normalizers
from .novelty import fit_novelty
from .pictures import evidence_of_pictures


@torch.no_grad()
def evidence_of(model, samples, device):
    """Compute the evidence of cached samples, from which all constants and scores follow.

    Returns a list with a pair of Evidence for each block of samples, of all processes: under the
    class inferred, and under the class in `samples.codes`. Of views, it is that of the pictures.
    """
    if samples.pictures is not None:
        return evidence_of_pictures(model, samples, device)
    evidence = []
    for rows, features, codes in samples.numbered_blocks(device=device):
        rows = torch.from_numpy(rows)
        inferred = given = model.evidence(features)._replace(rows=rows)
        if (inferred.codes != codes).any():
            given = model.evidence(features, codes)._replace(rows=rows)
        evidence.append((inferred, given))
    return samples.cache.processes.gather(evidence, device)


def numbers_judged(samples, evidence):
    """Return the numbers of the samples, or pictures, in the order of their Calibration.

    `evidence` is as from `evidence_of`.
    """
    numbers = []
    for _, given in evidence:  # of a picture in tiles, each tile has a row
        numbers += dict.fromkeys(samples.numbers_of(given.rows.cpu().numpy()).tolist())
    return numbers


def judges(fit, model, samples, spared):
    """Yield models, each with the rows of the samples that it calibrates: of each part, one.

    Parameters
    ----------
    fit : callable
        Turns LabelledSamples into a ScoringModel.
    model : ScoringModel
        Fitted to all samples, or without the only group of `spared`.
    samples : LabelledSamples
        All of a fit.
    spared : ndarray of shape (n_groups, n_samples), bool
        From `folds.spare`. One group: `model` has not seen it. Several: a model is fitted for each,
        on all other samples. None: `model` judges the samples that it was fitted to.
    """
    if not len(spared):
        yield model, samples.judged(samples.rows)
    elif len(spared) == 1:
        yield model, samples.judged(np.flatnonzero(spared[0]))
    else:
        for group in spared:
            judge = fit(samples.chosen(np.flatnonzero(~group)))
            yield judge, samples.judged(np.flatnonzero(group))


def calibrate(model, evidence, parameters, weigh=None):
    """Freeze the constants of a model on `evidence_of` normal samples; return their Calibration.

    The evidence may come from other models, fitted without the samples that each has judged.
    `weigh` chooses what levels count, see `LevelWeights`; None = all the same.
    """
    own = [given for _, given in evidence]
    fit_normalizers(model, own, parameters["background_weight"])
    novelty, every = fit_novelty(model, own), np.arange(model.n_classes)
    return _calibration(
        model, evidence, every, parameters["class_calibration"], weigh=weigh, novelty=novelty
    )


def calibrate_new_classes(model, evidence, parameters, known, new, weigh=None):
    """Freeze the constants of the classes `new` that join a fitted model; return the Calibration.

    `known` is the model before. `evidence` is that of normal samples of the new classes, with codes
    of the extended model. A class without any takes the constants of the known classes. `weigh` as
    in `calibrate`.
    """
    if evidence:
        present = torch.cat([given.codes for _, given in evidence]).unique().cpu()
        fit_normalizers(model, [given for _, given in evidence], chosen=present)
    of_levels = known.level_weights.double().cpu().numpy()
    common = ClassScales.of_model(known).without(of_levels).typical()
    return _calibration(model, evidence, new, parameters["class_calibration"], common, weigh)


def _calibration(model, evidence, chosen, class_calibration, common=None, weigh=None, novelty=None):
    """Set the scales of the chosen classes, and score the samples of the evidence.

    Each sample is scored by scales that were measured on the other samples of its class. `novelty`
    holds the novelty terms of the samples, as from `fit_novelty`; None = those of the model.
    """
    ClassScales.identity(len(model.peak_scale), len(chosen)).write_to(model, chosen)
    weights = model.term_weights
    parts = [peaks_of(model, *pair) for pair in evidence]
    if not parts:
        nothing, no_codes = np.empty(0), np.empty(0, dtype=np.int64)
        if class_calibration:
            ClassScales(*(np.repeat(v, len(chosen), -1) for v in common)).write_to(model, chosen)
        no_peaks = np.empty((0, model.n_columns))
        return Calibration(nothing, no_codes, no_codes, nothing, nothing, no_peaks)
    peaks, given_peaks, codes, inferred, typicality = map(np.concatenate, zip(*parts, strict=True))
    if novelty is not None:
        peaks[:, -1] = given_peaks[:, -1] = novelty
    factors, own_factors = (None, None) if weigh is None else weigh(given_peaks, codes)
    if class_calibration:
        scales = fit_class_scales(given_peaks, codes, model.n_classes, weights, common, factors)
        scales.of(chosen).write_to(model, chosen)
    scales = ClassScales.of_model(model)
    if class_calibration:
        given_scores = left_out_scores(given_peaks, codes, weights, common, own_factors)
    else:
        given_scores = scales.scores(given_peaks, codes, weights)
    scores = np.where(inferred == codes, given_scores, scales.scores(peaks, inferred, weights))
    scores, given_scores = as_scores(model, scores), as_scores(model, given_scores)
    if model.map_size == (1, 1):  # its only position is the median one
        typicality = scores.copy()
    return Calibration(scores, codes, inferred, given_scores, typicality, given_peaks)


@torch.no_grad()
def peaks_of(model, inferred, given):
    """Peaks of the terms under the class inferred and the given one, both codes, typicality."""
    peaks = given_peaks = model.peaks(inferred)
    if given is not inferred:
        given_peaks = model.peaks(given)
    return (
        -finite(-peaks),
        -finite(-given_peaks),
        given.codes.cpu().numpy(),
        inferred.codes.cpu().numpy(),
        finite(inferred.typicality),
    )


def as_scores(model, anomaly):
    """Turn anomaly scores, an ndarray, into normality scores as exact as those of the model."""
    # The dtype tells `tie_distance` how exact the scores are.
    return finite(-anomaly.astype(model.score_scale.cpu().numpy().dtype))


@torch.no_grad()
def choose_offset(model, groups, calibration, contamination, device, others=()):
    """Return the threshold of the scores, from all training samples, held out or not.

    These are the LabelledSamples of all `groups`, of which some may be None or empty, and the
    vectors `others`, an ndarray (n, n_features).
    """
    if contamination == "auto":
        return threshold(calibration.scores)
    parts = [part for samples in groups if samples for part in _scores(model, samples, device)]
    if len(others):
        parts.append(score_vectors(model, others, device))
    return offset_of_share(np.concatenate(parts), contamination)


def _scores(model, samples, device):
    """Return the scores of LabelledSamples of all processes, a list of ndarrays."""
    if samples.pictures is not None:
        pairs = evidence_of_pictures(model, samples, device)
        return [score_evidence(model, found).scores for found, _ in pairs]
    batches = (score_batch(model, features, None) for features, _ in samples.blocks(device=device))
    return samples.cache.processes.gather([batch.scores for batch in batches])


def score_vectors(model, X, device):
    """Return the scores (n,) of vectors, an ndarray (n, n_features), under the classes inferred."""
    return score_batch(model, [torch.from_numpy(X)[:, None].to(device)], None).scores


def offset_of_share(scores, share):
    """Return the threshold that flags a share of the samples that have these scores."""
    return below_ties(np.percentile(scores, 100 * share), scores)


@torch.no_grad()
def with_samples(calibration, share, model, samples, device):
    """Return a calibration with more samples, LabelledSamples that the model did not see.

    `share` of them calibrate, evenly spaced; of each part, at most one.
    """
    n, parts = len(samples.of_pictures(samples.codes)), samples.parts_of_pictures()
    rows = np.arange(n) if parts is None else np.flatnonzero(parts.judged)
    n_chosen = round(share * len(rows))
    if not n_chosen:
        return calibration
    is_chosen = np.zeros(n, dtype=bool)
    is_chosen[rows[np.linspace(0, len(rows) - 1, n_chosen).round().astype(np.int64)]] = True
    for inferred, given in evidence_of(model, samples.kept(is_chosen), device):
        calibration = calibration.joined(calibration_of(model, inferred, given))
    return calibration


def calibration_of(model, inferred, given):
    """Return the Calibration of samples from their Evidence, by the scales that the model has.

    `inferred` is under the classes inferred, `given` under their own.
    """
    scored, as_given = score_evidence(model, inferred), score_evidence(model, given)
    peaks = model.peaks(given).double().cpu().numpy()
    return Calibration(
        scored.scores, as_given.codes, scored.codes, as_given.scores, scored.typicality, peaks
    )
