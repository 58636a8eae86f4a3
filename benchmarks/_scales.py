"""A peer at several image scales: calibrated class by class on left-out normals, then summed.

This is what HGADDetector does with its levels. The peer is told the class of each test sample.
"""

import time

import numpy as np
import torch

from skhgad.fitting.class_scales import fit_class_scales, left_out_scores
from skhgad.scoring.calibration import threshold
from skhgad.scoring.maps import added

from .peers import make_peer, scores_and_maps

N_FOLDS = 5  # that left-out normals are judged in


def run_scales_summed(bench, key, seed):
    """Fit a peer for each class and image scale, and sum their calibrated maps.

    Every scale's maximum is measured by those of the normals of the class that the peer was not
    fitted to: less their median, over their mean excess above it. The score is the sum over the
    scales, and the sums of all classes are brought to one scale likewise. With one scale, this
    calibrates the classes alone.

    Parameters
    ----------
    bench : Bench
    key : str
        Of a peer on features.
    seed : int

    Returns
    -------
    dict
        From `record_run`; with a threshold for 5 % false alarms.
    """
    part, scales = bench.part, bench.train.n_scales
    train_codes, test_codes = part.codes(part.class_train), part.codes(part.class_test)
    left_out = np.empty((len(train_codes), scales))
    peaks, maps = np.empty((len(test_codes), scales)), [None] * scales
    seconds = np.zeros(2)
    for index in range(scales):
        train, test = bench.train.of_scale(index), bench.test.of_scale(index)
        maps[index] = torch.zeros(len(test_codes), *test.map_size)
        for code in range(len(part.classes)):
            normals = np.flatnonzero(train_codes == code)
            samples = np.flatnonzero(test_codes == code)
            start = time.perf_counter()
            left_out[normals, index] = _left_out_peaks(key, part.is_images, train, normals, seed)
            peer = make_peer(key, part.is_images, 1).fit(train, normals, seed)
            fitted = time.perf_counter()
            if len(samples):
                scores, maps[index][samples] = scores_and_maps(peer, test, samples)
                peaks[samples, index] = -scores
            seconds += fitted - start, time.perf_counter() - fitted
    weights = np.ones(scales)
    constants = fit_class_scales(left_out, train_codes, len(part.classes), weights)
    held_out = -left_out_scores(left_out, train_codes, weights)
    return bench.record(
        seed,
        -constants.scores(peaks, test_codes, weights),
        _calibrated_sum(torch.stack(maps), constants, test_codes),
        offset=threshold(held_out),
        fit_seconds=seconds[0],
        score_seconds=seconds[1],
    )


def _left_out_peaks(key, is_images, features, rows, seed):
    """Return the peaks of normals, each by a peer fitted without its fold."""
    folds = np.random.RandomState(seed).permutation(len(rows)) % min(N_FOLDS, len(rows))
    peaks = np.empty(len(rows))
    for fold in np.unique(folds):
        own = folds == fold
        seen = rows[~own] if len(rows) > 1 else rows
        peer = make_peer(key, is_images, 1).fit(features, seen, seed)
        peaks[own] = -scores_and_maps(peer, features, rows[own])[0]
    return peaks


def _calibrated_sum(maps, constants, codes):
    """Sum maps (n_scales, n, height, width) as HGADDetector sums its levels, see `maps.added`."""
    location, scale, score_location, score_scale = (
        torch.from_numpy(values[..., codes]).to(maps)[..., None, None] for values in constants
    )
    return (added((maps - location) / scale) - score_location) / score_scale
