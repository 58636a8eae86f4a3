"""The detectors that HGAD is compared with, on the same features and with the same maps.

A peer is fitted on rows of `Features` and gives anomaly maps on the detector's grid; blur and
maximum, which make scores of them, are the same for all (`scores_and_maps`).
"""

import math

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn
from torch.nn import functional as F

from skhgad.fitting.covariance import ResidualMoments, shrink, whitening_matrix

_QUERY_BLOCK = 4096


def greedy_coreset(vectors, n_chosen, generator):
    """Choose vectors so that none is far from a chosen one: greedy k-center.

    The first is drawn; each next one is the farthest from those chosen (Sener and Savarese, 2018).

    Parameters
    ----------
    vectors : Tensor of shape (n, d)
    n_chosen : int
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of shape (n_chosen,), int64
        In the order of choice.
    """
    squares = vectors.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = torch.empty(n_chosen, dtype=torch.int64, device=vectors.device)
    newest = torch.randint(len(vectors), (), generator=generator).to(vectors.device)
    for index in range(n_chosen):
        chosen[index] = newest
        distance = torch.addmv(squares, vectors, vectors[newest], alpha=-2) + squares[newest]
        nearest = torch.minimum(nearest, distance)
        nearest[newest] = -torch.inf  # not again, even among copies
        newest = nearest.argmax()
    return chosen


def drawn_vectors(joined, per_sample, generator):
    """Draw at most so many vectors of each sample of joined (n, positions, d); (n_drawn, d)."""
    keys = torch.rand(joined.shape[:2], generator=generator)
    drawn = keys.argsort(1)[:, :per_sample, None].to(joined.device)
    return joined.gather(1, drawn.expand(-1, -1, joined.shape[2])).flatten(0, 1)


class NearestNeighbours:
    """PatchCore: distance to the nearest of a coreset of training vectors.

    Levels are joined at the finest grid, each divided by the root of its length so that a long
    level does not outvote the others. `max_candidates` vectors are drawn at random, equally many
    from each sample; greedy k-center on a random projection of them keeps the share `coreset` of
    all training vectors, but at most `max_bank`. Scores are distances of image positions; the
    published re-weighting of image scores is left out, since all methods take the maximum.

    References
    ----------
    .. [1] Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
    """

    def __init__(self, coreset=0.01, *, n_projected=128, max_candidates=50_000, max_bank=10_000):
        self.coreset = coreset
        self.n_projected = n_projected
        self.max_candidates = max_candidates
        self.max_bank = max_bank

    def fit(self, features, rows, seed):
        """Store a coreset of the vectors of `rows`."""
        generator = torch.Generator().manual_seed(seed)
        n_positions = math.prod(features.fine_shape)
        per_sample = min(n_positions, math.ceil(self.max_candidates / len(rows)))
        candidates = []
        for _, levels in features.blocks(rows):
            joined = self._joined(features, levels)
            candidates.append(drawn_vectors(joined, per_sample, generator))
        candidates = torch.cat(candidates)
        n_kept = math.ceil(self.coreset * len(rows) * n_positions)
        n_kept = min(n_kept, self.max_bank, len(candidates))
        if n_kept < len(candidates):
            chosen = greedy_coreset(self._projected(candidates, generator), n_kept, generator)
            candidates = candidates[chosen]
        self.bank = candidates
        return self

    def maps(self, features, rows):
        """Distances to the bank, Tensor (n, height, width)."""
        squares = self.bank.square().sum(1)
        maps = []
        for _, levels in features.blocks(rows):
            joined = self._joined(features, levels)
            nearest = []
            for block in joined.flatten(0, 1).split(_QUERY_BLOCK):
                squared = torch.addmm(squares, block, self.bank.T, alpha=-2).amin(1)
                nearest.append((squared + block.square().sum(1)).clamp_min(0).sqrt())
            distances = torch.cat(nearest).view(joined.shape[:2])
            maps.append(features.on_grid(distances, features.fine_shape))
        return torch.cat(maps)

    @staticmethod
    def _joined(features, levels):
        return features.joined([level.float() / level.shape[2] ** 0.5 for level in levels])

    def _projected(self, vectors, generator):
        if vectors.shape[1] <= self.n_projected:
            return vectors
        projection = torch.randn(vectors.shape[1], self.n_projected, generator=generator)
        return vectors @ projection.to(vectors.device)


