"""The mean of each sample, or picture, over the positions of a level."""

import numpy as np


def level_means(samples, levels=None):
    """Return the mean over positions of levels, a list of float64 ndarrays (n, n_features).

    None = of all. Of views of pictures, those of the pictures.
    """
    cache, parts = samples.cache, []
    for level in range(cache.n_levels) if levels is None else levels:
        means = [x.mean(1).numpy() for (x,), _ in samples.blocks([level])]
        means = cache.processes.gather_rows(np.concatenate(means).astype(np.float64), samples.rows)
        if samples.pictures is not None:
            means = _means_of_pictures(means, samples, level)
        parts.append(means)
    return parts


def _means_of_pictures(means, samples, level):
    """Return means (n_pictures, n_features) of pictures from those of their views.

    Outside, views repeat what they have inside; a view counts by how much of it lies inside.
    """
    pictures, cache = samples.pictures, samples.cache
    own = cache.processes.own(samples.rows)
    counts = cache.read_inside(level, own).double().sum(1).numpy()
    counts = cache.processes.gather_rows(counts, samples.rows)
    numbers = pictures.samples[samples.rows]
    total = np.zeros((numbers.max() + 1, means.shape[1]))
    np.add.at(total, numbers, means * counts[:, None])
    return total / np.bincount(numbers, counts)[:, None].clip(1)
