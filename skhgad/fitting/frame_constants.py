"""Constants of anomaly maps from the positions that lie inside, of maps of any size."""

import torch

from ..scoring.frames import profile_weights


def flat(values, evidence, index):
    """Join the values inside of a level, and the class of each: two Tensors (n,).

    `values` holds a Tensor (n_pictures, n_positions) for each Evidence.
    """
    insides = [block.frame.inside[index] for block in evidence]
    return _flat(values, evidence, insides)


def flat_grid(values, evidence):
    """Do the same with maps (n_pictures, height, width) on the grid."""
    return _flat(values, evidence, [block.frame.grid for block in evidence])


def _flat(values, evidence, insides):
    found, codes = [], []
    for value, inside, block in zip(values, insides, evidence, strict=True):
        found.append(value[inside])
        counts = inside.flatten(1).sum(1)
        codes.append(block.codes.repeat_interleave(counts))
    return torch.cat(found), torch.cat(codes)


def profile_sums(model, index, evidence, values):
    """Sum the values inside at each position of the profile of a level, of each class.

    Three Tensors (n_classes, n_positions), float64: sums, weights and numbers of pictures. The
    values of tiles are interpolated to one map of the whole picture, which has the size of the map
    of one tile, and summed there.
    """
    map_shape = model.levels[index].map_shape
    totals = torch.zeros(*model.likelihood_profile(index).T.shape, dtype=torch.float64)
    weights, pictures = torch.zeros_like(totals), torch.zeros_like(totals)
    for value, block in zip(values, evidence, strict=True):
        inside, value = block.frame.inside[index].cpu(), value.cpu()
        kept = torch.where(inside, value, torch.zeros_like(value)).double()
        weight = inside.double()
        if block.frame.layout is not None:
            rows, columns = profile_weights(
                block.frame.layout, tuple(map_shape), torch.float64, torch.device("cpu")
            )
            shape = len(rows), len(columns)
            kept, weight = (
                (rows.T @ part.unflatten(1, shape) @ columns).flatten(1) for part in (kept, weight)
            )
        codes = block.codes.cpu()
        totals.index_add_(0, codes, kept)
        weights.index_add_(0, codes, weight)
        pictures.index_add_(0, codes, (weight > 0).double())
    return totals, weights, pictures


def fit_profiles(model, index, evidence, values, chosen, prior_samples):
    """Set the profile of a level: how the mean at each position differs from that of all.

    The fewer pictures have a position inside, the more its value is shrunk to 0.
    """
    profile = model.likelihood_profile(index)
    totals, weights, pictures = profile_sums(model, index, evidence, values)
    for code in chosen.tolist():
        has_any = weights[code] > 0
        if not has_any.any():
            profile[:, code] = 0
            continue
        mean = totals[code].sum() / weights[code].sum()
        known = pictures[code] / (pictures[code] + prior_samples)
        offset = known * (totals[code] / weights[code].clamp_min(1e-12) - mean)
        profile[:, code] = torch.where(has_any, offset, torch.zeros_like(offset)).to(profile)
