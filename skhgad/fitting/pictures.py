"""Normal pictures of which only views are cached: parts inside a region, padded pictures, tiles.

A row of the cache is a view; the samples are pictures. Everything that is counted in samples goes
through here: who is left out, which class a picture has, what is said of it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..features.framing import framed, regions_by_code
from ..images.augmentation import AugmentedSource, check_augmentation
from ..images.roi import ProductMasks
from ..images.views import ViewSource
from ..scoring.scoring_model import Evidence
from ..scoring.views import frame_of_maps, picture_evidence

_BLOCK = 32  # pictures of one map whose evidence is one block


@dataclass(frozen=True)
class Pictures:
    """Which picture each cached view belongs to.

    Attributes
    ----------
    views : ViewSource
    rows : ndarray of shape (n_cached,), int
        Number of each cached view in `views`.
    samples : ndarray of shape (n_cached,), int
        Number of its picture among the normal samples.
    """

    views: Any
    rows: np.ndarray
    samples: np.ndarray

    @classmethod
    def of(cls, views, normal):
        """Return the views of the pictures `normal`, sorted numbers of pictures in `views`."""
        rows = np.flatnonzero(np.isin(views.picture_of, normal))
        return cls(views, rows, np.searchsorted(normal, views.picture_of[rows]))

    def kept(self, is_kept):
        """Return the views of the pictures that a mask (n_pictures,) chooses."""
        of_views = is_kept[self.samples]
        numbers = np.cumsum(is_kept) - 1
        return Pictures(self.views, self.rows[of_views], numbers[self.samples[of_views]])

    def first_rows(self):
        """Return the first cached view of each picture."""
        return np.unique(self.samples, return_index=True)[1]


def seen_at_fit(reader, X, codes, normal, parameters, masks, *, with_anomalies=False):
    """Return X as the model will see it: changed by `augmentation`, framed and cut.

    The regions of known anomalies are left out unless `with_anomalies`; the masks of products say
    nothing of them, because their class is not known.

    Returns
    -------
    X : ndarray, ImageSource or ViewSource
    rows : ndarray of int
        Which of its samples, or views, are fitted.
    pictures : Pictures or None
        Of the views.
    """
    if reader.extractor is None:
        return X, normal, None
    if isinstance(masks, ProductMasks) and masks.is_common:  # classes may be yet to discover
        regions = masks.regions(np.zeros(len(codes), dtype=np.int64))
    else:
        regions = regions_by_code(masks, codes)
    if regions is not None and not with_anomalies:  # those of known anomalies are not read
        regions = [
            region if code >= 0 else None for region, code in zip(regions, codes, strict=True)
        ]
    amounts = check_augmentation(parameters["augmentation"])
    if amounts is not None:
        X = AugmentedSource(X, amounts)
    X = framed(X, reader.extractor, parameters, regions)
    if not isinstance(X, ViewSource):
        return X, normal, None
    pictures = Pictures.of(X, normal)
    return X, pictures.rows, pictures


def remembered(masks, n_classes):
    """Return the regions of interest that a model keeps for scoring, or None."""
    if not isinstance(masks, ProductMasks):
        return None
    return masks._replace(of_class=masks.of_class[:1] * n_classes) if masks.is_common else masks


def evidence_of_pictures(model, samples, device):
    """Compute the evidence of pictures, as `calibrate.evidence_of` does that of samples."""
    inferred = codes_of_pictures(model, samples, device)
    given = judged_views(model, samples, samples.rows, samples.codes, device)
    return _pairs(model, samples, samples.rows, given, inferred, device)


def inferred_evidence(model, samples, device):
    """Compute the evidence of pictures under the class inferred, a list of blocks."""
    codes = codes_of_pictures(model, samples, device)
    samples = replace(samples, codes=codes[samples.pictures.samples])
    given = judged_views(model, samples, samples.rows, samples.codes, device)
    return [found for found, _ in _pairs(model, samples, samples.rows, given, codes, device)]


def codes_of_pictures(model, samples, device):
    """Infer the class of each picture from its cached views; see `inferred_codes`."""
    processes = samples.cache.processes
    own = processes.own(samples.rows)
    likelihoods = torch.zeros(len(own), model.n_classes, dtype=torch.float64)
    for part, features, inside in _view_blocks(samples, samples.rows, device):
        latents = [level.latent(x)[0] for level, x in zip(model.levels, features, strict=True)]
        found = model.class_log_likelihoods(latents, inside)
        likelihoods[np.searchsorted(own, part)] = found.double().cpu()
    return inferred_codes(samples, own, likelihoods)


def left_out_evidence(model, samples, left_out, device):
    """Turn what models without a fold say of its views into evidence of pictures.

    `left_out` holds a LeftOut a level. Where a picture is taken for another class than its own,
    the models without its fold judge it under that class, too.
    """
    rows = left_out[0].rows
    inferred = inferred_codes(samples, rows, sum(level.class_likelihoods for level in left_out))
    parts = [(level.likelihoods, level.backgrounds, None, None) for level in left_out]
    given = _Judged.gathered(samples, [(rows, parts)])
    every = np.sort(np.concatenate(samples.cache.processes.gather([rows])))

    def judged(wrong, codes):
        own = samples.cache.processes.own(wrong)
        parts = [(level.judge(own, codes[own]), None, None, None) for level in left_out]
        return _Judged.gathered(samples, [(own, parts)])

    return _pairs(model, samples, every, given, inferred, device, judged)


def inferred_codes(samples, rows, likelihoods):
    """Return the class of each picture, from likelihoods (n, n_classes) of this process's views.

    ndarray of shape (n_pictures,); pictures without views here have the code -1.
    """
    pictures = samples.pictures
    found = samples.cache.processes.gather([(rows, likelihoods.double().numpy())])
    rows, values = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")  # sums that do not depend on the number of processes
    total = np.zeros((pictures.samples.max() + 1, values.shape[1]))
    np.add.at(total, pictures.samples[rows[order]], values[order])
    codes = total.argmax(axis=1)
    codes[np.setdiff1d(np.arange(len(codes)), pictures.samples[rows])] = -1
    return codes


class _Judged:
    """What is said of cached views: a dict from row to its place, and Tensors a level."""

    def __init__(self, places, parts):
        self.places, self.parts = places, parts

    @classmethod
    def gathered(cls, samples, found):
        """Join pairs (rows, a list of (likelihoods, backgrounds, entropies, defects) a level)."""
        found = samples.cache.processes.gather(found)
        rows = np.concatenate([part[0] for part in found]) if found else np.empty(0, int)
        levels = []
        for values in zip(*(part[1] for part in found), strict=True):
            levels.append(
                [None if v[0] is None else torch.cat(v) for v in zip(*values, strict=True)]
            )
        return cls({int(row): place for place, row in enumerate(rows)}, levels)

    def evidence(self, rows, codes):
        """Return the Evidence of some views, which have the `codes` (n,)."""
        places = torch.tensor([self.places[int(row)] for row in rows])
        *columns, defects = (
            [None if values is None else values[places] for values in kind]
            for kind in zip(*self.parts, strict=True)
        )
        defects = None if defects[0] is None else defects
        return Evidence(torch.as_tensor(codes), *columns, defects=defects)


def judged_views(model, samples, rows, codes, device):
    """Judge the cached views `rows`; `codes` holds the class of every cached view."""
    found = []
    for part, features, _ in _view_blocks(samples, rows, device):
        evidence = model.evidence(features, torch.from_numpy(codes[part]).to(device))
        evidence = evidence.to("cpu")
        defects = evidence.defects or [None] * len(features)
        kinds = evidence.likelihoods, evidence.backgrounds, evidence.entropies, defects
        found.append((part, list(zip(*kinds, strict=True))))
    return _Judged.gathered(samples, found)


def _view_blocks(samples, rows, device):
    """Yield rows, features, and which positions lie inside, of this process's views."""
    cache = samples.cache
    for part, features, _ in samples.chosen(rows).numbered_blocks(device=device):
        inside = [cache.read_inside(index, part).to(device) for index in range(cache.n_levels)]
        yield part, features, inside


