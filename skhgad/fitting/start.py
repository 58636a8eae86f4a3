"""The start of a level: features whitened inside the classes."""

import copy
import math
from functools import partial

import torch

from ..model.flow import LinearStart
from ..model.level import empty_level
from ..model.short_rows import axes_of_rows
from .covariance import (
    ResidualMoments,
    class_means,
    coordinates_in_span,
    ledoit_wolf_shrinkage,
    residuals_within,
    shrink,
    whitening_matrix,
)
from .feature_powers import choose_powers
from .gaussian_mixture import fit_mixture
from .gaussian_shrinkage import (
    has_heavy_tails,
    inflation_of,
    likeliest_pseudo_count,
    principal_axes,
    share_of_prior,
)
from .modes import find_modes, numbered
from .parts import first_of_parts

MAP_SHRINKAGE = 0.1
_HEAVY_TAILED_SHRINKAGE = 0.9
_SHRINKAGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
_MOST_VECTORS = 20_000  # that choose the shrinkage, or where centers are
_POSITIONS = 16  # of each map that show where centers are
_STEPS = 20
_SMALLEST_EIGENVALUE = 1e-10  # of the largest; see `whitening_matrix`
# Of the longest axis of vectors; a shorter one has less than the smallest eigenvalue.
_SMALLEST_LENGTH = 1e-7


def whitened_start(samples, shrinkage="ledoit_wolf"):
    """Whiten raw features by their pooled within-class covariance.

    `shrinkage`, in [0, 1] or "ledoit_wolf", moves the covariance towards the identity of the
    same mean variance.
    """
    means, counts = class_means(samples.blocks(), samples)
    moments = ResidualMoments(samples.n_features)
    for x, codes in samples.blocks():
        x = x.double()
        moments.update((x - means[codes][:, None]).flatten(0, 1), x.flatten(0, 1))
    moments = samples.total(moments)
    if shrinkage == "ledoit_wolf":
        shrinkage = moments.ledoit_wolf_shrinkage()
    covariance = shrink(moments.covariance(), shrinkage)
    return LinearStart(means[counts > 0].mean(0), whitening_matrix(covariance))


def start_of_vectors(samples, shrinkage="auto", seed=0, choices=None):
    """Whiten feature vectors as `whitened_start` does, by the covariance inside modes of classes.

    With more features than vectors, the latent space has as many axes as there are vectors, and one
    more for the length of what lies outside the space that these span. This loses nothing.

    `shrinkage` "auto" takes the value from 1e-6 to 1 under which each vector is most likely, given
    all the others; see `likeliest_shrinkage`.

    A single class may have powers of its features first, see `choose_powers`.

    `choices`, the VectorChoices of a fit to more samples, say the shrinkage, the powers and the
    modes. None = they are chosen.
    """
    x, codes = samples.vectors()
    powers = None
    if choices is not None:
        shrinkage = choices.shrinkage
        powers = copy.deepcopy(choices.powers)  # those of a model that may be on a GPU by now
        powers = powers if powers is None else powers.to(x.device)
    elif samples.n_classes == 1:
        powers = choose_powers(_one_of_each(x, samples.parts()), seed)
    x = x if powers is None else powers(x)
    center = torch.stack([x[codes == code].mean(0) for code in codes.unique()]).mean(0)
    if choices is None:
        modes = find_modes(x, codes, samples.n_classes, seed, samples.parts())
    else:
        modes = choices.modes_of(samples)
    codes = numbered(codes, modes)
    residuals = residuals_within(x, codes)
    scale = float(residuals.square().mean())
    # Identical rows vary by rounding alone, which must not be whitened.
    if not scale > (100 * torch.finfo(x.dtype).eps) ** 2 * float(x.square().mean()):
        return LinearStart(center, torch.eye(x.shape[1]), powers=powers, shrinkage=1.0)
    n_features, of_rows = x.shape[1], None
    if n_features > len(x):  # along axes that hold all rows, the means of classes and modes, too
        coordinates, of_rows = _along_own_axes(x - center)
        residuals = residuals_within(coordinates, codes)
    scatter, axes = principal_axes(residuals)
    if shrinkage == "auto":
        shrinkage = likeliest_shrinkage(
            residuals, codes, scale, n_features, samples.n_classes > 1, samples.parts()
        )
    elif shrinkage == "ledoit_wolf":
        shrinkage = ledoit_wolf_shrinkage(residuals, n_features)
    variances = (1 - shrinkage) * scatter / len(x) + shrinkage * scale
    variances = variances.clamp_min(_SMALLEST_EIGENVALUE * float(variances.max()))
    if of_rows is None:
        matrix = (axes / variances.sqrt()) @ axes.T
        return LinearStart(center, matrix, powers=powers, shrinkage=shrinkage)
    weights = of_rows @ (axes / variances.sqrt())
    rest = math.sqrt(max(shrinkage * scale, _SMALLEST_EIGENVALUE * float(variances.max())))
    matrix = axes_of_rows(x, center, weights)
    return LinearStart(center, matrix, rest, row_weights=weights, shrinkage=shrinkage)


