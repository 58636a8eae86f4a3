"""Scores of pictures that are seen in part: a region of interest, a padded picture or tiles."""

import tempfile

import numpy as np
import torch

from .frames import Frame, as_whole
from .scores import score_evidence
from .scoring_model import Evidence

_HELD_BYTES = 1 << 28  # of a picture's features in memory, while its class is being inferred


def scored_views(model, reader, views, codes=None, *, given=True):
    """Score the pictures of a ViewSource.

    Parameters
    ----------
    model : ScoringModel
    reader : FeatureReader
    views : ViewSource
    codes : Tensor of shape (n_pictures,), int64, default=None
        Class of each picture; None = inferred.
    given : bool, default=True
        Whether the codes were given; else they were inferred before.

    Yields
    ------
    ScoredBatch
    """
    for evidence, pictures in judged_pictures(model, reader, views, codes):
        if codes is not None and not given:
            evidence = evidence._replace(typicality=model.typicality(evidence))
        batch = score_evidence(model, evidence, [views.layout(i).size for i in pictures])
        yield batch._replace(pictures=[(views.layout(i), _mask_of(views, i)) for i in pictures])


def _mask_of(views, picture):
    return lambda: views.mask(picture)


def judged_pictures(model, reader, views, codes=None):
    """Yield the Evidence of pictures, and which pictures they are; parameters as above."""
    if views.is_tiled:
        yield from _judged_tiles(model, reader, views, codes)
        return
    first = 0
    for features, inside in reader.view_batches(views):
        pictures = range(first, first + len(features[0]))
        first = pictures.stop
        given = None if codes is None else codes[pictures.start : pictures.stop].to(reader.device)
        frame = frame_of_maps(views, pictures, inside, model.map_size)
        yield model.evidence(features, given, frame), pictures


def frame_of_maps(views, pictures, inside, map_size):
    """Return the Frame of pictures that are one map each."""
    grid = np.stack([views.grid_inside(picture, tuple(map_size)) for picture in pictures])
    return Frame(inside, torch.from_numpy(grid).to(inside[0].device))


def _judged_tiles(model, reader, views, codes):
    """Judge picture by picture, and of each some tiles at a time."""
    starts = np.searchsorted(views.picture_of, np.arange(views.n_pictures + 1))
    infers = codes is None and model.n_classes > 1
    for picture in range(views.n_pictures):
        rows = np.arange(starts[picture], starts[picture + 1])
        quiet = picture > 0
        if not infers:
            code = 0 if codes is None else int(codes[picture])
            parts = _judged_parts(model, reader.view_batches(views, rows, quiet=quiet), code)
        else:
            parts = _inferred_parts(model, reader.view_batches(views, rows, quiet=quiet))
        evidence = picture_evidence(model, views, picture, views.tile_of[rows], parts)
        if codes is None:
            evidence = evidence._replace(typicality=model.typicality(evidence))
        yield evidence, [picture]


def _judged_parts(model, batches, code):
    """Return the Evidence of all tiles of a picture, joined, under a class."""
    parts, insides = [], []
    for features, inside in batches:
        codes = torch.full((len(features[0]),), code, device=features[0].device)
        parts.append(model.evidence(features, codes))
        insides.append(inside)
    return Evidence.joined(parts), [torch.cat(level) for level in zip(*insides, strict=True)]


def _inferred_parts(model, batches):
    """Infer the class from all tiles, then judge them under it."""
    held, likelihoods = _Held(), 0
    for features, inside in batches:
        latents = [level.latent(x)[0] for level, x in zip(model.levels, features, strict=True)]
        likelihoods = likelihoods + model.class_log_likelihoods(latents, inside).sum(0)
        held.add(features, inside)
    return _judged_parts(model, held, int(likelihoods.argmax()))


class _Held:
    """The features of a picture's tiles: in memory, or beyond some bytes in files without names."""

    def __init__(self):
        self.n_bytes, self.parts = 0, []

    def add(self, features, inside):
        """Keep a batch."""
        size = sum(x.nbytes for x in features)
        self.n_bytes += size
        if self.n_bytes > _HELD_BYTES:
            features = [_on_disk(x) for x in features]
        self.parts.append((features, inside))

    def __iter__(self):
        """Return the batches as they came."""
        for features, inside in self.parts:
            device = inside[0].device
            yield [torch.as_tensor(x).to(device) for x in features], inside


def _on_disk(x):
    with tempfile.TemporaryFile(prefix="skhgad-tiles-") as file:
        file.truncate(max(1, x.nbytes))
        array = np.memmap(file, np.float32, "r+", shape=tuple(x.shape))
    array[...] = x.cpu().numpy()
    array.flush()
    return array


def picture_evidence(model, views, picture, tiles, judged):
    """Return the Evidence of one picture from that of its tiles.

    Parameters
    ----------
    model : ScoringModel
    views : ViewSource
    picture : int
    tiles : ndarray of shape (n,), int
        Those that were judged; the others lie outside.
    judged : tuple (Evidence, list of bool Tensor)
        Of these tiles, one row each, under one class; and which positions lie inside.

    Returns
    -------
    Evidence
        Of one sample; without typicality.
    """
    evidence, inside = judged
    layout = views.layout(picture)
    shapes = [level.map_shape for level in model.levels]

    def all_levels(values):
        if values is None:
            return None
        return [
            None if level is None else as_whole(level, tiles, layout, shape)
            for level, shape in zip(values, shapes, strict=True)
        ]

    grid = torch.from_numpy(views.grid_inside(picture, tuple(model.map_size)))[None]
    frame = Frame(all_levels(inside), grid.to(inside[0].device), layout)
    parts = (evidence.likelihoods, evidence.backgrounds, evidence.entropies)
    defects = all_levels(evidence.defects)
    return Evidence(evidence.codes[:1], *map(all_levels, parts), defects=defects, frame=frame)
