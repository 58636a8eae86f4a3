"""Constants, scales and calibration of classes that more normals have joined."""

from typing import NamedTuple

import numpy as np
import torch

from ..scoring.calibration import Calibration
from .calibrate import as_scores, peaks_of
from .class_scales import ClassScales, class_scales, common_scales, left_out_scores
from .frame_constants import profile_sums
from .map_constants import PROFILE_PRIOR_SAMPLES, SMALLEST_SPREAD
from .unclean import lowest


@torch.no_grad()
def recalibrate(model, evidence, before, updated, class_calibration, share_left_out=0.0):
    """Count new normals in the constants and scales of their classes; return the Calibration.

    Parameters
    ----------
    model : ScoringModel
        Its densities are those of all normals, its constants those before. The constants of the
        updated classes are set.
    evidence : list of pairs of Evidence
        As from `evidence_of`: each new normal, judged by a model without it.
    before : Calibration
        It is kept but for the scores of the updated classes, which follow from its peaks.
    updated : ndarray of int
        Codes of the updated classes.
    class_calibration : bool
    share_left_out : float, default=0.0
        Of the old samples of each class, those that the fit left out as anomalies. So many of the
        lowest scores do not count in the scales.

    Returns
    -------
    Calibration
        Of the samples before, then the new.
    """
    given = [pair[1] for pair in evidence]
    codes = torch.cat([block.codes for block in given]).cpu().numpy()
    old_peaks = before.peaks.copy()
    if model.normalization == "standardized":
        for level in range(len(model.levels)):
            values = _ratios(model, given, level)
            sums = _position_sums(model, level, given, values)
            for code in updated.tolist():
                of_class = before.codes == code
                new = [part[code] for part in sums]
                location, scale = _count_in(
                    model, level, code, int(of_class.sum()), given, values, new
                )
                old_peaks[of_class, level] = old_peaks[of_class, level] * scale + location
    parts = [peaks_of(model, *pair) for pair in evidence]
    peaks, new_peaks, _, inferred, typicality = map(np.concatenate, zip(*parts, strict=True))
    added = Calibration(
        np.zeros(len(codes)), codes, inferred, np.zeros(len(codes)), typicality, new_peaks
    )
    joined = before._replace(peaks=old_peaks).joined(added)
    is_low = lowest(before.given_scores, before.codes, share_left_out)
    counts = np.concatenate([~is_low, np.ones(len(codes), dtype=bool)])
    return _with_scores(model, joined, peaks, updated, class_calibration, counts)


def _ratios(model, evidence, level):
    """Return the log-likelihood ratios of one level, of each block; float64 on the CPU."""
    return [model.likelihood_ratios(block)[level].double().cpu() for block in evidence]


def _position_sums(model, level, evidence, values):
    """Sum new ratios at each position; see `profile_sums`."""
    if evidence[0].frame is not None:
        return profile_sums(model, level, evidence, values)
    codes, values = torch.cat([block.codes for block in evidence]).cpu(), torch.cat(values)
    totals = torch.zeros(model.n_classes, values.shape[1], dtype=torch.float64)
    totals.index_add_(0, codes, values)
    counts = torch.bincount(codes, minlength=model.n_classes).double()
    counts = counts[:, None].expand_as(totals)
    return totals, counts, counts


def _count_in(model, level, code, n_before, evidence, values, new):
    """Count new ratios in the location, profile and scale of a class.

    The present constants give the mean of the old ratios at each position, and their mean square.
    That is exact where all pictures have the same positions inside. `new` is what `_position_sums`
    returned. Returns location and scale of the affine map from old peaks to peaks in the new units.
    """
    profile = model.likelihood_profile(level)[:, code]
    location, scale = model.likelihood_location[level, code], model.likelihood_scale[level, code]
    before = location.item(), scale.item()
    old = _OldRatios.of(profile.double().cpu(), before, n_before, new)
    counted = old.joined_profile(new)
    if counted is None:
        return 0.0, 1.0
    profile.copy_(counted)
    n_new, first, second = _moments(model, level, code, evidence, values)
    n_old, old_first, old_second = old.moments(counted)
    mean = float(first + old_first) / (n_new + n_old)
    variance = float(second + old_second) / (n_new + n_old) - mean**2
    spread = np.sqrt(variance) if variance > SMALLEST_SPREAD**2 else 1.0
    location.fill_(mean)
    scale.fill_(spread)
    return (mean - before[0]) / spread, before[1] / spread