class PaDiM:
    """A Gaussian at each position, of `n_dims` channels drawn from the joined levels.

    Its covariance is that of the training vectors of the position plus `regularisation` times the
    identity; the anomaly is the Mahalanobis distance. Images only.

    References
    ----------
    .. [1] Defard et al., "PaDiM: a Patch Distribution Modeling Framework", ICPR workshops 2021.
    """

    def __init__(self, n_dims=100, *, regularisation=0.01):
        self.n_dims = n_dims
        self.regularisation = regularisation

    def fit(self, features, rows, seed):
        """Estimate mean and covariance at each position."""
        lengths = [d for d, _, _ in features.shapes]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.zeros(sum(lengths), dtype=torch.bool)
        drawn[torch.randperm(len(drawn), generator=generator)[: self.n_dims]] = True
        self.dims = [own.nonzero()[:, 0].to(features.device) for own in drawn.split(lengths)]
        total = sum(x.sum(0) for x in self._drawn(features, rows))
        self.mean = total / len(rows)
        scatter = 0
        for x in self._drawn(features, rows):
            centered = (x - self.mean).transpose(0, 1)  # positions, n, dims
            scatter = scatter + centered.mT @ centered
        covariance = scatter / max(1, len(rows) - 1)
        covariance.diagonal(dim1=1, dim2=2).add_(self.regularisation)
        self.factor = torch.linalg.cholesky(covariance)
        return self

    def maps(self, features, rows):
        """Mahalanobis distances, Tensor (n, height, width)."""
        maps = []
        for x in self._drawn(features, rows):
            centered = (x - self.mean).permute(1, 2, 0)  # positions, dims, n
            white = torch.linalg.solve_triangular(self.factor, centered, upper=False)
            maps.append(features.on_grid(white.square().sum(1).sqrt().T, features.fine_shape))
        return torch.cat(maps)

    def _drawn(self, features, rows):
        for _, levels in features.blocks(rows):
            yield features.joined(
                [x[:, :, dims] for x, dims in zip(levels, self.dims, strict=True)]
            )


class Mahalanobis:
    """A Ledoit-Wolf Gaussian of the vectors of each level, all positions together.

    The squared distances of a level are standardised by their mean and deviation over the training
    maps, so that levels can be summed.
    """

    def fit(self, features, rows, seed):
        """Estimate the Gaussians; nothing random (`seed` is not used)."""
        sums = [0.0] * len(features.shapes)
        for _, levels in features.blocks(rows):
            sums = [s + x.double().sum((0, 1)) for s, x in zip(sums, levels, strict=True)]
        self.means = [
            s / (len(rows) * height * width)
            for s, (_, height, width) in zip(sums, features.shapes, strict=True)
        ]
        moments = [ResidualMoments(d, features.device) for d, _, _ in features.shapes]
        for _, levels in features.blocks(rows):
            for own, x, mean in zip(moments, levels, self.means, strict=True):
                x = x.double().flatten(0, 1)
                own.update(x - mean, x)
        self.whiteners = [
            whitening_matrix(shrink(own.covariance(), own.ledoit_wolf_shrinkage()))
            for own in moments
        ]
        count, total, squares = 0, 0.0, 0.0
        for _, levels in features.blocks(rows):
            distances = [d.double() for d in self.distances(levels)]
            count += len(levels[0])
            total = total + torch.stack([d.mean(1).sum() for d in distances])
            squares = squares + torch.stack([d.square().mean(1).sum() for d in distances])
        self.location = total / count
        self.scale = (squares / count - self.location.square()).clamp_min(1e-12).sqrt()
        return self

    def maps(self, features, rows):
        """Standardised distances summed over levels, Tensor (n, height, width)."""
        maps = []
        for _, levels in features.blocks(rows):
            standardised = (
                features.on_grid((distance - location) / scale, shape[1:])
                for distance, location, scale, shape in zip(
                    self.distances(levels), self.location, self.scale, features.shapes, strict=True
                )
            )
            maps.append(sum(standardised))
        return torch.cat(maps)

    def distances(self, levels):
        """Squared Mahalanobis distances of every level, Tensors (n, positions)."""
        return [
            ((x - mean.to(x.dtype)) @ whitener.to(x.dtype)).square().sum(2)
            for x, mean, whitener in zip(levels, self.means, self.whiteners, strict=True)
        ]


