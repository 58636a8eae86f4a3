"""The closed form of maps: Gaussians of each class, for all samples and for all but a fold.

Every matrix of a model follows from counts, sums and second moments of raw features. They are
gathered for each class and fold, so that leaving a fold out costs no second look at the others.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from ..devices import device_of_float64
from ..model.class_densities import ClassDensities
from ..model.flow import LinearStart
from ..model.level import empty_level
from ..parameters import asks_for_training
from .covariance import whitening_matrix
from .map_frames import JudgingFrame, ScoringFrame
from .map_modes import features_in_modes
from .map_moments import MapFeatures, some_folds
from .map_shrinkage import choose_shrinkage, unchosen_shrinkage
from .nearest_normals import keep_nearest_normals
from .picture_modes import PictureModes


class LeftOut(NamedTuple):
    """How models without a fold judge the samples of this fold, on one level.

    Attributes
    ----------
    rows : ndarray of shape (n_samples,)
        The samples of this process that are in a fold, sorted by class, then fold.
    likelihoods, backgrounds : Tensor of shape (n_samples, n_positions)
        As in `Evidence`, under the class given. `backgrounds` is None with a single class.
    class_likelihoods : Tensor of shape (n_samples, n_classes)
        As from `LevelModel.class_log_likelihood`.
    judge : FoldModels
        For likelihoods under other classes than those given.
    """

    rows: np.ndarray
    likelihoods: torch.Tensor
    backgrounds: torch.Tensor | None
    class_likelihoods: torch.Tensor
    judge: Any

    def part(self, places):
        """Return what it says of some of the samples."""
        values = (None if values is None else values[places] for values in self[:-1])
        return LeftOut(*values, self.judge)


def has_closed_form(parameters, shapes):
    """Whether all levels are maps, not trained, whose classes have a Gaussian for each mode."""
    return (
        not asks_for_training(parameters)
        and all(height * width > 1 for _, height, width in shapes)
        and parameters["n_components"] in ("auto", 1)
        and parameters["start"] == "whitened"
        and parameters["whitening_shrinkage"] != "ledoit_wolf"
        and parameters["class_covariance"]
    )


@torch.no_grad()
def fit_map_level(
    parameters, shape, samples, index, folds, device="cpu", synthetic=None, modes=None
):
    """Fit one level in closed form, on a device that knows float64, else on the CPU.

    Parameters
    ----------
    parameters : dict
        Of the estimator.
    shape : tuple (n_features, height, width)
    samples : LabelledSamples
    index : int
        Of the level.
    folds : ndarray of shape (n_samples,), int
        Fold of each of the samples, from 0; -1 for one that is in none.
    device : torch.device, default="cpu"
    synthetic : Synthetic, default=None
        Other samples that the models without a fold judge. None = there are none.
    modes : PictureModes, default=None
        Those that a class may have. It has them where they make samples left out clearly likelier.
        None = one a class.

    Returns
    -------
    level : LevelModel
        Fitted to all samples; on the CPU, as is the rest.
    left_out, of_synthetic : LeftOut or None
        None without folds, or without synthetic anomalies.
    """
    device = device_of_float64(device)
    modes = PictureModes.one_a_class(samples) if modes is None else modes
    n_folds = int(folds.max(initial=-1)) + 1
    chosen_by = folds if n_folds else some_folds(samples)
    unchosen = unchosen_shrinkage(parameters)
    features = features_in_modes(samples, index, chosen_by, device, modes, unchosen)
    modes, others = features.modes, []
    if synthetic is not None:
        groups = synthetic.groups
        others = [MapFeatures(synthetic.samples, index, groups, device, n_folds=n_folds)]
    moments = features.moments()
    shrinkage = choose_shrinkage(parameters, index, features, moments)
    own = ScoringFrame(moments, modes, shrinkage)
    frames = [JudgingFrame(moments, modes, fold, shrinkage) for fold in range(n_folds)]
    found, every = [], range(samples.n_classes)
    judged = [(part, [[] for _ in every]) for part in (features, *others)]

    def judge(code, covariances):
        for fold, frame in enumerate(frames):
            density = frame.density(code, covariances[fold])
            for part, of_classes in judged:
                of_classes[code] += _judged(part, code, fold, frame, density)

    for code in every:
        of_class = features.moments_of_class(code)
        found.append((*own.add_class(of_class), [float(mode.counts.sum()) for mode in of_class]))
        covariances = [frame.add_class(of_class) for frame in frames]
        if len(of_class) == 1:
            judge(code, covariances)
    for code in modes.several:  # whose modes are told by what all classes share
        of_class = features.moments_of_class(code)
        judge(code, [frame.covariances(of_class) for frame in frames])
    level = _level(parameters, shape, own, found)
    kept = None
    if parameters["bank_size"]:
        kept = keep_nearest_normals(level.to(features.device), own.overall, features, parameters)
    left_out = [None, None]
    if frames:
        for place, (part, of_classes) in enumerate(judged):
            blocks = [block for own_blocks in of_classes for block in own_blocks]
            left_out[place] = _left_out(part, features, frames, blocks, kept)
    return level.cpu(), *left_out


def _judged(features, code, fold, frame, own):
    """Judge one class's samples of a fold by a model without them, of which `own` is the class.

    The kept normals do not count yet.

    Returns a list of (rows, their fold, likelihoods, backgrounds, mean vectors, numbers of
    positions), one a block.
    """
    found = []
    for rows, x, inside in features.blocks(features.judged(code, fold)):
        likelihoods = own.log_likelihood(x)
        backgrounds = likelihoods  # of a single class, which has none, they are not read
        if frame.background is not None:
            backgrounds = frame.background.log_likelihood(x)
        folds = np.full(len(rows), fold)
        if inside is None:
            vectors = x.double().mean(1)
            counts = torch.full((len(x), 1), features.n_positions, device=x.device)
        else:
            counts = inside.sum(1, keepdim=True)
            vectors = (x.double() * inside[..., None]).sum(1) / counts.clamp_min(1)
        found.append((rows, folds, likelihoods.cpu(), backgrounds.cpu(), vectors, counts))
    return found


def _left_out(features, normals, frames, judged, kept=None):
    """Join what `_judged` returned, in the order of classes, then folds, to a LeftOut.

    The models are those of `normals`, the MapFeatures that were fitted to. `kept`, the
    NormalsOfFolds of the level, is evidence beside the Gaussians.
    """
    judge = FoldModels(features, normals, frames, kept)
    if not judged:  # another process has all
        empty = torch.empty(0, features.n_positions)
        return LeftOut(np.empty(0, int), empty, empty, torch.empty(0, len(features.rows)), judge)
    rows, folds, likelihoods, backgrounds, vectors, counts = zip(*judged, strict=True)
    rows, folds, vectors = np.concatenate(rows), np.concatenate(folds), torch.cat(vectors)
    counts = torch.cat(counts)
    class_likelihoods = vectors.new_empty(len(rows), len(features.rows))
    for fold, frame in enumerate(frames):
        chosen = torch.from_numpy(folds == fold).to(vectors.device)
        class_likelihoods[chosen] = frame.discriminants(vectors[chosen]) * counts[chosen]
    likelihoods = torch.cat(likelihoods)
    if kept is not None:
        penalties = [
            kept.penalty(x, code, fold)
            for code in range(len(features.rows))
            for fold in range(features.n_folds)
            for _, x, _ in features.blocks(features.judged(code, fold))
        ]
        likelihoods = likelihoods - torch.cat(penalties).cpu()
    has_background = frames[0].background is not None
    return LeftOut(
        rows,
        likelihoods,
        torch.cat(backgrounds) if has_background else None,
        class_likelihoods.cpu(),
        judge,
    )


class FoldModels:
    """Models of a level without a fold, which judge samples of this fold under any class.

    Parameters
    ----------
    features : MapFeatures
        Of the samples that they judge.
    normals : MapFeatures
        Of those that they were fitted to.
    frames : list of JudgingFrame
        Of each fold.
    kept : NormalsOfFolds or None
    """

    def __init__(self, features, normals, frames, kept):
        self.features, self.normals, self.frames, self.kept = features, normals, frames, kept

    @torch.no_grad()
    def __call__(self, rows, codes):
        """Return the likelihoods (n, n_positions) of samples of this process, as in `LeftOut`.

        `rows` and `codes` are ndarrays (n,). All processes must call at the same time.
        """
        features, folds = self.features, self.features.folds[rows]
        pairs = sorted(set(features.gather(list(zip(codes.tolist(), folds.tolist(), strict=True)))))
        found = torch.empty(len(rows), features.n_positions)
        for code, fold in pairs:
            frame = self.frames[fold]
            own = frame.density(code, frame.covariances(self.normals.moments_of_class(code)))
            places = np.flatnonzero((codes == code) & (folds == fold))
            likelihoods = [
                own.log_likelihood(x) - self.penalty(x, code, fold)
                for _, x, _ in features.blocks(rows[places])
            ]
            if likelihoods:
                found[places] = torch.cat(likelihoods).cpu()
        return found

    def penalty(self, x, code, fold):
        """Return what the kept normals take off the likelihoods; 0 where none are kept."""
        return 0 if self.kept is None else self.kept.penalty(x, code, fold)


def _level(parameters, shape, frame, found):
    """Assemble the level; `found` holds (covariances, shrinkage, counts) of each class's modes."""
    n_features, *map_shape = shape
    level = empty_level(parameters, n_features, tuple(map_shape), len(found), n_blocks=0)
    level.start = LinearStart(frame.center.cpu(), frame.root.cpu()).float()
    centers, mixtures, means = frame.latent_means().cpu(), [], []
    for code, (covariances, _, counts) in enumerate(found):
        own = centers[frame.modes.of_class(code)]
        weights = torch.tensor(counts, dtype=own.dtype) / sum(counts)
        whiteners = torch.stack([whitening_matrix(covariance).cpu() for covariance in covariances])
        mixtures.append((own, weights.log(), whiteners))
        means.append(weights @ own)
    means = torch.stack(means).to(level.mixture.means)
    level.mixture.means.data.copy_(means)
    level.mixture.offsets.data.zero_()
    background = frame.background()
    if background is not None:
        background = tuple(part.cpu() for part in background)
    evidence = [(sum(counts), shrinkage) for _, shrinkage, counts in found]
    level.densities = ClassDensities.of(
        mixtures, means, frame.precision().cpu(), background,
        evidence=tuple(zip(*evidence, strict=True)), strength=frame.shrinkage.strength,
    )  # fmt: skip
    return level
