"""The densities that score: a Gaussian mixture for each class, frozen."""

import copy

import torch
from torch import nn

from .copies import copied
from .mixture import drawn_centers, log_sum_exp, squared_distances
from .short_numbers import rounded_whitener

_PER_CLASS = ("origins", "locations", "discriminants", "n_vectors", "shrinkages")
_PER_CENTER = ("whitened_centers", "shared_centers", "center_log_weights")
_PER_WHITENER = ("whiteners", "log_dets")
_REPLACED = (*_PER_CLASS, *_PER_CENTER, *_PER_WHITENER)  # where classes come or go
_COUNTING_MODES = 2  # of a sample
_BLOCK_ENTRIES = 1 << 22  # of a matrix of distances, vectors by centers


class ClassDensities(nn.Module):
    """Gaussian mixtures of the classes, measured on latent vectors.

    Class k has `center_counts`[k] centers, the next ones in `whitened_centers`. A center is the
    mean of a Gaussian whose covariance is :math:`(W W^T)^{-1}`, with W the whitener that
    `center_whiteners` names. All centers of a class may share one, groups of them, or each has its
    own.
    Classes that joined a fitted model later may have a background of their own, one for all that
    joined together; `own_backgrounds` names it, 0 = the common one.
    The module also holds the covariance that all classes share, and, with several classes, the
    background: one Gaussian of all latent vectors together. More vectors of a class can be counted
    in, because its covariances, its `n_vectors` and its `shrinkages` tell its scatter.
    Symmetric whiteners in float32 are rounded: `rounded_whitener`.

    Parameters
    ----------
    n_classes, n_features : int
    n_centers : int
        Of all classes together.
    n_whiteners : int
    has_background : bool
    n_own_backgrounds : int, default=0
    """

    def __init__(
        self,
        n_classes,
        n_features,
        *,
        n_centers,
        n_whiteners,
        has_background,
        n_own_backgrounds=0,
    ):
        super().__init__()
        shapes = {
            "origins": (n_classes, n_features),
            "whiteners": (n_whiteners, n_features, n_features),
            "log_dets": (n_whiteners,),
            "whitened_centers": (n_centers, n_features),
            "center_log_weights": (n_centers,),
            "locations": (n_classes, n_features),
            "shared_precision": (n_features, n_features),
            "shared_root": (n_features, n_features),
            "shared_centers": (n_centers, n_features),
            "discriminants": (n_classes, n_features),
            # How many vectors a class was fitted to; the share of the prior in its covariances.
            "n_vectors": (n_classes,),
            "shrinkages": (n_classes,),
            "strength": (),
        }
        if has_background:
            shapes["background_mean"] = (n_features,)
            shapes["background_whitener"] = (n_features, n_features)
            shapes["background_log_det"] = ()
            shapes["own_background_means"] = (n_own_backgrounds, n_features)
            shapes["own_background_whiteners"] = (n_own_backgrounds, n_features, n_features)
            shapes["own_background_log_dets"] = (n_own_backgrounds,)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        for name, shape in (("center_counts", (n_classes,)), ("center_whiteners", (n_centers,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        self.has_background = has_background
        if has_background:
            self.register_buffer("own_backgrounds", torch.zeros(n_classes, dtype=torch.int64))

    @classmethod
    @torch.no_grad()
    def of(
        cls, mixtures, locations, shared_precision, background=None, *, evidence=None, n_merged=0,
        strength=1.0, is_fine=False,
    ):  # fmt: skip
        """Freeze the mixtures of all classes.

        Parameters
        ----------
        mixtures : list of (centers, log_weights, whiteners) or (..., names)
            Of each class: Tensors of shape (m, n_features), (m,) and (m or 1, n_features,
            n_features). The whiteners are inverse square roots W of covariances, acting on rows
            from the right; one stands for all centers. Else `names`, int64 of shape (m,), tells the
            whitener of each center. The centers are stored in the order of their whiteners.
        locations : Tensor of shape (n_classes, n_features)
            Mean of the vectors of each class.
        shared_precision : Tensor of shape (n_features, n_features)
            Inverse of the covariance that all classes share.
        background : tuple (mean, whitener), default=None
        evidence : tuple (n_vectors, shrinkages), sequences of float, default=None
            Of each class: how many vectors it was fitted to, and the share of the prior in its
            covariances: nu of `n_vectors` + nu where the prior counts as nu vectors. None: the
            prior alone.
        n_merged : int, default=0
            Directions beyond one that the last axis stands for; see `LinearStart`.
        strength : float, default=1.0
            Kept for classes that join or grow: see `MapShrinkage`.
        is_fine : bool, default=False
            Round no whitener to less than two bytes a number; see `rounded_whitener`.
        """
        n_centers = [len(centers) for centers, *_ in mixtures]
        n_whiteners = [len(whiteners) for _, _, whiteners, *_ in mixtures]
        densities = cls(
            *locations.shape,
            n_centers=sum(n_centers),
            n_whiteners=sum(n_whiteners),
            has_background=background is not None,
        ).to(locations)
        densities.center_counts.copy_(torch.tensor(n_centers))
        first_center = first_whitener = 0
        for code, mixture in enumerate(mixtures):
            centers, log_weights, whiteners, own = _in_order(*mixture)
            whiteners = torch.stack(
                [rounded_whitener(w, is_fine=is_fine) for w in whiteners.to(locations.dtype)]
            ).double()
            places = slice(first_center, first_center + len(centers))
            names = first_whitener + torch.arange(len(whiteners))
            origin = centers[0]
            densities.origins[code] = origin.to(locations)
            densities.whiteners[names] = whiteners.to(locations)
            # One by one: the batched factorisation of MKL fails on stacks of large matrices.
            for name, whitener in zip(names, whiteners, strict=True):
                densities.log_dets[name] = log_det_of(whitener, n_merged).to(locations)
            densities.center_whiteners[places] = first_whitener + own
            densities.center_log_weights[places] = log_weights.to(locations)
            offsets = [
                part @ whitener
                for part, whitener in zip(
                    (centers - origin).split(torch.bincount(own).tolist()), whiteners, strict=True
                )
            ]
            densities.whitened_centers[places] = torch.cat(offsets).to(locations)
            first_center, first_whitener = places.stop, first_whitener + len(whiteners)
        densities.locations.copy_(locations)
        n_vectors, shrinkages = (0.0, 1.0) if evidence is None else evidence
        densities.n_vectors.copy_(torch.as_tensor(n_vectors, dtype=torch.float64))
        densities.shrinkages.copy_(torch.as_tensor(shrinkages, dtype=torch.float64))
        densities.strength.fill_(strength)
        densities.set_shared_precision(shared_precision)
        if background is not None:
            mean, whitener = background
            densities.background_mean.copy_(mean)
            densities.background_whitener.copy_(whitener)
            densities.background_log_det.copy_(log_det_of(whitener, n_merged))
        return densities

    def set_shared_precision(self, precision):
        """Tell classes apart by this inverse covariance, Tensor (n_features, n_features)."""
        self.shared_precision.copy_(precision)
        self.shared_root.copy_(torch.linalg.cholesky(precision))
        self.discriminants.copy_(self.locations @ self.shared_precision)
        centers = [self.centers_of(code) for code in range(len(self.locations))]
        self.shared_centers.copy_(torch.cat(centers) @ self.shared_root)

    def joined(self, other, order):
        """Return the densities of the classes of both, with the background of this one.

        `order` is that of `HierarchicalMixture.joined`. The other's discriminants take this one's
        shared precision; else nothing changes.
        """
        other = copy.deepcopy(other)
        other.set_shared_precision(self.shared_precision)
        result = copied(self, but=_REPLACED)
        for name in _PER_CLASS:
            values = getattr(self, name)
            joined = torch.cat((values, getattr(other, name).to(values)))
            setattr(result, name, joined[order])
        counts = torch.cat((self.center_counts, other.center_counts.to(self.center_counts)))
        centers = torch.arange(int(counts.sum())).split(counts.tolist())
        places = torch.cat([centers[code] for code in order.tolist()])
        names = len(self.whiteners) + other.center_whiteners.to(self.center_whiteners)
        result.center_whiteners = torch.cat((self.center_whiteners, names))[places]
        result.center_counts = counts[order]
        for name in _PER_CENTER:
            values = getattr(self, name)
            setattr(result, name, torch.cat((values, getattr(other, name).to(values)))[places])
        for name in _PER_WHITENER:
            values = getattr(self, name)
            setattr(result, name, torch.cat((values, getattr(other, name).to(values))))
        if self.has_background:
            own = self.own_backgrounds
            result.own_backgrounds = torch.cat((own, own.new_zeros(len(other.locations))))[order]
        return result

    @torch.no_grad()
    def set_own_background(self, codes, mean, whitener):
        """Give some classes a background of their own, in place of the one that they have."""
        number = int(self.own_backgrounds[codes[0]])
        if not number:
            number = len(self.own_background_log_dets) + 1
            for name, value in (("means", mean), ("whiteners", whitener), ("log_dets", mean[0])):
                values = getattr(self, f"own_background_{name}")
                more = torch.zeros_like(value[None]).to(values)
                setattr(self, f"own_background_{name}", torch.cat((values, more)))
            self.own_backgrounds[codes] = number
        whitener = rounded_whitener(whitener.to(self.locations))
        self.own_background_means[number - 1] = mean.to(self.locations)
        self.own_background_whiteners[number - 1] = whitener
        self.own_background_log_dets[number - 1] = log_det_of(whitener).to(self.locations)

    def without(self, codes):
        """Return the densities without some classes, Tensor of int64; all others stay exactly."""
        result = copied(self, but=_REPLACED)
        kept = torch.ones_like(self.center_counts, dtype=torch.bool)
        kept[codes] = False
        for name in (*_PER_CLASS, "center_counts"):
            setattr(result, name, getattr(self, name)[kept])
        places = kept.repeat_interleave(self.center_counts)
        for name in _PER_CENTER:
            setattr(result, name, getattr(self, name)[places])
        names, result.center_whiteners = torch.unique(
            self.center_whiteners[places], return_inverse=True
        )
        result.whiteners, result.log_dets = self.whiteners[names], self.log_dets[names]
        if self.has_background:
            result._keep_backgrounds_of(kept)
        return result

    def _keep_backgrounds_of(self, kept):
        """Drop the backgrounds of classes that are not kept, a bool Tensor (n_classes,)."""
        numbers = self.own_backgrounds[kept]
        used = torch.unique(numbers[numbers > 0])
        self.own_backgrounds = torch.searchsorted(used, numbers, right=True) * (numbers > 0)
        for name in ("means", "whiteners", "log_dets"):
            values = getattr(self, f"own_background_{name}")
            setattr(self, f"own_background_{name}", values[used - 1])

    @torch.no_grad()
    def set_class(self, code, mixture, location, *, n_vectors, shrinkage, n_merged=0, is_fine=True):
        """Replace the mixture of one class in place; all others stay exactly.

        `mixture` is one of those of `of`. `location`, a Tensor (n_features,), is the mean of the
        vectors of the class. The shared precision stays. `is_fine`, as in `of`, lets later calls
        add changes that one byte would not show.
        """
        new = ClassDensities.of(
            [mixture], location[None].to(self.locations), self.shared_precision,
            evidence=([n_vectors], [shrinkage]), n_merged=n_merged, is_fine=is_fine,
        )  # fmt: skip
        for name in _PER_CLASS:
            getattr(self, name)[code] = getattr(new, name)[0]
        places, names, _ = self._class_parts(code)
        names = names.unique()
        if (len(new.whitened_centers), len(new.whiteners)) == (
            places.stop - places.start,
            len(names),
        ):
            for name in _PER_CENTER:
                getattr(self, name)[places] = getattr(new, name)
            self.center_whiteners[places] = names[new.center_whiteners]
            self.whiteners[names], self.log_dets[names] = new.whiteners, new.log_dets
            return
        order = torch.arange(len(self.center_counts))
        order = torch.cat((order[:code], order[-1:], order[code:-1]))
        joined = self.without(torch.tensor([code])).joined(new, order)
        self._buffers.update(joined._buffers)

    def mixture_of(self, code):
        """Return (centers, log_weights, covariances) of one class, in float64.

        Shapes are those of `of`, with covariances in place of their whiteners, and without names.
        """
        places, names, _ = self._class_parts(code)
        whiteners = self.whiteners[names.unique()].double()
        covariances = [torch.linalg.inv(whitener @ whitener.T) for whitener in whiteners]
        log_weights = self.center_log_weights[places].double()
        return self.centers_of(code).double(), log_weights, torch.stack(covariances)

    def centers_of(self, code):
        """Centers of one class, Tensor (m, n_features)."""
        places, names, whitened = self._class_parts(code)
        centers = torch.empty_like(whitened)
        for name in names.unique().tolist():
            chosen = names == name
            centers[chosen] = torch.linalg.solve(self.whiteners[name].T, whitened[chosen].T).T
        return self.origins[code] + centers

    def groups_of(self, code):
        """Return (centers, log_weights, whitener) of each group of centers with one whitener.

        A list of Tensors (m, n_features), (m,) and (n_features, n_features) of one class. The
        weights count the log-determinant, too.
        """
        places, names, _ = self._class_parts(code)
        centers, log_weights = self.centers_of(code), self.center_log_weights[places]
        return [
            (
                centers[names == name],
                log_weights[names == name] + self.log_dets[name],
                self.whiteners[name],
            )
            for name in names.unique().tolist()
        ]

    def first_center(self, code):
        """Return the first center of a class and its whitener, float64 Tensors on the CPU."""
        _, names, _ = self._class_parts(code)
        return self.origins[code].double().cpu(), self.whiteners[names[0]].double().cpu()

    def class_discriminants(self, z):
        """Log-density of each class under the shared covariance, up to a common constant.

        By the classes' own covariances, anomalies of a tight class would be taken for samples of
        the widest one. `z` has shape (..., n_features), the result (..., n_classes).
        """
        return z @ self.discriminants.T - 0.5 * (self.discriminants * self.locations).sum(1)

    def mode_discriminants(self, z):
        """Return the largest of each class's centers in place of `class_discriminants`."""
        values = z @ self.shared_root @ self.shared_centers.T
        values = values - 0.5 * self.shared_centers.square().sum(1)
        of_classes = values.split(self.center_counts.tolist(), -1)
        return torch.stack([own.amax(-1) for own in of_classes], -1)

    @property
    def has_modes(self):
        """Whether a class has several covariances: of maps, its samples are of several modes."""
        return len(self.whiteners) > len(self.locations)

    def distances_to_centers(self, z, code):
        """Return squared distances (n, n_centers) of vectors (n, d) from a class's centers.

        By the covariance that all classes share.
        """
        places, _, _ = self._class_parts(code)
        return squared_distances(z @ self.shared_root, self.shared_centers[places])

    def log_density_in_modes(self, z, code):
        """Log-density of a class of maps whose centers are modes of whole samples.

        For z (n, n_positions, n_features), shape (n, n_positions). Else as `log_density_of`, but of
        the two modes alone whose centers are nearest to the mean of the sample: others say nothing
        of it, and cost time.
        """
        places, names, whitened = self._class_parts(code)
        moved, log_weights = z - self.origins[code], self.center_log_weights[places]

        def log_density(part, number):
            name = names[number]
            distances = (part @ self.whiteners[name] - whitened[number]).square().sum(-1)
            return log_weights[number] + self.log_dets[name] - 0.5 * distances

        return log_density_of_nearest(
            moved, self.distances_to_centers(z.mean(1), code), log_density
        )

    def class_log_densities(self, z):
        """Log-density of each class, all centers with the shared covariance.

        Up to a common constant; shapes as in `class_discriminants`.
        """
        moved = z.reshape(-1, z.shape[-1]) @ self.shared_root
        densities = []
        for code in range(len(self.locations)):
            places, _, _ = self._class_parts(code)
            densities.append(
                torch.cat([self._shared_density(part, places) for part in _blocks(moved, places)])
            )
        return torch.stack(densities, -1).reshape(*z.shape[:-1], -1)

    def _shared_density(self, moved, places):
        distances = squared_distances(moved, self.shared_centers[places])
        return log_sum_exp(self.center_log_weights[places] - 0.5 * distances)

    @property
    def has_several_centers(self):
        """Whether any class has more than one center."""
        return len(self.center_log_weights) > len(self.center_counts)

    def log_density_of(self, z, code):
        r"""Log-density of one class, up to the constant :math:`-\frac{d}{2}\ln 2\pi`.

        For z (..., n_features), shape (...):
        logsumexp_m( log w_m - ||(z - c_m) W_m||^2 / 2 + log |det W_m| ).
        """
        places, names, _ = self._class_parts(code)
        blocks = _blocks(z.reshape(-1, z.shape[-1]), places)
        parts = [self._log_density(block, code, places, names) for block in blocks]
        return torch.cat(parts).reshape(z.shape[:-1])

    def standardised(self, z, code, draws):
        """Whiten vectors (n, n_features) of a class by one of its centers each.

        The center is drawn from its posterior at the vector: if vectors have the density of the
        class, the results are standard Gaussian, however much the centers overlap. `draws` (n,)
        holds uniform numbers in [0, 1).
        """
        places, names, whitened = self._class_parts(code)
        parts = []
        blocks = zip(_blocks(z, places), _blocks(draws, places), strict=True)
        for block, numbers in blocks:
            moved = block - self.origins[code]
            chosen = drawn_centers(self._center_logits(moved, places, names), numbers)
            result = torch.empty_like(moved)
            for name in names[chosen].unique().tolist():
                own = names[chosen] == name
                result[own] = moved[own] @ self.whiteners[name] - whitened[chosen[own]]
            parts.append(result)
        return torch.cat(parts)

    def _class_parts(self, code):
        first = int(self.center_counts[:code].sum())
        places = slice(first, first + int(self.center_counts[code]))
        return places, self.center_whiteners[places], self.whitened_centers[places]

    def _log_density(self, z, code, places, names):
        # The origin is subtracted before the product: distances stay exact far from zero.
        return log_sum_exp(self._center_logits(z - self.origins[code], places, names))

    def _center_logits(self, moved, places, names):
        """Log of weight times density of each center of a class, for vectors less its origin."""
        logits = []
        distinct, counts = names.unique_consecutive(return_counts=True)
        centers = self.whitened_centers[places].split(counts.tolist())
        for name, group in zip(distinct.tolist(), centers, strict=True):
            distances = squared_distances(moved @ self.whiteners[name], group)
            logits.append(self.log_dets[name] - 0.5 * distances)
        return torch.cat(logits, dim=-1) + self.center_log_weights[places]

    def log_density_background(self, z, codes):
        """Log-density of the background, with shapes and constant of `log_density_of`.

        `codes`, int64 of shape (n,), are the classes of the images z (n, n_positions, n_features).
        """
        numbers = self.own_backgrounds[codes]
        if not numbers.any():
            return self.log_density_of_background(z, 0)
        density = torch.empty_like(z[..., 0])
        for number in numbers.unique().tolist():
            chosen = numbers == number
            density[chosen] = self.log_density_of_background(z[chosen], number)
        return density

    def log_density_of_background(self, z, number):
        """Log-density of the common background, 0, or of an own one."""
        mean, whitener = self.background_mean, self.background_whitener
        log_det = self.background_log_det
        if number:
            mean, whitener = (
                self.own_background_means[number - 1], self.own_background_whiteners[number - 1]
            )  # fmt: skip
            log_det = self.own_background_log_dets[number - 1]
        return log_det - 0.5 * ((z - mean) @ whitener).square().sum(-1)


def log_density_of_nearest(x, distances, log_density):
    """Log-density (n, n_positions) of samples x (n, n_positions, n_features) by their two modes.

    Those are the nearest by the `distances` (n, n_modes). log_density(samples, number) returns that
    of samples by one mode, weight included.
    """
    n_modes = distances.shape[1]
    nearest = distances.topk(min(_COUNTING_MODES, n_modes), largest=False).indices
    if torch.jit.is_tracing():  # without a loop over the modes that occur
        every = torch.stack([log_density(x, number) for number in range(n_modes)], 1)
        found = every.gather(1, nearest[..., None].expand(-1, -1, x.shape[1]))
    else:
        found = x.new_empty(*nearest.shape, x.shape[1])
        for number in nearest.unique().tolist():
            is_own = nearest == number
            found[is_own] = log_density(x[is_own.any(1)], number)
    return log_sum_exp(found.transpose(1, 2))


def _in_order(centers, log_weights, whiteners, names=None):
    """Put the centers of a class in the order of their whiteners; name one of these for each."""
    if names is None:
        names = torch.arange(len(whiteners)).expand(len(centers))
    names, order = names.sort(stable=True)
    return centers.double()[order], log_weights[order], whiteners.double(), names


def _blocks(flat, places):
    """Cut vectors so that their distances from the centers in `places` take bounded memory."""
    if torch.jit.is_tracing():  # the number of blocks would become a constant
        return [flat]
    return flat.split(max(1, _BLOCK_ENTRIES // (places.stop - places.start)))


def log_det_of(matrix, n_merged=0):
    """Log-determinant in which the last axis counts for `n_merged` more.

    It comes from the diagonal where the matrix is upper triangular, as whiteners of models are that
    only judge.
    """
    if matrix.tril(-1).any():
        log_det = torch.linalg.slogdet(matrix)[1]
    else:
        log_det = matrix.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return log_det + n_merged * matrix[-1, -1].log() if n_merged else log_det