class Reconstruction:
    """Features reconstructed through a narrow bottleneck with dropout, after Dinomaly.

    At each position, the levels are joined on the finest grid, each channel divided by its spread
    over the training vectors. An MLP with dropout narrows them to a fourth, a light decoder (one
    hidden layer) reconstructs them. It learns, and scores, the cosine distance between a level and
    its reconstruction, averaged over the levels. Dinomaly's transformer over the whole image, its
    grouping of layers and its hard mining are left out. `max_candidates` vectors are drawn for
    training, equally many from each sample. Images only.

    References
    ----------
    .. [1] Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly
       Detection", CVPR 2025.
    """

    def __init__(
        self, *, dropout=0.3, n_steps=600, batch_size=2048, learning_rate=2e-3,
        max_candidates=100_000,
    ):  # fmt: skip
        self.dropout = dropout
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_candidates = max_candidates

    def fit(self, features, rows, seed):
        """Train the network on drawn vectors of `rows`."""
        generator = torch.Generator().manual_seed(seed)
        self.lengths = [d for d, _, _ in features.shapes]
        per_sample = math.ceil(self.max_candidates / len(rows))
        joined = (
            features.joined([x.float() for x in levels]) for _, levels in features.blocks(rows)
        )
        vectors = torch.cat([drawn_vectors(x, per_sample, generator) for x in joined])
        self.mean, self.spread = vectors.mean(0), vectors.std(0).clamp_min(1e-6)
        vectors = (vectors - self.mean) / self.spread
        # Dropout and the first weights draw from the global generator.
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            self.network = self._network(vectors.shape[1]).to(vectors.device)
            self._train(vectors, generator)
        self.network.eval()
        return self

    def _network(self, n_features):
        narrow = max(1, n_features // 4)
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(n_features, 2 * narrow),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(2 * narrow, narrow),
            nn.Dropout(self.dropout),
            nn.Linear(narrow, 2 * narrow),
            nn.GELU(),
            nn.Linear(2 * narrow, n_features),
        )

    def _train(self, vectors, generator):
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_steps)
        for _ in range(self.n_steps):
            drawn = torch.randint(len(vectors), (self.batch_size,), generator=generator)
            loss = self._distances(vectors[drawn.to(vectors.device)]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _distances(self, vectors):
        """Cosine distance of each vector (..., d) to its reconstruction, mean over the levels."""
        pairs = zip(
            vectors.split(self.lengths, -1),
            self.network(vectors).split(self.lengths, -1),
            strict=True,
        )
        return sum(1 - F.cosine_similarity(x, y, dim=-1) for x, y in pairs) / len(self.lengths)

    @torch.no_grad()
    def maps(self, features, rows):
        """Cosine distances, Tensor (n, height, width)."""
        maps = []
        for _, levels in features.blocks(rows):
            joined = features.joined([x.float() for x in levels])
            distances = self._distances((joined - self.mean) / self.spread)
            maps.append(features.on_grid(distances, features.fine_shape))
        return torch.cat(maps)


class VectorDetector:
    """An outlier detector of scikit-learn on a table; `make` builds one from a seed."""

    def __init__(self, make):
        self.make = make

    def fit(self, features, rows, seed):
        """Fit it on the vectors of `rows`."""
        self.model = self.make(seed).fit(self._vectors(features, rows))
        return self

    def maps(self, features, rows):
        """Minus its normality scores as maps of one pixel."""
        scores = -self.model.score_samples(self._vectors(features, rows))
        return torch.from_numpy(scores)[:, None, None]

    @staticmethod
    def _vectors(features, rows):
        return np.concatenate([x[:, 0].cpu().numpy() for _, (x,) in features.blocks(rows)])


class GaussianMixtureDetector(VectorDetector):
    """A Gaussian mixture whose components share one full covariance.

    `reg_covar` is a tenth of the mean variance of the features: with few samples a class, a
    covariance of its own for every component would be singular.
    """

    def __init__(self, n_components):
        self.n_components = n_components

    def fit(self, features, rows, seed):
        """Fit it on the vectors of `rows`."""
        X = self._vectors(features, rows)
        self.model = GaussianMixture(
            min(self.n_components, len(X)),
            covariance_type="tied",
            reg_covar=max(0.1 * X.var(0).mean(), 1e-12),
            random_state=seed,
        ).fit(X)
        return self


def make_peer(key, is_images, n_classes):
    """Build an unfitted peer.

    Parameters
    ----------
    key : {"nn", "padim", "mahalanobis", "reconstruction", "iforest", "lof", "ocsvm", "gmm"}
    is_images : bool
        Tables keep all vectors (up to 10,000) as neighbours, and know neither PaDiM nor the
        reconstruction.
    n_classes : int
        Classes that this one model will see.
    """
    makers = {
        "nn": lambda: NearestNeighbours(0.01 if is_images else 1.0),
        "padim": PaDiM,
        "mahalanobis": Mahalanobis,
        "reconstruction": Reconstruction,
        "iforest": lambda: VectorDetector(lambda seed: IsolationForest(random_state=seed)),
        "lof": lambda: VectorDetector(lambda seed: LocalOutlierFactor(novelty=True)),
        "ocsvm": lambda: VectorDetector(
            lambda seed: make_pipeline(StandardScaler(), OneClassSVM(gamma="scale"))
        ),
        "gmm": lambda: GaussianMixtureDetector(n_classes),
    }
    return makers[key]()


def scores_and_maps(peer, features, rows):
    """Score samples with a fitted peer.

    Returns
    -------
    scores : ndarray of shape (n,), float64
        Minus the maximum of the blurred map.
    maps : Tensor of shape (n, height, width), on the CPU
    """
    maps = features.blur(peer.maps(features, rows)).cpu()
    return -maps.amax((1, 2)).double().numpy(), maps.float()
