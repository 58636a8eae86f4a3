"""Known defects correct the evidence of the classes that gain by it.

`defect_directions` learns the correction, `known_gain` says where it helps.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..scoring.known_anomalies import KnownAnomalies
from ..scoring.scores import score_evidence
from ..scoring.scoring_model import Evidence
from .calibrate import calibrate
from .defect_directions import FEWEST_DEFECTS, JudgedSamples, learn_correction
from .feature_cache import cached_features
from .folds import FEWEST
from .known_gain import measured_gain, no_gain
from .known_masks import check_mask_sizes, marked_positions
from .samples import LabelledSamples


@dataclass(frozen=True)
class KnownDefects:
    """Samples that the user marked as anomalies.

    Attributes
    ----------
    samples : LabelledSamples
        Their codes say nothing.
    marked : list of Tensor of shape (n_samples, n_positions), bool, or None
        Where the defects of each may lie, by level; None = anywhere.
    """

    samples: LabelledSamples
    marked: list | None = None


def can_be_corrected(parameters):
    """Whether known defects can correct the scores of a detector with these parameters."""
    return (
        parameters["known_anomalies"] == "auto"
        and parameters["criterion"] != "entropy"
        and parameters["map_normalization"] == "standardized"
    )


@contextmanager
def known_defects(reader, X, rows, masks, parameters, normals):
    """Enter the KnownDefects of the samples `rows` of X, beside the LabelledSamples of normals.

    `masks` are as from `check_masks`. Each process extracts and holds its own.
    """
    processes, marked = normals.cache.processes, None
    with cached_features(reader, X, rows, parameters["cache_budget"], processes) as cache:
        if masks is not None:
            with processes.agree():
                own = processes.own(np.arange(len(rows)))
                check_mask_sizes([masks[i] for i in own], rows[own], cache.sizes)
            marked = marked_positions(masks, reader.level_shapes(X))
        codes = np.zeros(len(rows), dtype=np.int64)
        samples = LabelledSamples(cache, np.arange(len(rows)), codes, normals.n_classes)
        yield KnownDefects(samples, marked)


@torch.no_grad()
def correct_by_known_defects(fitted, samples, known, parameters, classes):
    """Correct the evidence of the classes that gain by it.

    Parameters
    ----------
    fitted : tuple (model, evidence, calibration)
        A ScoringModel, which does not change; that of the normals that calibrate, as from
        `evidence_of`; and what `calibrate` made of both.
    samples : LabelledSamples
        The normals.
    known : KnownDefects
    parameters : dict
        Of the estimator.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    model : ScoringModel
        The same object where nothing is corrected.
    calibration : Calibration
    verdicts : list of KnownAnomalies
    """
    model, evidence, calibration = fitted
    defects = JudgedSamples(known.samples, judged(model, known.samples))
    counts = np.bincount(defects.codes, minlength=len(classes))
    n_normals = np.bincount(calibration.codes, minlength=len(classes))
    can_gain = (counts >= FEWEST_DEFECTS) & (n_normals >= FEWEST)
    gains = [no_gain(count) for count in counts]
    if can_gain.any():
        normals = JudgedSamples(samples, _joined([given for _, given in evidence]))
        correction = learn_correction(model, normals, defects, known.marked)
        trial, tried = _applied(model, evidence, samples, correction, can_gain, parameters)
        before = calibration, score_evidence(model, defects.evidence).scores
        corrected = defects.evidence._replace(defects=correction.of_defects)
        after = tried, score_evidence(trial, corrected).scores
        for code in np.flatnonzero(can_gain):
            pairs = (
                (found.given_scores[found.codes == code], scores[defects.codes == code])
                for found, scores in (before, after)
            )
            gains[code] = measured_gain(*pairs)
        gains = samples.cache.processes.broadcast(gains)
        kept = np.array([gain.is_kept for gain in gains])
        if kept.any():
            model, calibration = trial, tried
            if (kept != can_gain).any():
                model, calibration = _applied(
                    model, evidence, samples, correction, kept, parameters
                )
    verdicts = [
        KnownAnomalies(label, *gain) for label, gain in zip(classes.tolist(), gains, strict=True)
    ]
    return model, calibration, verdicts


def judged(model, samples):
    """Return the Evidence of samples whose class is inferred, in the order of rows."""
    device = model.score_scale.device
    parts = [
        model.evidence(features)._replace(rows=torch.from_numpy(rows))
        for rows, features, _ in samples.numbered_blocks(device=device)
    ]
    return _joined(samples.cache.processes.gather(parts, device))


def _joined(parts):
    """Join blocks of Evidence to one, in the order of rows."""
    rows = torch.cat([part.rows for part in parts])
    order = rows.argsort()
    codes, *kinds = Evidence.joined(parts)[:4]
    kinds = [[None if level is None else level[order] for level in kind] for kind in kinds]
    return Evidence(codes[order], *kinds, rows=rows[order])


def _applied(model, evidence, samples, correction, chosen, parameters):
    """Return a copy of the model with the correction of the chosen classes, and its Calibration."""
    corrected = copy.deepcopy(model)
    terms = [term.of_classes(chosen) for term in correction.terms]
    corrected.defect_terms = nn.ModuleList(terms)
    is_chosen = torch.as_tensor(chosen, device=model.score_scale.device)
    rows = torch.cat([given.rows for _, given in evidence]).sort().values

    def with_defects(given):
        places = torch.searchsorted(rows, given.rows)
        factors = is_chosen[given.codes][:, None]
        return given._replace(
            defects=[values[places] * factors for values in correction.of_normals]
        )

    pairs = []
    for inferred, given in evidence:
        own = with_defects(given)
        if inferred is given:
            pairs.append((own, own))
        else:
            wrong = _of_wrong_class(corrected, samples, inferred, given)
            defects = [values.clone() for values in own.defects]
            for place, found in wrong:
                for level, values in enumerate(found):
                    defects[level][place] = values
            pairs.append((inferred._replace(defects=defects), own))
    return corrected, calibrate(corrected, pairs, parameters)


def _of_wrong_class(model, samples, inferred, given):
    """Return what the terms say of samples that are taken for another class.

    As pairs of their place and a Tensor (n_positions,) a level. The terms of that class have not
    seen them.
    """
    processes, device, found = samples.cache.processes, model.score_scale.device, []
    for place in torch.nonzero(inferred.codes != given.codes)[:, 0].tolist():
        row = given.rows[[place]].cpu().numpy()
        if not len(processes.own(row)):
            continue
        code, values = inferred.codes[[place]], []
        for index, (level, term) in enumerate(zip(model.levels, model.defect_terms, strict=True)):
            z, _ = level.latent(samples.cache.read(index, row).to(device))
            values.append(term(z, code)[0])
        found.append((place, values))
    return processes.gather(found, device)
