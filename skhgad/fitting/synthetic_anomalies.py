"""Pictures with a defect painted in, from which a fit learns what its levels count.

A level that sees fine detail finds a scratch on a board; one that sees the whole finds a stain on a
tile. Which of them tells defects from the variety of the normals is a property of the product.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ..images.synthetic import SyntheticAnomalies
from .class_scales import class_scales, common_scales
from .judged_samples import JudgedSamples
from .known_defects import known_defects
from .pictures import seen_at_fit
from .samples import LabelledSamples

# Of each class: one for each so many normals, not more than the most; with less than the fewest
# the weights would follow chance.
_NORMALS_FOR_ONE = 8
_MOST, _FEWEST = 24, 6
_HIGHEST = 10  # peak that counts: one glaring defect must not outweigh the others
_LEAST = 0.1  # weight of a level, as a share of the largest


@dataclass(frozen=True)
class Synthetic:
    """Synthetic anomalies, each painted into a normal picture.

    Attributes
    ----------
    samples : LabelledSamples
        With the classes of these pictures.
    groups : ndarray of shape (n_rows,), int
        Number of the group of spared samples that holds the picture of each row: models without
        this group judge the row.
    """

    samples: LabelledSamples
    groups: np.ndarray

    def of_group(self, group):
        """Return the samples of one group."""
        return self.samples.chosen(np.flatnonzero(self.groups == group))

    def weigh(self, model, evidence):
        """Return a function that sets what the levels of a model count, see `calibrate`.

        `evidence` holds pairs of Evidence of the synthetic anomalies, as from `evidence_of`.
        """
        judged = JudgedSamples(self.samples, [given for _, given in evidence])

        def weigh(peaks, codes):
            found, terms = judged.peaks(model, None), model.term_weights
            common = common_scales(peaks, codes, terms)
            factors = model.level_weights.double().cpu().numpy()
            for code in np.unique(judged.codes):
                scales = class_scales(peaks[codes == code], terms, common)
                own = scales.in_units(found[judged.codes == code])
                factors[:-1, code] = weights_by_height(own[:, :-1])
            model.level_weights.copy_(model.level_weights.new_tensor(factors))
            return factors, factors[:, codes]

        return weigh


def weights_by_height(peaks):
    """Return the weights (n_levels,) of levels, of mean 1, in proportion to the mean peak.

    Parameters
    ----------
    peaks : ndarray of shape (n_anomalies, n_levels)
        Above the median of normals, in units of the scatter of normals. Of independent levels with
        scatter 1, the sum with these weights tells anomalies from normals best.
    """
    heights = np.clip(peaks, 0, _HIGHEST).mean(0)
    if not heights.any():  # no level sees them
        return np.ones(len(heights))
    weights = np.maximum(heights, _LEAST * heights.max())
    return weights / weights.mean()


@contextmanager
def synthetic_anomalies(reader, images, normal, spared, normals, parameters, regions, seed):
    """Enter the Synthetic of the classes with enough normal pictures; None if there is none.

    Parameters
    ----------
    reader : FeatureReader
    images : ImageSource
    normal : ndarray of int
        Numbers of the normal pictures among `images`.
    spared : ndarray of shape (n_groups, n_normal), bool
        As from `folds.spare`.
    normals : LabelledSamples
        The normals.
    parameters : dict
        Of the estimator.
    regions : list of Region, or None
        Region of interest of each picture of `images`; see `regions_by_code`.
    seed : int
    """
    codes = normals.of_pictures(normals.codes)
    chosen = np.empty(0, dtype=np.int64)
    if can_weigh_levels(reader, parameters):
        chosen = some_of_each_class(codes, spared.any(axis=0), seed)
    if not len(chosen):
        yield None
        return
    painted = SyntheticAnomalies(images, seed, regions)
    of_all = np.full(len(images), -1)
    of_all[normal] = codes
    rows = normal[chosen]
    seen, _, _ = seen_at_fit(reader, painted, of_all, rows, parameters, regions)
    with known_defects(reader, seen, rows, None, parameters, normals) as found:
        samples = replace(found.samples, codes=found.samples.by_row(codes[chosen]))
        yield Synthetic(samples, samples.by_row(spared[:, chosen].argmax(axis=0)))


def can_weigh_levels(reader, parameters):
    """Whether the score of a sample will be a sum of levels whose scales are those of classes.

    In tiles of large pictures, the defects of interest are smaller than those painted here.
    """
    return (
        parameters["synthetic_anomalies"] == "auto"
        and parameters["class_calibration"]
        and parameters["map_normalization"] == "standardized"
        and parameters["criterion"] != "entropy"
        and parameters["tile_size"] is None
        and reader.extractor is not None
        and len(reader.extractor.levels) > 1
    )


def some_of_each_class(codes, is_spared, seed):
    """Return which normal pictures get a defect, sorted: some that a model has not seen.

    `codes` holds the class of each normal picture; `is_spared` whether a model leaves it out.
    """
    rng, chosen = np.random.default_rng(seed), [np.empty(0, dtype=np.int64)]
    for code in np.unique(codes):
        n = min(_MOST, np.count_nonzero(codes == code) // _NORMALS_FOR_ONE)
        judged = np.flatnonzero((codes == code) & is_spared)
        if min(n, len(judged)) >= _FEWEST:
            chosen.append(rng.permutation(judged)[:n])
    return np.sort(np.concatenate(chosen))
