"""The constants of anomaly maps, measured on held-out normals."""

import torch

from .frame_constants import fit_profiles, flat, flat_grid

_SLOPE_PRIOR_VECTORS = 50  # weight of a slope of 1 from the background to a class
_STEEPEST_SLOPE = 3.0  # of that regression
SMALLEST_SPREAD = 1e-6  # less is rounding: the scale is then 1
PROFILE_PRIOR_SAMPLES = 20  # weight of a profile that is the same everywhere
_BORROWED_VECTORS = 1  # that a class of feature vectors takes from all; see `_with_borrowed`
_REACH = 5.0  # robust standard deviations, beyond which likelihoods of vectors are clipped


@torch.no_grad()
def fit_normalizers(model, evidence, background_weight=0.0, *, chosen=None):
    """Freeze the constants of the maps of a model from Evidence of normal samples.

    `background_weight` is the share of what the background predicts of the log-likelihood, by
    linear regression inside the classes, that is taken off. `chosen` are the codes whose constants
    are set; None = all, and those of the background.
    """
    codes = torch.cat([block.codes for block in evidence])
    if chosen is None:
        chosen = torch.arange(model.n_classes)
        _fit_background(model, evidence, codes, background_weight)
    if evidence[0].frame is not None:
        _fit_framed(model, evidence, chosen)
        return
    if model.normalization == "exponential":
        _fit_maxima(model, evidence, codes, chosen)
    else:
        _fit_moments(model, evidence, codes, chosen)


def _fit_maxima(model, evidence, codes, chosen):
    ratios = [model.likelihood_ratios(block) for block in evidence]
    for index in range(len(model.levels)):
        value = torch.cat([block[index] for block in ratios])
        model.likelihood_location[index, chosen] = _per_class(chosen, codes, value, torch.amax)
        if evidence[0].entropies[index] is None:
            continue
        negative_entropy = -torch.cat([block.entropies[index] for block in evidence])
        model.entropy_location[index, chosen] = _per_class(
            chosen, codes, negative_entropy, torch.amax
        )


def _fit_moments(model, evidence, codes, chosen):
    ratios = [model.likelihood_ratios(block) for block in evidence]
    for index in range(len(model.levels)):
        value = torch.cat([block[index] for block in ratios])
        profile = model.likelihood_profile(index)
        for code in chosen.tolist():
            profile[:, code] = _profile(value[codes == code])
        value = value - profile.T[codes]
        if model.levels[index].has_one_position:
            value = _clipped_inside(value, codes)
        location = _per_class(chosen, codes, value, torch.mean)
        scale = _per_class(chosen, codes, value, _spread)
        if model.levels[index].has_one_position:
            counts = torch.bincount(codes.cpu(), minlength=model.n_classes)[chosen].to(value)
            location = _with_borrowed(location, value.mean(), counts)
            scale = _with_borrowed(scale, _spread(value), counts)
        model.likelihood_location[index, chosen] = location
        model.likelihood_scale[index, chosen] = scale
    if evidence[0].entropies[0] is None:
        return
    log_entropies = (
        model.log_entropy(model.entropy_anomaly(block.entropies, block.codes)) for block in evidence
    )
    log_entropy = torch.cat(list(log_entropies))
    model.log_entropy_location[chosen] = _per_class(chosen, codes, log_entropy, torch.mean)
    model.log_entropy_scale[chosen] = _per_class(chosen, codes, log_entropy, _spread)


def _fit_framed(model, evidence, chosen):
    """Do the same with the positions inside alone, of maps of any size."""
    ratios = [model.likelihood_ratios(block) for block in evidence]
    is_maximum = model.normalization == "exponential"
    for index in range(len(model.levels)):
        values = [block[index] for block in ratios]
        if not is_maximum:
            fit_profiles(model, index, evidence, values, chosen, PROFILE_PRIOR_SAMPLES)
            values = [
                value - model.profile_of(index, block.codes, block.frame)
                for value, block in zip(values, evidence, strict=True)
            ]
        value, codes = flat(values, evidence, index)
        statistic = torch.amax if is_maximum else torch.mean
        model.likelihood_location[index, chosen] = _per_class(chosen, codes, value, statistic)
        if not is_maximum:
            model.likelihood_scale[index, chosen] = _per_class(chosen, codes, value, _spread)
        elif evidence[0].entropies[index] is not None:
            negative, codes = flat([-b.entropies[index] for b in evidence], evidence, index)
            model.entropy_location[index, chosen] = _per_class(chosen, codes, negative, torch.amax)
    if is_maximum or evidence[0].entropies[0] is None:
        return
    log_entropy, codes = flat_grid(
        [model.log_entropy(model.entropy_anomaly(b.entropies, b.codes, b.frame)) for b in evidence],
        evidence,
    )
    model.log_entropy_location[chosen] = _per_class(chosen, codes, log_entropy, torch.mean)
    model.log_entropy_scale[chosen] = _per_class(chosen, codes, log_entropy, _spread)


