"""From features to class, evidence and anomaly map, every constant frozen at fit."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..budget import check_levels
from ..model.level import LevelModel
from ..parameters import asks_for_training, image_size
from .frames import Frame, blurred, median_inside, on_grid, profile_at
from .maps import added, gaussian_blur, resize

GRID_STRIDE = 4  # image pixels to one position of the map on which levels are summed
# Entropy of the class posterior, in nats, below which differences are numerical noise.
_ENTROPY_FLOOR = 1e-2
_COMMON = ("background", "novelty")  # how names of constants begin that all classes share
BLUR_REFERENCE = 256  # height of the map that `blur_sigma` refers to


class Evidence(NamedTuple):
    """Judgement of every position of a batch; one Tensor of shape (n, n_positions) a level."""

    codes: torch.Tensor  # (n,), int64
    likelihoods: list
    backgrounds: list
    entropies: list  # of None where likelihood is the only criterion
    # (n,): log-likelihood of the image under the inferred class, by the median position of each
    # level, which a local defect does not move; None where the class was given.
    typicality: torch.Tensor | None = None
    # What known defects add, see `DefectTerm`; None where they add nothing.
    defects: list | None = None
    # (n,): the samples by their number in a cache, during fit; of a picture in tiles, its views.
    rows: torch.Tensor | None = None
    # What lies inside; None: everything, and each sample is one map. Of tiles, the Tensors above
    # hold the positions of all tiles of one picture, see `frames.as_mosaic`.
    frame: Frame | None = None
    # (n,): of feature vectors, see `NearestNormals.novelty`; None where no vectors are kept.
    novelty: torch.Tensor | None = None

    @classmethod
    def joined(cls, parts):
        """Join the judgements of several batches of views, without typicality, rows and frame."""

        def join(name):
            if getattr(parts[0], name) is None:
                return None
            levels = zip(*(getattr(part, name) for part in parts), strict=True)
            return [None if level[0] is None else torch.cat(level) for level in levels]

        names = ("likelihoods", "backgrounds", "entropies")
        codes = torch.cat([part.codes for part in parts])
        return cls(codes, *map(join, names), defects=join("defects"))

    def to(self, device):
        """Return the same on a device."""
        return Evidence(*(_moved(values, device) for values in self))


def _moved(values, device):
    if isinstance(values, list):
        return [_moved(value, device) for value in values]
    return values if values is None else values.to(device)


class Terms(NamedTuple):
    """Summands or factors of the anomaly maps of a batch, on the model's grid, blurred."""

    likelihood: torch.Tensor | None  # (n_levels, n, height, width); None: criterion "entropy"
    entropy: torch.Tensor | None  # (n, height, width); None: criterion "likelihood"
    is_product: bool = False  # whether they are factors
    inside: torch.Tensor | None = None  # bool (n, height, width); None: everything
    # (n_levels, n): the largest value of each level among its own positions, which interpolation to
    # the grid would lower; None: that of its map.
    peaks: torch.Tensor | None = None

    def combined(self):
        """Return the maps, Tensor (n, height, width): see `maps.added`, or the product."""
        if not self.is_product:
            return added(self._summands(), self.inside, self._all_peaks())
        factors = [] if self.likelihood is None else [self.likelihood.sum(0)]
        factors += [] if self.entropy is None else [self.entropy]
        return torch.stack(factors).prod(0)

    def level_peaks(self):
        """Return the largest value of each level in each image, Tensor (n_levels, n)."""
        return self.likelihood.amax((2, 3)) if self.peaks is None else self.peaks

    def _all_peaks(self):
        """Return the peak of each summand in each image, Tensor (n_summands, n), or None."""
        if self.peaks is None or self.entropy is None:
            return self.peaks
        return torch.cat((self.peaks, self.entropy.amax((1, 2))[None]))

    def lift(self):
        """Return what the maps have beyond the sum of the terms; None for factors."""
        return None if self.is_product else self.combined() - self._summands().sum(0)

    def _summands(self):
        likelihood = () if self.likelihood is None else self.likelihood
        return torch.stack((*likelihood, *(() if self.entropy is None else (self.entropy,))))


