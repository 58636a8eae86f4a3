"""Where the latent maps of samples would lie if the model had not been fitted to them."""

import numpy as np
import torch

_MOST_MAPS = 100  # of a class; of more, fresh maps lie hardly farther out
# Smallest value of 1 - leverage. What sets a direction of the covariance alone would otherwise be
# moved infinitely far out.
LEAST_LEFT = 0.05


class LeftOutMaps:
    """Moves the latent maps of one level away from the center of their class.

    A model has measured center and covariance of a class on the maps that it was fitted to, too,
    so that fresh ones lie farther out: of few samples, several times as far. The vectors of one map
    are taken out of the covariance together, as `left_out_distances` takes out one. The maps of a
    class with many samples or several centers stay.

    Parameters
    ----------
    level : LevelModel
        Fitted to the samples.
    samples : LabelledSamples
    index : int
        Of the level.
    """

    def __init__(self, level, samples, index):
        self.samples, self.index, self.parts = samples, index, {}
        counts = np.bincount(samples.codes[samples.rows], minlength=len(level.n_centers))
        for code, n_centers in enumerate(level.n_centers.tolist()):
            if n_centers != 1 or level.densities is None or not 1 < counts[code] <= _MOST_MAPS:
                continue
            n_vectors = float(level.densities.n_vectors[code])
            if n_vectors > 0:
                growth = counts[code] / (counts[code] - 1)
                self.parts[code] = *level.first_center(code), n_vectors, growth

    def __call__(self, rows, z):
        """Return the latent maps z (n, n_positions, n_axes) of rows as if left out."""
        inside, moved = self.samples.cache.read_inside(self.index, rows), z.clone()
        for place, code in enumerate(self.samples.codes[rows].tolist()):
            if code in self.parts:
                chosen = slice(None) if inside is None else inside[place].to(z.device)
                moved[place, chosen] = self._moved(z[place, chosen], *self.parts[code])
        return moved

    def _moved(self, z, center, whitener, n_vectors, growth):
        center, whitener = (v.to(z.device, torch.float64) for v in (center, whitener))
        rest = z.double() - center
        units = rest @ whitener
        if len(rest) <= rest.shape[1]:
            rest = _root_without(units @ units.T / n_vectors) @ rest
        else:
            root = _root_without(units.T @ units / n_vectors)
            rest = torch.linalg.solve(whitener.T, (units @ root).T).T
        return (center + growth * rest).to(z)


def _root_without(share):
    """Return (I - share)^(-1/2) of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(torch.eye(len(share)).to(share) - share)
    return vectors / values.clamp_min(LEAST_LEFT).sqrt() @ vectors.T