def _pairs(model, samples, rows, given, inferred, device, judged=None):
    """Return pairs of Evidence of blocks of pictures, under the class inferred and the given.

    `judged`(rows, codes of all views) judges views under another class than their own; None = the
    model does.
    """
    pictures = samples.pictures
    wrong = rows[inferred[pictures.samples[rows]] != samples.codes[rows]]
    other = None
    if len(wrong):
        by_row = inferred[pictures.samples].astype(np.int64)
        if judged is None:
            other = judged_views(model, samples, wrong, by_row, device)
        else:
            other = judged(wrong, by_row)
    by_picture = {}
    for row in rows.tolist():
        by_picture.setdefault(int(pictures.samples[row]), []).append(row)
    pairs = []
    for block in _blocks_of(list(by_picture), pictures.views.is_tiled):
        own = np.concatenate([by_picture[picture] for picture in block])
        right = _evidence(model, pictures, own, given.evidence(own, samples.codes[own]))
        codes = inferred[block]
        if (codes == samples.codes[[by_picture[picture][0] for picture in block]]).all():
            found = right
        else:
            mixed = given.evidence(own, inferred[pictures.samples[own]])
            for place, row in enumerate(own.tolist()):
                if row in other.places:
                    one = other.evidence([row], [inferred[pictures.samples[row]]])
                    for kind, values in (
                        (mixed.likelihoods, one.likelihoods),
                        (mixed.entropies, one.entropies),
                        (mixed.defects or [], one.defects or []),
                    ):
                        for level, value in zip(kind, values, strict=True):
                            if value is not None:
                                level[place] = value[0]
            found = _evidence(model, pictures, own, mixed)
        judged = found._replace(typicality=model.typicality(found)).to(device)
        pairs.append((judged, judged if found is right else right.to(device)))
    return pairs


def _blocks_of(pictures, is_tiled):
    step = 1 if is_tiled else _BLOCK
    return [pictures[first : first + step] for first in range(0, len(pictures), step)]


def _evidence(model, pictures, rows, evidence):
    """Return the Evidence of the pictures of these views: of one in tiles, or of several maps."""
    views = pictures.views
    inside = [torch.from_numpy(i) for i in views.inside_of_views(pictures.rows[rows])]
    numbers = views.picture_of[pictures.rows[rows]]
    evidence = evidence._replace(rows=torch.from_numpy(rows))
    if views.is_tiled:
        tiles = views.tile_of[pictures.rows[rows]]
        found = picture_evidence(model, views, int(numbers[0]), tiles, (evidence, inside))
        return found._replace(rows=evidence.rows)
    frame = frame_of_maps(views, numbers.tolist(), inside, model.map_size)
    return evidence._replace(frame=frame)
