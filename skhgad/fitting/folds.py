"""Which normal samples are spared from a training, to calibrate the model."""

import numpy as np

FEWEST = 5  # samples of a class of which some can be spared
N_FOLDS = 10
HELD_OUT = 0.2  # share of a class that "auto" holds out where it does not cross-fit
_ENOUGH = 400  # samples of a class, of which a fifth is enough for the calibration
# Of wide vectors. A fifth is then 19, the fewest that can promise 5 % false alarms.
_ENOUGH_WIDE = 95
_WIDE = 2  # features for each sample of a class


def enough_to_hold_out(codes, *, is_trained, n_features=None, is_plain=True):
    """Return from how many samples of a class "auto" holds some out, and does not cross-fit.

    Models without a fold cost most where vectors have many more features than a class has samples.
    There a left-out vector lies farther from its class than a fresh one, by another factor in every
    class, so that the scales of several classes do not match; and what they teach of known
    anomalies holds less for the model that scores.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), int
        Class of each sample.
    is_trained : bool
        Cross-fitting would train ten more times.
    n_features : int, default=None
        Of vectors; None = of images, where wide levels cost no more.
    is_plain : bool, default=True
        Whether the model has one class only, and no known anomalies correct it.
    """
    if is_trained:
        return 0
    counts = np.bincount(codes)
    counts = counts[counts > 0]
    if n_features is None or is_plain or n_features <= _WIDE * np.median(counts):
        return _ENOUGH
    return _ENOUGH_WIDE


def spare(codes, fraction, *, enough, random_state, parts=None):
    """Choose the groups of samples that calibrate a model, each judged by one that left it out.

    A class of fewer than 5 samples spares none. Groups of other classes are drawn by chance, in
    every class the same share.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), int
        Class of each sample.
    fraction : float, "cross" or "auto"
        `validation_fraction` of the estimator.
    enough : int
        "auto" is "cross" where half of the classes have fewer samples; see `enough_to_hold_out`.
    random_state : RandomState
    parts : Parts, default=None
        The samples of one part stay together, and parts are counted in place of samples. None =
        each sample is its own.

    Returns
    -------
    ndarray of shape (n_groups, n_samples), bool
        One group: the held-out samples. Several: each sample is in one, for cross-fitting.
        None: nothing is spared.
    """
    if parts is not None:
        first, part = parts.firsts()
        found = spare(codes[first], fraction, enough=enough, random_state=random_state)
        return found[:, part]
    if fraction == "auto":
        counts = np.bincount(codes)
        counts = counts[counts >= FEWEST]
        has_few = len(counts) and np.median(counts) < enough
        fraction = "cross" if has_few else HELD_OUT
    if fraction == "cross":
        groups = cross_folds(codes, N_FOLDS, random_state) == np.arange(N_FOLDS)[:, None]
    else:
        groups = hold_out(codes, fraction, random_state)[None]
    return groups[groups.any(axis=1)]


def hold_out(codes, fraction, random_state):
    """Choose, in every class, the samples kept from training for calibration.

    Returns a bool ndarray of the shape of `codes`, True = held out. `fraction` lies in [0, 1).
    """
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        n_held = round(fraction * len(rows)) if len(rows) >= FEWEST else 0
        if fraction > 0 and len(rows) >= FEWEST:
            n_held = max(1, n_held)
        held_out[random_state.permutation(rows)[:n_held]] = True
    return held_out


def cross_folds(codes, n_folds, random_state):
    """Divide the samples of every class evenly into folds.

    Returns the fold of each sample, an int ndarray of the shape of `codes`; -1 for those of a class
    that spares none.
    """
    folds = np.full(len(codes), -1)
    for code in np.unique(codes):
        rows = random_state.permutation(np.flatnonzero(codes == code))
        if len(rows) >= FEWEST:
            folds[rows] = np.arange(len(rows)) % n_folds
    return folds