def _fit_background(model, evidence, codes, background_weight):
    if not background_weight:
        return
    for index in range(len(model.levels)):
        likelihood = [block.likelihoods[index] for block in evidence]
        background = [block.backgrounds[index] for block in evidence]
        if any(block is None for block in background):  # with few vectors, maybe of one fold alone
            continue
        if evidence[0].frame is None:
            likelihood, background = torch.cat(likelihood), torch.cat(background)
        else:
            likelihood, codes = flat(likelihood, evidence, index)
            background, _ = flat(background, evidence, index)
        slope = _slope_within(likelihood, background, codes)
        model.background_slope[index] = background_weight * slope
        model.background_floor[index] = background.min()


def _slope_within(values, predictor, codes):
    """Slope of the regression of `values` on `predictor` inside the classes, from 0 to 3.

    Values far from the median of their class are clipped, because a few anomalies among the normals
    would decide the slope alone. With few vectors the slope shrinks towards 1, that of the
    likelihood ratio. A background that hardly differs within a class would have a steep slope,
    which magnifies noise.
    """
    values, predictor = values.double().clone(), predictor.double().clone()
    for code in codes.unique().tolist():
        chosen = codes == code
        values[chosen] = _centered(values[chosen])
        predictor[chosen] = _centered(predictor[chosen])
    variance = predictor.square().sum()
    slope = (values * predictor).sum() / variance
    known = values.numel() / (values.numel() + _SLOPE_PRIOR_VECTORS)
    slope = known * slope + (1 - known)
    return torch.where(variance > 0, slope, torch.zeros_like(slope)).clamp(0, _STEEPEST_SLOPE)


def _centered(values):
    """Clip to 3 robust standard deviations from the median, then center."""
    values = _clipped(values, 3)
    return values - values.mean()


def _clipped_inside(values, codes):
    """Clip the values of each class, so that a few anomalies do not set its unit.

    A class of which half the values are equal stays.
    """
    values = values.clone()
    for code in codes.unique().tolist():
        own = _clipped(values[codes == code], _REACH)
        if own.amin() < own.amax():
            values[codes == code] = own
    return values


def _clipped(values, reach):
    """Clip to so many robust standard deviations from the median."""
    median = _median(values)
    reach = reach * 1.4826 * _median((values - median).abs())
    return values.clamp(median - reach, median + reach)


def _median(values):
    """Median; of an even number of values, the mean of the two in the middle."""
    return (values.median() - (-values).median()) / 2


def _per_class(chosen, codes, values, statistic):
    """Compute `statistic` of each chosen class; of all values for a class without any."""
    overall = statistic(values)
    return torch.stack(
        [
            statistic(values[codes == code]) if (codes == code).any() else overall
            for code in chosen.tolist()
        ]
    )


def _with_borrowed(own, overall, counts):
    """Draw constants of classes of so many vectors towards that of all vectors.

    Calibration vectors are compared with the constants that they gave. The mean of one vector is
    that vector, and of two both are as far away as their spread: they would look more usual than
    any fresh one.
    """
    return (counts * own + _BORROWED_VECTORS * overall) / (counts + _BORROWED_VECTORS)


def _profile(values):
    """Mean at each position less the mean of all positions, shrunk to 0 for few samples (rows).

    Calibration samples are compared with the profile that they gave. The shrinkage limits the
    effect of one, so that their scores stay like those of fresh samples.
    """
    if not len(values):
        return 0
    known = len(values) / (len(values) + PROFILE_PRIOR_SAMPLES)
    return known * (values.mean(0) - values.mean())


def _spread(values):
    spread = values.std(correction=0)
    return torch.where(spread > SMALLEST_SPREAD, spread, torch.ones_like(spread))
