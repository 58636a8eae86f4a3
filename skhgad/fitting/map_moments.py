"""Sums over the raw features of one level, by mode and fold, of which every matrix follows."""

from typing import NamedTuple

import numpy as np
import torch

from .nearest_normals import evenly_spaced

_FIRST_IMAGES = 16  # of each class; around their mean, moments are exact in float32
_KEPT_BYTES = 1 << 29  # of second moments; more are gathered a second time
CHOOSING_FOLDS = 2  # whose samples choose modes and shrinkage, each by so many of its positions
_JUDGING_POSITIONS = 36
_OF_FOLDS = 5  # of which the two are, where no fold is judged


def some_folds(samples):
    """Return two folds, each a fifth of every class; -1 for the others. Parts stay together."""
    folds = np.empty(len(samples.rows), dtype=np.int64)
    numbers = samples.independent_numbers(samples.rows)
    for code in range(samples.n_classes):
        is_own = samples.codes[samples.rows] == code
        folds[is_own] = np.unique(numbers[is_own], return_inverse=True)[1] % _OF_FOLDS
    return np.where(folds < CHOOSING_FOLDS, folds, -1)


class Moments(NamedTuple):
    """Counts, sums and second moments of vectors around origins, of each group of samples.

    Of one mode: shapes (n_groups,), (n_groups, d) and (n_groups, d, d). Of all modes the first
    two have one more axis in front, the modes, and the third is summed over them.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    seconds: torch.Tensor
    second: torch.Tensor  # of all groups
    origins: torch.Tensor | None = None
    size: float = 0.0  # sum of all squares of the vectors themselves

    def seen(self, without):
        """Return counts, sums and second moments of all groups but one; None = of all."""
        counts, sums = self.counts.sum(-1), self.sums.sum(-2)
        if without is None:
            return counts, sums, self.second
        return (
            counts - self.counts[..., without],
            sums - self.sums[..., without, :],
            self.second - self.seconds[without],
        )

    @classmethod
    def joined(cls, modes):
        """Return the moments of some modes of one class together."""
        counts, sums, seconds, second, _, size = zip(*modes, strict=True)
        return cls(*map(sum, (counts, sums, seconds, second)), None, sum(size))


class MapFeatures:
    """The raw features of one level, read by class and by group: the folds, and what is in none.

    Parameters
    ----------
    samples : LabelledSamples
    index : int
        Of the level.
    folds : ndarray of shape (n_samples,), int
        Fold of each of the samples, from 0; -1 for one that is in none.
    device : torch.device
    modes : PictureModes
        Of the samples; None where no moments are asked for.
    n_folds : int, default=None
        None = those that occur.
    """

    def __init__(self, samples, index, folds, device, modes=None, n_folds=None):
        self.samples, self.index, self.device, self.folds = samples, index, device, folds
        self.modes = modes
        self.n_positions, self.n_features = samples.cache.shapes[index]
        self.n_folds = int(folds.max(initial=-1)) + 1 if n_folds is None else n_folds
        groups = np.where(folds < 0, self.n_folds, folds)
        codes = samples.codes[samples.rows]
        self.rows = [
            [samples.rows[(codes == code) & (groups == group)] for group in range(self.n_folds + 1)]
            for code in range(samples.n_classes)
        ]
        self.origins = torch.stack([self._first_mean(np.concatenate(rows)) for rows in self.rows])
        n_modes = samples.n_classes if modes is None else len(modes.classes)
        kept = n_modes * (self.n_folds + 1) * self.n_features**2 * 8
        self._kept = {} if kept <= _KEPT_BYTES else None

    def moments(self):
        """Return the moments of all modes."""
        counts, sums, seconds, size = [], [], 0, 0.0
        for code in range(len(self.rows)):
            for found in self.moments_of_class(code):
                counts.append(found.counts)
                sums.append(found.sums)
                seconds = seconds + found.seconds
                size += found.size
        second, origins = seconds.sum(0), self.origins[self.modes.classes]
        return Moments(torch.stack(counts), torch.stack(sums), seconds, second, origins, size)

    def moments_of_class(self, code):
        """Return the moments of the modes of one class, a list."""
        if self._kept is None:
            return self._gather(code)
        if code not in self._kept:
            self._kept[code] = self._gather(code)
        return self._kept[code]

    def merge(self, codes):
        """Take the modes of some classes as one each."""
        self.modes = self.modes.merged(codes)
        for code in codes if self._kept is not None else ():
            self._kept[code] = [Moments.joined(self._kept[code])]

    def judged(self, code, group):
        """Return the rows of a class and group that models without the group judge."""
        return self.samples.judged(self.rows[code][group])

    def blocks_of(self, code):
        """Yield (numbers, folds, x, which positions lie inside) of the samples of one class.

        Of views, the numbers are those of their pictures; of several samples of a part, its own.
        """
        for group, rows in enumerate(self.rows[code]):
            for part, x, inside in self.blocks(rows):
                numbers = self.samples.independent_numbers(part)
                yield numbers, np.full(len(part), group), x, inside

    def some_positions(self, code, group):
        """Yield the samples of a class and group, with some of their positions, which judge.

        Tensors x (n, n_positions, n_features), numbers (n_some,), at most 36, and weights
        (n, n_some), which sum to 1 or, where none of them lies inside, to 0.
        """
        for _, x, inside in self.blocks(self.judged(code, group)):
            some = evenly_spaced(x.shape[1], _JUDGING_POSITIONS).to(x.device)
            weights = torch.ones_like(x[:, some, 0])
            weights = weights if inside is None else inside[:, some].to(x)
            yield x, some, weights / weights.sum(1, keepdim=True).clamp_min(1)

    def gather(self, items):
        """Join the lists of all processes."""
        return self.samples.cache.processes.gather(items)

    def _gather(self, code):
        n_groups, d = self.n_folds + 1, self.n_features
        origin, found = self.origins[code], []
        for mode in self.modes.of_class(code):
            counts = self._zeros(n_groups)
            sums, seconds = self._zeros(n_groups, d), self._zeros(n_groups, d, d)
            size = self._zeros()
            for group, rows in enumerate(self.rows[code]):
                for _, x, inside in self.blocks(rows[self.modes.of_rows[rows] == mode]):
                    x = x.flatten(0, 1) if inside is None else x[inside]
                    residuals = x - origin.to(x)
                    counts[group] += len(x)
                    sums[group] += residuals.sum(0, dtype=torch.float64)
                    seconds[group] += residuals.T @ residuals
                    size += x.square().sum(dtype=torch.float64)
            counts, sums, seconds, size = map(self._total, (counts, sums, seconds, size))
            found.append(Moments(counts, sums, seconds, seconds.sum(0), None, size))
        return found

    def _first_mean(self, rows):
        total, count = self._zeros(self.n_features), 0
        for _, x, inside in self.blocks(rows[:_FIRST_IMAGES]):
            if inside is None:
                total += x.sum((0, 1), dtype=torch.float64)
                count += len(x) * self.n_positions
            else:
                total += x[inside].sum(0, dtype=torch.float64)
                count += int(inside.sum())
        total, count = self._total(total), self.samples.total(count)
        # Subtracted from float32, it must be a float32 number.
        return (total / max(1, count)).float().double()

    def blocks(self, rows):
        """Yield (rows, x, which positions lie inside) of the samples `rows` of this process."""
        samples = self.samples.chosen(rows)
        for part, (x,), _ in samples.numbered_blocks([self.index], self.device):
            inside = samples.cache.read_inside(self.index, part)
            yield part, x, None if inside is None else inside.to(self.device)

    def _zeros(self, *shape):
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def _total(self, value):
        """Sum over the processes, which exchange values on the CPU."""
        return self.samples.total(value.cpu()).to(self.device)