class _OldRatios(NamedTuple):
    """The old ratios of a class at each position, as its constants describe them."""

    profile: torch.Tensor
    location: float
    scale: float
    means: torch.Tensor
    weights: torch.Tensor
    pictures: torch.Tensor

    @classmethod
    def of(cls, profile, constants, n_before, new):
        """Assume that old pictures lie where the profile is not 0, with weights like the new."""
        _, weights, pictures = new
        is_inside = (profile != 0).double()
        if not is_inside.any():
            is_inside = torch.ones_like(profile)
        usual = weights.sum() / pictures.sum().clamp_min(1)
        of_one = torch.where(pictures > 0, weights / pictures.clamp_min(1), usual)
        counts = n_before * is_inside
        means = constants[0] + profile * (1 + PROFILE_PRIOR_SAMPLES / max(1, n_before))
        return cls(profile, *constants, means, counts * of_one, counts)

    def joined_profile(self, new):
        """Return the profile of old and new ratios together, None where there are none at all."""
        totals, weights, pictures = new
        weights, pictures = weights + self.weights, pictures + self.pictures
        if not weights.any():
            return None
        totals = totals + self.weights * self.means
        known = pictures / (pictures + PROFILE_PRIOR_SAMPLES)
        profile = known * (totals / weights.clamp_min(1e-12) - totals.sum() / weights.sum())
        return torch.where(weights > 0, profile, torch.zeros_like(profile))

    def moments(self, profile):
        """Return number, sum and sum of squares of the ratios less another profile."""
        moved, n = self.profile - profile, self.weights.sum()
        square = self.scale**2 + self.location**2
        first = n * self.location + self.weights @ moved
        cross = self.weights @ (moved * (2 * (self.means - self.profile) + moved))
        return float(n), first, n * square + cross


def _moments(model, level, code, evidence, values):
    """Return number, sum and sum of squares of a class's new ratios less the profile."""
    found = []
    for block, value in zip(evidence, values, strict=True):
        chosen = block.codes == code
        codes, chosen = block.codes[chosen], chosen.cpu()
        residuals = value[chosen] - model.profile_of(level, codes, block.frame).double().cpu()
        if block.frame is not None:
            residuals = residuals[block.frame.inside[level].cpu()[chosen]]
        found.append(residuals.flatten())
    found = torch.cat(found)
    return len(found), found.sum(), found.square().sum()


def _with_scores(model, calibration, inferred_peaks, updated, class_calibration, counts):
    """Set the scales of the updated classes, and score their normals by them.

    `inferred_peaks` are those of the new samples, which are the last, under the class inferred.
    `counts`, a bool ndarray (n_samples,), tells which samples measure the scales.
    """
    weights, codes = model.term_weights, calibration.codes
    of_levels = model.level_weights.double().cpu().numpy()
    chosen, common = np.isin(codes, updated), None
    if class_calibration:
        common = common_scales(calibration.peaks[counts], codes[counts], weights)
        for code in updated.tolist():
            of_class = calibration.peaks[counts & (codes == code)]
            own = class_scales(of_class, weights, common, of_levels[:, code])
            own.write_to(model, [code])
    scales = ClassScales.of_model(model)
    anomaly = scales.scores(calibration.peaks, codes, weights)
    if class_calibration:
        rows = np.flatnonzero(chosen & counts)
        anomaly[rows] = left_out_scores(
            calibration.peaks[rows], codes[rows], weights, common, of_levels[:, codes[rows]]
        )
    given_scores, scores = calibration.given_scores.copy(), calibration.scores.copy()
    given_scores[chosen] = as_scores(model, anomaly[chosen])
    new = slice(len(scores) - len(inferred_peaks), None)
    inferred = calibration.inferred
    scores[new] = as_scores(model, scales.scores(inferred_peaks, inferred[new], weights))
    right = chosen & (inferred == codes)
    scores[right] = given_scores[right]
    typicality = calibration.typicality
    if model.map_size == (1, 1):  # a vector has no parts
        typicality = scores.copy()
    return calibration._replace(scores=scores, given_scores=given_scores, typicality=typicality)
