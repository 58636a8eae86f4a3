"""What a fit of feature vectors chose, which the fits without a fold take over."""

from dataclasses import dataclass

import numpy as np
import torch

from ..model.feature_powers import FeaturePowers
from ..model.nearest import NearestNormals
from .class_mixtures import (
    background_shrinkage,
    drawn_of_all,
    has_heavy_tails_within,
    latent_vectors,
)
from .mixture_choice import AUTO, FEW, names_of
from .modes import find_modes


@dataclass(frozen=True)
class VectorChoices:
    """Decisions of a fit that could be others with a few samples more or less.

    The models that judge the folds take them over. If they decided otherwise than the model that
    scores, the samples that they judge would have scores of another scale.

    Attributes
    ----------
    powers : FeaturePowers or None
    shrinkage : float or None
        Of the start; None: it was not whitened.
    modes : ndarray of shape (n_cached,), int64
        Mode of each vector within its class, see `find_modes`, by its row in the feature cache.
    heavy_tails : bool, default=False
        See `fit_gaussian`.
    background_shrinkage : float, default=None
        Of the Gaussian of all classes. None: there is none.
    names : list of int or str, default=None
        Candidate of each class, see `choose_mixtures`. None: centers were asked for.
    pseudo_counts : list of float, default=None
        What the prior counts as in each class of one covariance. None: there is no density.
    sizes : list of int, default=None
        How many vectors each class has. None: there is no density.
    nearest : NearestNormals, default=None
        With axes and units of distances, see `keep_vectors`. None: no vectors are kept.
    """

    powers: FeaturePowers | None
    shrinkage: float | None
    modes: np.ndarray
    heavy_tails: bool = False
    background_shrinkage: float | None = None
    names: list | None = None
    pseudo_counts: list | None = None
    sizes: list | None = None
    nearest: NearestNormals | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, level, samples, n_components, seed):
        """Return what a level chose that was fitted to LabelledSamples."""
        densities, own = level.densities, samples.level(0)
        (x, codes), parts = own.vectors(), own.parts()
        powered = level.start.powered(x.to(level.start.mean.device)).cpu()
        modes = find_modes(powered, codes, samples.n_classes, seed, parts)
        of_rows = np.zeros(len(samples.codes), dtype=np.int64)
        of_rows[own.rows()] = modes.numpy()
        of_start = level.start.powers, level.start.shrinkage, of_rows
        if densities is None:
            return cls(*of_start)
        n, share = densities.n_vectors.double(), densities.shrinkages.double()
        pseudo = torch.where(share < 1, n * share / (1 - share), torch.inf)
        counts = torch.bincount(codes, minlength=samples.n_classes).tolist()
        z = latent_vectors(level, x)
        heavy_tails, of_background = has_heavy_tails_within(z, codes, modes, parts), None
        if densities.has_background:
            of_background = background_shrinkage(*drawn_of_all(z, seed, parts), heavy_tails)
        return cls(
            *of_start,
            heavy_tails,
            of_background,
            names_of(densities, counts) if n_components in (AUTO, FEW) else None,
            pseudo.tolist(),
            counts,
            level.nearest,
        )

    def modes_of(self, samples):
        """Return the modes of the vectors of LevelSamples, in their order, int64 (n,)."""
        return torch.from_numpy(self.modes[samples.rows()])
