"""What held-out normals settle: class scales, calibration and threshold."""

import warnings

import numpy as np
import torch

from ..scoring.calibration import Calibration, below_ties, threshold
from ..scoring.scores import score_batch, score_evidence
from .map_constants import fit_normalizers

# A class counts as this many samples less of itself and as many of all classes together.
_BORROWED_SAMPLES = 5


def hold_out(codes, fraction, random_state):
    """Choose, in every class, the samples kept from training for calibration.

    Returns a bool ndarray of the shape of `codes`, True = held out. A class of fewer than 5 samples
    keeps all for training. `fraction` lies in [0, 1).
    """
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        n_held = round(fraction * len(rows)) if len(rows) >= 5 else 0
        if fraction > 0 and len(rows) >= 5:
            n_held = max(1, n_held)
        held_out[random_state.permutation(rows)[:n_held]] = True
    return held_out


def class_scales(anomaly_scores, codes, n_classes):
    """Location and scale that put the image scores of all classes on one scale.

    The location is the median over normal samples, the scale the mean excess above it. Classes with
    few samples are drawn towards the median of all classes. Higher `anomaly_scores` are more
    anomalous.
    """
    by_class = [anomaly_scores[codes == code] for code in range(n_classes)]
    others = np.transpose([_median_and_excess(values) for values in by_class if len(values)])
    location, scale = np.transpose([borrowed_scales(values, others) for values in by_class])
    # One sample, or copies of one: no spread to go by.
    scale[scale <= 1e-12 * np.maximum(1, np.abs(location))] = 1.0
    return location, scale


def borrowed_scales(values, others):
    """Draw location and scale of a class of few samples towards the median of `others`."""
    common = np.median(others, axis=1)
    if not len(values):
        return common
    measured = np.array(_median_and_excess(values))
    weight = _BORROWED_SAMPLES / (len(values) + _BORROWED_SAMPLES)
    return measured + weight * (common - measured)


def _median_and_excess(values):
    median = np.median(values)
    above = values[values > median] - median
    return median, above.mean() if len(above) else 0.0


@torch.no_grad()
def evidence_of(model, samples, device):
    """Compute the evidence of cached samples, once for all constants and scores that rest on it.

    Returns pairs of Evidence, one a block of samples of any process: under the class inferred, and
    under that in `samples.codes`.
    """
    evidence = []
    for features, codes in samples.blocks(device=device):
        inferred = given = model.evidence(features)
        if (inferred.codes != codes).any():
            given = model.evidence(features, codes)
        evidence.append((inferred, given))
    return samples.cache.processes.gather(evidence, device)


@torch.no_grad()
def calibration_of(model, evidence):
    """Score the samples of `evidence_of` by the model's present constants."""
    no_scores, no_codes = np.empty(0), np.empty(0, dtype=np.int64)
    parts = [Calibration(no_scores, no_codes, no_codes, no_scores, no_scores)]
    for inferred, given in evidence:
        batch = score_evidence(model, inferred)
        given_scores = batch.scores if given is inferred else score_evidence(model, given).scores
        codes = given.codes.cpu().numpy()
        parts.append(Calibration(batch.scores, codes, batch.codes, given_scores, batch.typicality))
    return Calibration(*map(np.concatenate, zip(*parts, strict=True)))


def calibrate(model, samples, parameters, device):
    """Freeze the constants of a model on held-out normals, and return their Calibration.

    The samples are those to train on where none are held out.
    """
    evidence = evidence_of(model, samples, device)
    fit_normalizers(model, [given for _, given in evidence], parameters["background_weight"])
    if parameters["class_calibration"]:
        raw = calibration_of(model, evidence)
        location, scale = class_scales(-raw.scores, raw.codes, model.n_classes)
        model.score_location.copy_(torch.from_numpy(location))
        model.score_scale.copy_(torch.from_numpy(scale))
    return calibration_of(model, evidence)


def calibrate_new_classes(model, samples, parameters, known, device):
    """Freeze the constants of classes that join a fitted model; return their Calibration.

    `known` is the model before. `samples` are held-out normals of the new classes, with codes of
    the extended model. A class without any takes the constants of the known classes.
    """
    evidence = evidence_of(model, samples, device)
    if evidence:
        present = torch.from_numpy(np.unique(samples.codes[samples.rows]))
        fit_normalizers(model, [given for _, given in evidence], chosen=present)
    if parameters["class_calibration"]:
        new = np.unique(samples.codes)
        model.score_location[new] = 0
        model.score_scale[new] = 1
        raw = calibration_of(model, evidence)
        others = known.score_location.double().numpy(), known.score_scale.double().numpy()
        for code in new:
            location, scale = borrowed_scales(-raw.given_scores[raw.codes == code], others)
            model.score_location[code] = location
            model.score_scale[code] = scale
    return calibration_of(model, evidence)


@torch.no_grad()
def choose_offset(model, samples, calibration, contamination, device):
    """Return the threshold of the scores, from all normal samples, held out or not."""
    if contamination == "auto":
        return threshold(calibration.scores)
    batches = (score_batch(model, features, None) for features, _ in samples.blocks(device=device))
    scores = np.concatenate(samples.cache.processes.gather([batch.scores for batch in batches]))
    return below_ties(np.percentile(scores, 100 * contamination), scores)


def warn_uncalibrated(codes, classes, held_out, *, knows_others=False, stacklevel=2):
    """Warn of classes that are too small to hold samples out.

    `classes` holds the labels by code. `knows_others` tells that there are other, calibrated
    classes.
    """
    missing = np.setdiff1d(codes, codes[held_out])
    if not len(missing):
        return
    source = "training samples"
    if held_out.any() or knows_others:
        source = "the other classes' held-out normals"
    warnings.warn(
        f"fewer than 5 normal samples of class {classes[missing].tolist()[:10]}: all were used "
        f"for training, and scores, offset_ and p-values of these classes rest on {source}.",
        UserWarning,
        stacklevel=stacklevel,
    )