class ScoringModel(nn.Module):
    """The fitted levels and the frozen constants that turn their output into scores.

    Parameters
    ----------
    levels : list of LevelModel
    map_size : tuple (height, width)
        Grid on which levels are summed, (1, 1) for feature vectors.
    criterion : {"likelihood_entropy", "likelihood", "entropy"}
        Likelihood alone, whatever is given, once a model that was fitted on a single class is
        frozen: the posterior of one class is never in doubt, and its entropy says nothing.
    normalization : {"standardized", "exponential"}
        "exponential": the published maps, exp(value - max), subtracted from their maximum and
        multiplied. "standardized": the negative log-likelihood of each level in standard
        deviations from the mean over normal samples of the class at the position, and the
        log-entropy likewise, from the mean over all positions. Each of these terms is brought to
        one scale by the peaks that it reaches in normal samples of the class; see `maps.added`.
    blur_sigma : float
        In pixels of a map 256 pixels high.
    entropy_weight : float, default=1.0
        Weight of the standardized log-entropy beside the likelihood of a level.
    """

    peak_location: torch.Tensor
    peak_scale: torch.Tensor
    level_weights: torch.Tensor
    score_location: torch.Tensor
    score_scale: torch.Tensor
    novelty_location: torch.Tensor
    novelty_weight: torch.Tensor

    def __init__(self, levels, map_size, criterion, normalization, blur_sigma, entropy_weight=1.0):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.map_size = tuple(map_size)
        self.criterion = criterion
        self.normalization = normalization
        self.blur_sigma = blur_sigma
        self.entropy_weight = entropy_weight
        n_levels, n_classes = len(self.levels), self.n_classes
        self.register_buffer("background_slope", torch.zeros(n_levels))
        self.register_buffer("background_floor", torch.full((n_levels,), -torch.inf))
        self.register_buffer("likelihood_location", torch.zeros(n_levels, n_classes))
        self.register_buffer("likelihood_scale", torch.ones(n_levels, n_classes))
        for index, level in enumerate(self.levels):
            # (n_positions, n_classes): mean of normal samples at a position less the overall mean.
            profile = torch.zeros(math.prod(level.map_shape), n_classes)
            self.register_buffer(f"likelihood_profile_{index}", profile)
        self.register_buffer("entropy_location", torch.zeros(n_levels, n_classes))
        self.register_buffer("log_entropy_location", torch.zeros(n_classes))
        self.register_buffer("log_entropy_scale", torch.ones(n_classes))
        # Affine maps per class: of the terms, the entropy's in the last row, and of their sum; see
        # `fitting.class_scales`.
        self.register_buffer("peak_location", torch.zeros(n_levels + 1, n_classes))
        self.register_buffer("peak_scale", torch.ones(n_levels + 1, n_classes))
        # What each term of a class counts beside `term_weights`; part of `peak_scale`.
        self.register_buffer("level_weights", torch.ones(n_levels + 1, n_classes))
        self.register_buffer("score_location", torch.zeros(n_classes))
        self.register_buffer("score_scale", torch.ones(n_classes))
        # Of feature vectors, for all classes: see `fitting.novelty`.
        self.register_buffer("novelty_location", torch.zeros(()))
        self.register_buffer("novelty_weight", torch.zeros(()))
        # One DefectTerm a level where known defects correct the evidence, else none.
        self.defect_terms = nn.ModuleList()

    def extended(self, levels, order):
        """Return the model with `levels` of more classes in place of its own.

        Parameters
        ----------
        levels : list of LevelModel
        order : Tensor of shape (n_classes,), int64
            Where each of their classes stands in the classes of this model, followed by the new.

        Returns
        -------
        ScoringModel
            The constants of new classes are means over this model's; they have no profile.
        """
        result = self._of_levels(levels)
        for name, values in self.named_buffers(recurse=False):
            if not name.startswith(_COMMON):  # a constant of each class, in the last axis
                n_new = len(order) - self.n_classes
                more = values.mean(-1, keepdim=True).expand(*values.shape[:-1], n_new)
                if name.startswith("likelihood_profile"):  # another product's says nothing
                    more = torch.zeros_like(more)
                if name == "level_weights":
                    more = torch.ones_like(more)
                values = torch.cat((values, more), dim=-1)[..., order]
            setattr(result, name, values.clone())
        result.defect_terms.extend(term.extended(order) for term in self.defect_terms)
        return result.requires_grad_(False)

    def without(self, codes):
        """Return the model without some classes, Tensor of int64; all others stay exactly."""
        kept = torch.ones(self.n_classes, dtype=torch.bool)
        kept[codes] = False
        levels = [
            LevelModel(
                level.start,
                level.flow,
                level.mixture.without(codes),
                level.map_shape,
                None if level.densities is None else level.densities.without(codes),
                None if level.nearest is None else level.nearest.without(codes),
            )
            for level in self.levels
        ]
        result = self._of_levels(levels)
        for name, values in self.named_buffers(recurse=False):
            is_of_classes = not name.startswith(_COMMON)
            setattr(result, name, values[..., kept] if is_of_classes else values.clone())
        result.defect_terms.extend(term.without(codes) for term in self.defect_terms)
        return result.requires_grad_(False)

    def _of_levels(self, levels):
        """Return a model of other levels with the settings of this one."""
        return ScoringModel(
            levels,
            self.map_size,
            self.criterion,
            self.normalization,
            self.blur_sigma,
            self.entropy_weight,
        )

    @property
    def n_classes(self):
        """Number of product classes."""
        return self.levels[0].mixture.means.shape[0]

    def freeze(self):
        """Prepare for scoring: settle the criterion, and see `CouplingBlocks.freeze`."""
        if (self.levels[0].mixture.generations == 0).sum() == 1:
            self.criterion = "likelihood"
        for level in self.levels:
            level.flow.freeze()

    def likelihood_profile(self, level):
        """Offsets of the positions of a level from its location, (n_positions, n_classes)."""
        return getattr(self, f"likelihood_profile_{level}")

    def evidence(self, features, codes=None, frame=None):
        """Judge every position, before any normalisation.

        Parameters
        ----------
        features : list of Tensor of shape (n, n_positions, n_features)
        codes : Tensor of shape (n,), int64, or None
            Class of each image; None = the one under which the whole image is most likely.
        frame : Frame, default=None
            What lies inside; None = everything.

        Returns
        -------
        Evidence
        """
        latents = [level.latent(x) for level, x in zip(self.levels, features, strict=True)]
        given = codes is not None
        if not given:
            codes = self.infer_codes([z for z, _ in latents], frame)
        parts = [
            level.evidence(*latent, codes, with_entropy=self.criterion != "likelihood")
            for level, latent in zip(self.levels, latents, strict=True)
        ]
        novelty = self.levels[0].novelty(features[0])
        evidence = Evidence(
            codes, *map(list, zip(*parts, strict=True)), frame=frame, novelty=novelty
        )
        if len(self.defect_terms):
            pairs = zip(self.defect_terms, latents, strict=True)
            evidence = evidence._replace(defects=[term(z, codes) for term, (z, _) in pairs])
        return evidence if given else evidence._replace(typicality=self.typicality(evidence))

    def infer_codes(self, latents, frame=None):
        """Return the class under which each image is most likely, Tensor (n,), int64.

        `latents` holds a Tensor (n, n_positions, n_features) a level.
        """
        if self.n_classes == 1:
            return torch.zeros_like(latents[0][:, 0, 0], dtype=torch.int64)
        inside = None if frame is None else frame.inside
        return self.class_log_likelihoods(latents, inside).argmax(1)

    def class_log_likelihoods(self, latents, inside=None):
        """Return the log-likelihoods of images under each class, Tensor (n, n_classes).

        Up to a constant of each image. Parameters as in `infer_codes`; `inside` holds a bool Tensor
        (n, n_positions) a level: the positions that count.
        """
        inside = [None] * len(latents) if inside is None else inside
        return sum(
            level.class_log_likelihood(z, chosen)
            for level, z, chosen in zip(self.levels, latents, inside, strict=True)
        )

    def typicality(self, evidence):
        """Log-likelihood of whole images from median positions, Tensor (n,); see `Evidence`."""
        if evidence.frame is not None:
            return sum(
                median_inside(values, inside) * math.prod(level.map_shape) * level.n_features
                for level, values, inside in zip(
                    self.levels, evidence.likelihoods, evidence.frame.inside, strict=True
                )
            )
        medians = [
            values.median(1).values * values.shape[1] * level.n_features
            for level, values in zip(self.levels, evidence.likelihoods, strict=True)
        ]
        return sum(medians)

    def forward(self, features, codes=None, frame=None):
        """Anomaly maps on the model's grid.

        Parameters
        ----------
        features : list of Tensor of shape (n, n_positions, n_features)
        codes : Tensor of shape (n,), int64, or None
            Class of each image; None = infer it.
        frame : Frame, default=None

        Returns
        -------
        maps : Tensor of shape (n, height, width)
            Higher = more anomalous. An image's anomaly score is the maximum of its map.
        codes : Tensor of shape (n,), int64
        """
        evidence = self.evidence(features, codes, frame)
        return self.maps(evidence), evidence.codes

    def maps(self, evidence):
        """Anomaly maps as from `forward`, from evidence."""
        location, scale = self.score_location[evidence.codes], self.score_scale[evidence.codes]
        maps = (self.raw_maps(evidence) - location[:, None, None]) / scale[:, None, None]
        if evidence.novelty is not None:
            maps = maps + self.novelty_term(evidence)[:, None, None]
        return maps

    def novelty_term(self, evidence):
        """Return what the novelty of feature vectors adds to their anomaly scores, Tensor (n,).

        It is measured in one unit for all classes: what is far from everything that is known is no
        more usual because the normals of its class lie far apart.
        """
        return (evidence.novelty - self.novelty_location) * self.novelty_weight

    def raw_maps(self, evidence):
        """Anomaly maps before the classes are put on one scale, Tensor (n, height, width)."""
        return self.terms(evidence).combined()

    def terms(self, evidence):
        """Return the parts of the raw map.

        "standardized": the likelihood of each level, and the weighted entropy, each in units of the
        peaks that it has in normal samples. "exponential": see `raw_terms`.
        """
        raw, codes = self.raw_terms(evidence), evidence.codes
        if raw.is_product:
            return raw
        location = self.peak_location[:, codes, None, None]
        scale = self.peak_scale[:, codes, None, None]
        likelihood = entropy = peaks = None
        if raw.likelihood is not None:
            likelihood = (raw.likelihood - location[:-1]) / scale[:-1]
        if raw.peaks is not None:
            peaks = (raw.peaks - location[:-1, :, 0, 0]) / scale[:-1, :, 0, 0]
        if raw.entropy is not None:
            entropy = self.entropy_weight * (raw.entropy - location[-1]) / scale[-1]
        return Terms(likelihood, entropy, inside=raw.inside, peaks=peaks)

    def raw_terms(self, evidence):
        """Return the terms before their peaks are put on one scale.

        "exponential": the two factors. That of the likelihood is the sum over levels of
        1 - normality, each in [0, 1]. That of the entropy is already such a sum.
        """
        likelihood, entropy, peaks, frame = None, None, None, evidence.frame
        is_product = self.normalization == "exponential"
        if self.criterion != "entropy":
            if is_product:
                maps = self._published_terms(evidence)
            else:
                values = self.standardized_ratios(evidence)
                maps = [self._on_grid(level, i, frame) for i, level in enumerate(values)]
            likelihood = torch.stack([self._blur(level, frame) for level in maps])
            is_one_map = self.map_size != (1, 1) and (frame is None or not frame.is_stitched)
            if is_one_map and not is_product:
                own = [self._own_peaks(level, i, frame) for i, level in enumerate(values)]
                peaks = torch.maximum(torch.stack(own), likelihood.amax((2, 3)))
        if self.criterion != "likelihood":
            entropy = self._entropy_map(evidence.entropies, evidence.codes, frame)
            entropy = self._blur(entropy, frame)
        inside = None if frame is None else frame.grid
        return Terms(likelihood, entropy, is_product, inside, peaks)

    @property
    def n_columns(self):
        """Columns of `peaks`."""
        weights = self.term_weights
        return (1 if weights is None else len(weights)) + self.levels[0].keeps_rows

    @property
    def term_weights(self):
        """Weight of each term in the sum, ndarray (n_levels + 1,); None where they are factors."""
        if self.normalization == "exponential":
            return None
        weights = np.full(len(self.levels) + 1, float(self.criterion != "entropy"))
        weights[-1] = self.entropy_weight * (self.criterion != "likelihood")
        return weights

    def peaks(self, evidence):
        """Return the largest value of each term in each image, Tensor (n, n_levels + 1).

        Before they are put on one scale. The last column is the entropy's; what is no term has 0.
        Factors have a single column, the peaks of their product. Where feature vectors are kept,
        one more column holds the `novelty_term`, which has its scale.
        """
        terms = self.raw_terms(evidence)
        if terms.is_product:
            return terms.combined().amax((1, 2))[:, None]
        n_levels = len(self.levels)
        peaks = self.peak_scale.new_zeros(len(evidence.codes), self.n_columns)
        if terms.likelihood is not None:
            peaks[:, :n_levels] = terms.level_peaks().T
        if terms.entropy is not None:
            peaks[:, n_levels] = terms.entropy.amax((1, 2))
        if evidence.novelty is not None:
            peaks[:, -1] = self.novelty_term(evidence)
        return peaks

    def likelihood_ratios(self, evidence):
        """Log-likelihoods less what the background predicts of them, one Tensor a level.

        Where known defects correct the evidence, what they add is subtracted as well.

        The background's log-likelihood is clipped at that of the strangest normal vector. Vectors
        far from everything would otherwise have a small ratio, and pass as normal.
        """
        ratios = []
        for index, ratio in enumerate(evidence.likelihoods):
            if self.background_slope[index]:
                background = evidence.backgrounds[index].clamp_min(self.background_floor[index])
                ratio = ratio - self.background_slope[index] * background
            if evidence.defects is not None:
                ratio = ratio - evidence.defects[index]
            ratios.append(ratio)
        return ratios

    def _normality(self, value, location, level, codes, frame=None):
        """exp(value - maximum) of one level on the grid, the published normality, at most 1."""
        normality = (value - location[level, codes, None]).clamp_max(0).exp()
        return self._on_grid(normality, level, frame)

    def _published_terms(self, evidence):
        """Return 1 - normality of each level on the grid."""
        codes, frame, location = evidence.codes, evidence.frame, self.likelihood_location
        ratios = self.likelihood_ratios(evidence)
        return [
            1 - self._normality(ratio, location, i, codes, frame) for i, ratio in enumerate(ratios)
        ]

    def standardized_ratios(self, evidence):
        """Return `standardized` of each level, before it is brought to the grid and blurred."""
        ratios, codes, frame = self.likelihood_ratios(evidence), evidence.codes, evidence.frame
        return [self.standardized(ratio, i, codes, frame) for i, ratio in enumerate(ratios)]

    def standardized(self, ratio, level, codes, frame=None):
        """Return how far a level's ratios lie below their mean, in standard deviations.

        For each position, Tensor (n, n_positions): of normal samples of the class, at the position.
        """
        expected = self.likelihood_location[level, codes, None]
        expected = expected + self.profile_of(level, codes, frame)
        return (expected - ratio) / self.likelihood_scale[level, codes, None]

    def defect_share(self, evidence):
        """Return the part of the likelihood's `terms` that known defects add, in the same shape.

        None where they add nothing.
        """
        if evidence.defects is None or self.normalization == "exponential":
            return None
        codes, parts, frame = evidence.codes, [], evidence.frame
        for i, values in enumerate(evidence.defects):
            scale = self.likelihood_scale[i, codes] * self.peak_scale[i, codes]
            parts.append(self._blur(self._on_grid(values / scale[:, None], i, frame), frame))
        return torch.stack(parts)

    def profile_of(self, level, codes, frame=None):
        """Offsets of the positions of each image from a level's location, (n, n_positions)."""
        map_shape = self.levels[level].map_shape
        return profile_at(self.likelihood_profile(level), codes, map_shape, frame)

    def _entropy_map(self, entropies, codes, frame):
        anomaly = self.entropy_anomaly(entropies, codes, frame)
        if self.normalization == "exponential":
            return anomaly
        location = self.log_entropy_location[codes, None, None]
        return (self.log_entropy(anomaly) - location) / self.log_entropy_scale[codes, None, None]

    def entropy_anomaly(self, entropies, codes, frame=None):
        """Sum the entropies as published, before the blur: number of levels less normality."""
        return len(entropies) - sum(
            self._normality(-entropy, self.entropy_location, i, codes, frame)
            for i, entropy in enumerate(entropies)
        )

    @staticmethod
    def log_entropy(anomaly):
        """Logarithm of an entropy map, with a floor below which differences are rounding."""
        return (anomaly + _ENTROPY_FLOOR).log()

    def _on_grid(self, values, level, frame=None):
        map_shape = self.levels[level].map_shape
        if frame is not None:
            return on_grid(values, level, map_shape, self.map_size, frame)
        return resize(values.unflatten(1, map_shape), self.map_size)

    def _own_peaks(self, values, level, frame=None):
        """Return the largest value (n,) of a level among its positions (n, n_positions), blurred.

        Those inside, where there is a frame.
        """
        map_shape = self.levels[level].map_shape
        sigma = self.blur_sigma * map_shape[0] / BLUR_REFERENCE
        maps = values.unflatten(1, map_shape)
        if frame is None:
            return gaussian_blur(maps, sigma).amax((1, 2))
        return blurred(maps, sigma, frame.inside[level].unflatten(1, map_shape)).amax((1, 2))

    def _blur(self, maps, frame=None):
        sigma = self.blur_sigma * self.map_size[0] / BLUR_REFERENCE
        if frame is not None:
            return blurred(maps, sigma, frame.grid)
        return gaussian_blur(maps, sigma)