def _one_of_each(values, parts):
    """Return the values (n, ...) of the first sample of each part; of all where parts is None."""
    return values if parts is None else values[first_of_parts(parts.numpy())]


def _along_own_axes(vectors):
    """Return vectors (n, n_features) along orthonormal axes of the space that they span.

    Returns
    -------
    coordinates : Tensor of shape (n, n_axes)
    weights : Tensor of shape (n, n_axes)
        The axes are sums of the vectors with these weights.
    """
    left, lengths, _ = torch.linalg.svd(coordinates_in_span(vectors))
    spanned = lengths > _SMALLEST_LENGTH * lengths[0]
    return left[:, spanned] * lengths[spanned], left[:, spanned] / lengths[spanned]


def likeliest_shrinkage(residuals, codes, scale, n_features, has_several_classes=False, parts=None):
    """Choose the shrinkage of a pooled covariance; see `start_of_vectors`.

    The residuals may leave out those of `n_features` features in which they do not vary. `parts`
    (n,): see `likeliest_pseudo_count`.

    Of several classes, the unlikeliest vectors count, too. A feature that hardly ever varies, such
    as a pixel at the edge, gains likelihood with a variance near 0 from all others, and the few
    normal vectors in which it does vary would lie far out.

    Where the tails are too heavy for a Gaussian, the likelihood is that of a t distribution. With
    fewer vectors than features in the mean class or mode, it cannot tell tails from a wrong
    covariance. There the shrinkage is 0.9: the likelihood would choose less, and many normal
    vectors would lie far out in directions of small variance.
    """
    step = -(-len(residuals) // _MOST_VECTORS)
    residuals, codes = residuals[::step], codes[::step]
    parts = None if parts is None else parts[::step]
    inflation, n = inflation_of(codes, parts), len(residuals)
    choose = partial(
        likeliest_pseudo_count, residuals, inflation, scale,
        candidates=[n * share / (1 - share) for share in _SHRINKAGES] + [math.inf],
        n_features=n_features, is_robust=not has_several_classes, parts=parts,
    )  # fmt: skip
    pseudo = choose()
    if has_heavy_tails(*(_one_of_each(v, parts) for v in (residuals, inflation)), scale, pseudo):
        if n < n_features * len(codes.unique()):
            return _HEAVY_TAILED_SHRINKAGE
        pseudo = choose(heavy_tails=True)
    return share_of_prior(pseudo, n)


@torch.no_grad()
def align_start(start, samples, flow, means):
    """Rotate and move a whitened start so that the classes begin near their latent means.

    The rotation is the orthogonal Procrustes solution. Without it, the class posterior of an
    untrained flow says little where features are few. The blocks of the flow must be at the
    identity, so that it is a rotation.
    """
    started = ((start(x.double())[0], codes) for x, codes in samples.blocks())
    current, _ = class_means(started, samples)
    rotation = torch.eye(means.shape[1], dtype=torch.float64)
    for mix in flow.blocks.mix.double():
        rotation = rotation @ mix.T
    wanted = means.double() @ rotation.T  # before the blocks
    center, wanted_center = current.mean(0), wanted.mean(0)
    cross = (current - center).T @ (wanted - wanted_center)
    # Few classes leave directions free; there, the rotation nearest the identity is taken.
    cross += 1e-6 * torch.linalg.matrix_norm(cross) * torch.eye(len(cross), dtype=cross.dtype)
    u, _, v = torch.linalg.svd(cross)
    matrix = start.matrix @ u @ v
    move = torch.linalg.solve(matrix.T, (center @ u @ v - wanted_center))
    return LinearStart(start.mean + move, matrix, shrinkage=start.shrinkage)


def build_level(parameters, samples, map_shape, dtype, generator, *, is_trained=True):
    """Create a level before training: start, flow and mixture.

    Without training the start alone leads to the latent space, and the means of the prior are those
    of the classes. The start gets `dtype`, that of the features: vectors may be of any magnitude
    and are float64.
    """
    is_vector, shape = math.prod(map_shape) == 1, {}
    is_whitened, shrinkage = parameters["start"] == "whitened", parameters["whitening_shrinkage"]
    if is_whitened:
        if is_vector:
            choices = parameters.get("choices")
            start = start_of_vectors(samples, shrinkage, generator.initial_seed(), choices)
        else:
            start = whitened_start(samples, MAP_SHRINKAGE if shrinkage == "auto" else shrinkage)
        shape = {
            "n_axes": start.n_axes,
            "has_rest": start.has_rest,
            "n_blocks": None if is_trained else 0,
        }
    level = empty_level(
        parameters, samples.n_features, map_shape, samples.n_classes, generator, **shape
    )
    if not is_trained:  # nothing would move random centers, and they would blur tight classes
        level.mixture.offsets.data.zero_()
    if not is_whitened:
        level.start.to(dtype)
        return level
    # The axis of the rest is a length, which no rotation may touch.
    if is_trained and is_vector and samples.n_classes > 1 and not start.has_rest:
        start = align_start(start, samples, level.flow, level.mixture.means)
    level.start = start.to(dtype)
    if not is_trained or start.has_rest:
        move_means_to_classes(level, samples)
    if not is_trained and not is_vector and level.mixture.n_components > 1:
        find_centers_of_maps(level, samples, generator)
    return level


@torch.no_grad()
def move_means_to_classes(level, samples):
    """Move the means of the prior to those of the classes."""
    started = ((level.start(x)[0], codes) for x, codes in samples.blocks())
    means, _ = class_means(started, samples, level.start.n_axes)
    level.mixture.means.copy_(means)


@torch.no_grad()
def find_centers_of_maps(level, samples, generator):
    """Move the centers of the prior to those of a mixture fitted to some positions of each map."""
    mixture, n_positions = level.mixture, math.prod(level.map_shape)
    chosen = torch.randperm(n_positions, generator=generator)[:_POSITIONS]
    parts = samples.gather(
        [(level.start(x[:, chosen])[0].double(), codes) for x, codes in samples.blocks()]
    )
    z, codes = (torch.cat(part) for part in zip(*parts, strict=True))
    for code in codes.unique().tolist():
        vectors = z[codes == code].flatten(0, 1)
        drawn = torch.randperm(len(vectors), generator=generator)[:_MOST_VECTORS]
        found = fit_mixture(vectors[drawn], mixture.n_components, generator, n_steps=_STEPS)
        centers, log_weights = found.centers.to(mixture.means), found.log_weights.to(mixture.means)
        shift = mixture.means[code] - log_weights.exp() @ centers  # the mean of the class stays
        mixture.means[code] = centers[0] + shift
        mixture.offsets[code, : len(centers) - 1] = centers[1:] - centers[0]
        mixture.center_logits[code] = -torch.inf
        mixture.center_logits[code, : len(centers)] = log_weights
