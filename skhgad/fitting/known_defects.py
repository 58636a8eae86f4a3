"""Known defects correct the evidence of the classes that gain by it.

`defect_directions` and `level_weights` learn the correction, `known_gain` says where it helps.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ..images.views import ViewSource
from ..scoring.known_anomalies import KnownAnomalies
from .calibrate import calibrate
from .defect_directions import FEWEST_DEFECTS, learn_correction
from .feature_cache import cached_features
from .folds import FEWEST
from .judged_samples import JudgedSamples, rows_of, with_defects
from .known_gain import measured_gain, no_gain
from .known_masks import check_mask_sizes, marked_positions, marked_views
from .level_weights import LevelWeights
from .pictures import Pictures, inferred_evidence
from .samples import LabelledSamples


@dataclass(frozen=True)
class KnownDefects:
    """Samples that the user marked as anomalies.

    Attributes
    ----------
    samples : LabelledSamples
        Their codes say nothing.
    marked : list of Tensor of shape (n_rows, n_positions), bool, or None
        Where the defects of each cached sample or view may lie, by level; None = anywhere.
    outside : list of str
        Names of the pictures left out, because their masks mark nothing inside their regions.
    """

    samples: LabelledSamples
    marked: list | None = None
    outside: list = field(default_factory=list)


def can_be_corrected(parameters):
    """Whether known defects can correct the scores of a detector with these parameters."""
    return (
        parameters["known_anomalies"] == "auto"
        and parameters["criterion"] != "entropy"
        and parameters["map_normalization"] == "standardized"
    )


@contextmanager
def known_defects(reader, X, rows, masks, parameters, normals, parts=None):
    """Enter the KnownDefects of the samples `rows` of X, beside the LabelledSamples of normals.

    X may be a ViewSource, of which `rows` are pictures. `masks` are as from `check_masks`; `parts`
    are the Parts of all samples of X, or None. Each process extracts and holds its own.
    """
    processes, marked = normals.cache.processes.everyone, None
    if isinstance(X, ViewSource):
        with _known_in_views(reader, X, rows, masks, parameters, normals, parts) as known:
            yield known
        return
    with cached_features(reader, X, rows, parameters["cache_budget"], processes) as cache:
        if masks is not None:
            with processes.agree():
                own = processes.own(np.arange(len(rows)))
                check_mask_sizes([masks[i] for i in own], rows[own], cache.sizes)
            marked = marked_positions(masks, reader.level_shapes(X))
        codes = np.zeros(len(rows), dtype=np.int64)
        parts = None if parts is None else parts.of(rows)
        samples = LabelledSamples(
            cache, np.arange(len(rows)), codes, normals.n_classes, parts=parts
        )
        yield KnownDefects(samples, marked)


@contextmanager
def _known_in_views(reader, views, rows, masks, parameters, normals, parts):
    """Enter the KnownDefects of the pictures `rows` of a ViewSource; see `known_defects`."""
    processes, marked, outside = normals.cache.processes.everyone, None, []
    if masks is not None:
        with processes.agree():
            sizes = [views.layout(row).size for row in rows.tolist()]
            check_mask_sizes(masks, rows, sizes)
            marked = marked_views(masks, views, rows)
        is_seen = np.array([found is not None for found in marked])
        outside = [views.images.name(row) for row in rows[~is_seen].tolist()]
        rows = rows[is_seen]
        if len(rows):
            found = [levels for levels in marked if levels is not None]
            marked = [torch.cat(level) for level in zip(*found, strict=True)]
    pictures = Pictures.of(views, rows)
    n = len(pictures.rows)
    with cached_features(
        reader, views, pictures.rows, parameters["cache_budget"], processes
    ) as cache:
        codes = np.zeros(n, dtype=np.int64)
        parts = None if parts is None else parts.of(rows[pictures.samples])
        samples = LabelledSamples(cache, np.arange(n), codes, normals.n_classes, pictures, parts)
        yield KnownDefects(samples, marked, outside)


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
    if not len(known.samples):
        return model, calibration, [KnownAnomalies(name, *no_gain(0)) for name in classes.tolist()]
    defects = judged(model, known.samples)
    counts = np.bincount(defects.codes, minlength=len(classes))
    n_normals = np.bincount(calibration.codes, minlength=len(classes))
    can_gain = (counts >= FEWEST_DEFECTS) & (n_normals >= FEWEST)
    gains = [no_gain(count) for count in counts]
    if can_gain.any():
        normals = JudgedSamples(samples, [given for _, given in evidence])
        correction = learn_correction(model, normals, defects, known.marked)
        given = model, evidence, samples, defects, correction
        trial, *after = _applied(*given, can_gain, parameters)
        before = calibration, defects.scores(model)
        for code in np.flatnonzero(can_gain):
            pairs = (
                (found.given_scores[found.codes == code], scores[defects.codes == code])
                for found, scores in (before, after)
            )
            gains[code] = measured_gain(*pairs)
        gains = samples.cache.processes.broadcast(gains)
        kept = np.array([gain.is_kept for gain in gains])
        if kept.any():
            model, calibration = trial, after[0]
            if (kept != can_gain).any():
                model, calibration, _ = _applied(*given, kept, parameters)
    verdicts = [
        KnownAnomalies(label, *gain) for label, gain in zip(classes.tolist(), gains, strict=True)
    ]
    return model, calibration, verdicts


def judged(model, samples):
    """Return the JudgedSamples of samples, or pictures, whose class is inferred."""
    device = model.score_scale.device
    if samples.pictures is not None:
        return JudgedSamples(samples, inferred_evidence(model, samples, device))
    parts = [
        model.evidence(features)._replace(rows=torch.from_numpy(rows))
        for rows, features, _ in samples.numbered_blocks(device=device)
    ]
    return JudgedSamples(samples, samples.cache.processes.gather(parts, device))


def _applied(model, evidence, samples, defects, correction, chosen, parameters):
    """Return a copy of the model with the correction of the chosen classes, and what it says.

    That is its Calibration, and the scores of the defects of these classes by corrections that have
    not seen them, an ndarray (n_defects,).
    """
    corrected = copy.deepcopy(model)
    terms = [term.of_classes(chosen) for term in correction.terms]
    corrected.defect_terms = nn.ModuleList(terms)
    device, pictures = model.score_scale.device, samples.pictures
    rows = np.sort(np.concatenate([rows_of(given) for _, given in evidence]))
    pairs = []
    for inferred, given in evidence:
        places = torch.from_numpy(np.searchsorted(rows, rows_of(given))).to(device)
        factors = torch.from_numpy(chosen[_codes_of_rows(given)]).to(device)[:, None]
        added = [values[places] * factors for values in correction.of_normals]
        own = with_defects(corrected, given, added, pictures)
        if inferred is given:
            pairs.append((own, own))
            continue
        added = [values.clone() for values in added]
        for place, found in _of_wrong_class(corrected, samples, inferred, given):
            for level, values in enumerate(found):
                added[level][place] = values
        pairs.append((with_defects(corrected, inferred, added, pictures), own))
    if not parameters["class_calibration"]:  # peaks of levels have no common scale
        calibration = calibrate(corrected, pairs, parameters)
        return corrected, calibration, defects.scores(corrected, correction.of_defects)
    weigh = LevelWeights(corrected, defects, correction.of_defects, chosen)
    return corrected, calibrate(corrected, pairs, parameters, weigh), weigh.scores


def _codes_of_rows(evidence):
    """Return the class of each row, which is that of its sample, an ndarray of int."""
    codes = evidence.codes.cpu().numpy()
    return codes.repeat(len(evidence.rows) // len(codes))


def _of_wrong_class(model, samples, inferred, given):
    """Return what the terms say of the rows of samples that are taken for another class.

    As pairs of their place and a Tensor (n_positions,) a level. The terms of that class have not
    seen them.
    """
    processes, device, found = samples.cache.processes, model.score_scale.device, []
    rows, codes = rows_of(given), _codes_of_rows(inferred)
    for place in np.flatnonzero(codes != _codes_of_rows(given)).tolist():
        row = rows[[place]]
        if not len(processes.own(row)):
            continue
        code, values = torch.from_numpy(codes[[place]]).to(device), []
        for index, (level, term) in enumerate(zip(model.levels, model.defect_terms, strict=True)):
            z, _ = level.latent(samples.cache.read(index, row).to(device))
            values.append(term(z, code)[0])
        found.append((place, values))
    return processes.gather(found, device)