def grid_size(image_size):
    """Height and width of the grid on which the levels of images of this size are summed."""
    return tuple(max(1, side // GRID_STRIDE) for side in image_size)


def check_levels_of_images(parameters, shapes):
    """Raise ValueError if the levels (n_features, height, width) are beyond `budget.check_levels`.

    `parameters` are those of the estimator.
    """
    grid = grid_size(image_size(parameters["image_size"]))
    check_levels(shapes, grid, parameters["hidden_ratio"] if parameters["n_blocks"] else 0)


def build_scoring_model(parameters, levels, extractor):
    """Assemble the levels of a detector.

    Parameters
    ----------
    parameters : dict
        Of the estimator.
    levels : list of LevelModel
    extractor : FeatureExtractor or None
        None for feature vectors, which are maps of one position.

    Returns
    -------
    ScoringModel
    """
    map_size, criterion = (1, 1), parameters["criterion"]
    if extractor is not None:
        map_size = grid_size(extractor.spec["image_size"])
    if criterion == "auto":
        is_undecided = extractor is not None and asks_for_training(parameters)
        criterion = "likelihood_entropy" if is_undecided else "likelihood"
    return ScoringModel(
        levels,
        map_size,
        criterion,
        parameters["map_normalization"],
        parameters["blur_sigma"],
        parameters["entropy_weight"],
    ).requires_grad_(False)
