"""The published HGAD, written plainly: the yardstick that skhgad's speed is measured with.

What the authors' training loop and evaluation do in every step, from the description in Yao et
al., "Hierarchical Gaussian Mixture Normalizing Flow Modeling for Unified Anomaly Detection", ECCV
2024 (arXiv:2403.13349): the frozen backbone runs in every pass and at every image scale, the
position codes are made anew in every step and concatenated to every vector, the flow is a FrEIA
``SequenceINN`` of ``AllInOneBlock``, each vector gathers the centers of its own class, and Adam
steps once for each level. Nothing of skhgad is imported.

Two things are cheaper here than in the authors' code, so that the yardstick is not bent in
skhgad's favour: the intra-class density is computed once for L_in and L_z (theirs computes the
distances twice, once to the centers of all classes), and images are at hand as decoded arrays. The
learning rate follows its cosine step by step, not in plateaus of 8 passes.

Maps and image scores from the evidence of a set of images: `benchmarks.reference_maps`.

FrEIA is needed by this file and by the tests only: ``pip install FrEIA``.
"""

import math

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
LAMBDA1, LAMBDA2 = 1.0, 100.0  # weights of L_g and L_mi
LABEL_SMOOTHING = 0.02
CLAMP = 1.9
SEPARATION = 5.0  # of the class means at the start
FIRST_STAGE = WARMUP = 0.08  # shares of the schedule


def subnet(n_in, n_out):
    """The network of a coupling block: one hidden layer of twice its input's width."""
    return nn.Sequential(nn.Linear(n_in, 2 * n_in), nn.ReLU(), nn.Linear(2 * n_in, n_out))


def position_codes(n_channels, height, width):
    """Sine/cosine codes, (n_channels, height, width): half of them for x, half for y."""
    half = n_channels // 2
    frequency = torch.exp(torch.arange(0.0, half, 2) * -(math.log(1e4) / half))
    x = torch.arange(0.0, width) * frequency[:, None]
    y = torch.arange(0.0, height) * frequency[:, None]
    codes = torch.zeros(n_channels, height, width)
    codes[0:half:2] = torch.sin(x)[:, None, :].repeat(1, height, 1)
    codes[1:half:2] = torch.cos(x)[:, None, :].repeat(1, height, 1)
    codes[half::2] = torch.sin(y)[:, :, None].repeat(1, 1, width)
    codes[half + 1 :: 2] = torch.cos(y)[:, :, None].repeat(1, 1, width)
    return codes


def smooth_one_hot(labels, n_classes, smoothing):
    """Smoothed one-hot rows, one for every vector."""
    rows = torch.zeros(len(labels), n_classes, device=labels.device)
    rows.scatter_(1, labels[:, None], 1.0)
    return rows * (1 - smoothing) + smoothing / n_classes


class Encoder(nn.Module):
    """A frozen backbone seen at several image scales.

    Parameters
    ----------
    backbone : torch.nn.Module
        timm's ``features_only`` model: pixels (n, 3, h, w) to a list of maps. Every map at every
        scale is a level.
    scales : tuple of float
        The published 1, 1/2 and 1/4 with one stage; (1.0,) with several.
    mean, std : list of float
        Of the pixels the backbone was trained on.
    """

    def __init__(self, backbone, scales, mean, std):
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.scales = scales
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, pixels):
        """Map uint8 pixels (n, height, width, 3) to levels (n, channels, h, w)."""
        x = pixels.to(self.mean.device).permute(0, 3, 1, 2).float() / 255
        x = (x - self.mean) / self.std
        maps = []
        for scale in self.scales:
            scaled = x
            if scale != 1:
                size = [max(1, round(scale * side)) for side in x.shape[2:]]
                scaled = F.interpolate(x, size, mode="bilinear", align_corners=True)
            maps += self.backbone(scaled)
        return maps


class ReferenceHGAD(nn.Module):
    """One flow and one hierarchical mixture a level, trained and scored as published.

    Parameters
    ----------
    channels : list of int
        Features of each level.
    n_classes : int
        K; no level may have fewer features.
    encoder : Encoder, default=None
        None = features at hand: `fit` and `evidence` are then given a list of levels (n, channels,
        h, w) in place of images.
    n_steps : int
        Length of the schedule, of which `fit` may do a part.
    seed : int
    """

    def __init__(
        self,
        channels,
        n_classes,
        encoder=None,
        *,
        n_steps,
        n_blocks=12,
        position_channels=256,
        n_centers=10,
        learning_rate=2e-4,
        batch_size=8,
        seed=0,
    ):
        super().__init__()
        if min(channels) < n_classes:
            raise ValueError(f"{n_classes} classes need as many features, got levels {channels}.")
        self.encoder = encoder
        self.channels, self.n_classes = list(channels), n_classes
        self.position_channels = position_channels
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.n_steps, self.step = n_steps, 0
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002  FrEIA's orthogonal matrices come from there
            self.flows = nn.ModuleList(self._flow(d, n_blocks) for d in channels)
            self.deltas = nn.ParameterList(
                torch.randn(n_classes, n_centers - 1, d) for d in channels
            )
        self.means = nn.ParameterList(self._starting_means(d) for d in channels)
        self.class_logits = nn.ParameterList(torch.zeros(n_classes) for _ in channels)
        self.center_logits = nn.ParameterList(torch.zeros(n_classes, n_centers) for _ in channels)
        mixture = [*self.means, *self.deltas, *self.class_logits, *self.center_logits]
        self.optimizer = torch.optim.Adam(
            [
                {
                    "params": [p for p in self.flows.parameters() if p.requires_grad],
                    "weight_decay": 1e-4,
                    "factor": 1.0,
                },
                {"params": mixture, "weight_decay": 0.0, "factor": 3.0},
            ],
            lr=learning_rate,
            betas=(0.95, 0.99),
        )

    def _flow(self, n_features, n_blocks):
        flow = Ff.SequenceINN(n_features)
        for _ in range(n_blocks):
            flow.append(
                Fm.AllInOneBlock,
                cond=0,
                cond_shape=(self.position_channels,),
                subnet_constructor=subnet,
                affine_clamping=CLAMP,
                global_affine_type="SOFTPLUS",
                permute_soft=True,
            )
        return flow

    def _starting_means(self, n_features):
        repeats = n_features // self.n_classes
        means = torch.zeros(self.n_classes, n_features)
        for k in range(repeats):
            means[:, k * self.n_classes : (k + 1) * self.n_classes] = torch.eye(self.n_classes)
        return means * SEPARATION / math.sqrt(2 * repeats)

    # ------------------------------------------------------------ training

    def fit(self, data, labels, n_passes):
        """Do `n_passes` more passes of the schedule.

        Parameters
        ----------
        data : Tensor of shape (n, height, width, 3), uint8, or list of Tensor
            Images, or levels (n, channels, h, w) without an encoder.
        labels : Tensor of shape (n,), int64
        n_passes : int

        Returns
        -------
        list of float
            Mean loss of each pass, summed over levels.
        """
        history = []
        for _ in range(n_passes):
            order = torch.randperm(len(labels), generator=self.generator)
            losses = [
                self.train_step(self._take(data, rows), labels[rows])
                for rows in order.split(self.batch_size)
                if len(rows) == self.batch_size  # the published loader drops the last
            ]
            history.append(sum(losses) / len(losses))
        return history

    def train_step(self, batch, labels):
        """One step of every level on a batch; returns the loss summed over levels."""
        device = self.means[0].device
        labels = labels.to(device)
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        second_stage = self.step >= round(FIRST_STAGE * self.n_steps)
        total = 0.0
        for level, maps in enumerate(self._levels(batch)):
            losses = self.losses(level, maps, labels)
            loss = self.objective(losses, second_stage)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
        self.step += 1
        return total

    def losses(self, level, maps, labels):
        """The five terms of one level, means over all vectors of the batch.

        Parameters
        ----------
        level : int
        maps : Tensor of shape (n, channels, height, width)
        labels : Tensor of shape (n,), int64

        Returns
        -------
        dict of str to Tensor, 0-d
        """
        n, d, height, width = maps.shape
        labels = labels.view(-1, 1, 1).repeat(1, height, width).reshape(-1)  # of every vector
        q = smooth_one_hot(labels, self.n_classes, LABEL_SMOOTHING)
        z, log_det = self._latent(level, maps)

        distances = self._class_distances(level, z)
        log_p = torch.log_softmax(self.class_logits[level], dim=0)
        fixed_log_p = log_p.detach()
        inter = -(torch.logsumexp(-distances / 2 + log_p, dim=1) + log_det) / d
        log_posterior = torch.log_softmax(-distances / 2 + fixed_log_p, dim=1)
        information = torch.sum(q * (log_posterior - fixed_log_p), dim=1)

        density = self._density(level, z, labels) + log_det
        return {
            "inter_class": inter.mean(),
            "mutual_information": information.mean(),
            "entropy": self._entropy(distances).mean(),
            "intra_class": (-density / d).mean(),
            "likelihood_margin": -F.logsigmoid(density / d - HALF_LOG_2PI).mean(),
        }

    def objective(self, losses, second_stage):
        """Weighted sum of the terms."""
        loss = (
            LAMBDA1 * losses["inter_class"]
            - LAMBDA2 * losses["mutual_information"]
            + losses["entropy"]
        )
        if second_stage:
            loss = loss + losses["intra_class"] + losses["likelihood_margin"]
        return loss

    def _learning_rate(self):
        n_warmup = WARMUP * self.n_steps
        lowest = self.learning_rate / 1000

        def cosine(step):
            share = (1 + math.cos(math.pi * step / self.n_steps)) / 2
            return lowest + (self.learning_rate - lowest) * share

        if self.step >= n_warmup:
            return cosine(self.step)
        low = self.learning_rate / 10
        return low + self.step / n_warmup * (cosine(n_warmup) - low)

    # ------------------------------------------------------------ scoring

    @torch.no_grad()
    def evidence(self, data, labels=None, batch_size=1):
        """Log-likelihood and negative entropy at every position.

        Parameters
        ----------
        data : as for `fit`
        labels : Tensor of shape (n,), int64, or None
            Class of each image, which the published evaluation is told. None = the class with the
            highest log-likelihood, summed over positions and levels.
        batch_size : int, default=1
            As published.

        Returns
        -------
        likelihoods, negative_entropies : list of Tensor of shape (n, h, w), on the CPU
            One a level.
        labels : Tensor of shape (n,), int64
        """
        n_images = len(data) if torch.is_tensor(data) else len(data[0])
        likelihoods, entropies, codes = zip(
            *(
                self._batch_evidence(
                    self._take(data, rows), None if labels is None else labels[rows]
                )
                for rows in torch.arange(n_images).split(batch_size)
            ),
            strict=True,
        )
        return (
            [torch.cat(level) for level in zip(*likelihoods, strict=True)],
            [torch.cat(level) for level in zip(*entropies, strict=True)],
            torch.cat(codes),
        )

    def _batch_evidence(self, batch, labels):
        levels = self._levels(batch)
        latents = [self._latent(level, maps) for level, maps in enumerate(levels)]
        if labels is None:
            totals = [self._class_totals(i, *own, len(levels[0])) for i, own in enumerate(latents)]
            labels = sum(totals).argmax(1).cpu()
        likelihoods, entropies = [], []
        for level, (maps, (z, log_det)) in enumerate(zip(levels, latents, strict=True)):
            n, d, height, width = maps.shape
            own = labels.to(z.device).view(-1, 1, 1).repeat(1, height, width).reshape(-1)
            density = (self._density(level, z, own) + log_det) / d - HALF_LOG_2PI
            likelihoods.append(density.reshape(n, height, width).cpu())
            entropy = self._entropy(self._class_distances(level, z))
            entropies.append(-entropy.reshape(n, height, width).cpu())
        return likelihoods, entropies, labels

    def _class_totals(self, level, z, log_det, n):
        """Log-likelihood of each image under every class, (n, K)."""
        totals = []
        for k in range(self.n_classes):
            own = torch.full((len(z),), k, device=z.device)
            totals.append((self._density(level, z, own) + log_det).reshape(n, -1).sum(1))
        return torch.stack(totals, dim=1)

    # ------------------------------------------------------------ the model

    def _latent(self, level, maps):
        """Latent vectors (N, d) of all positions and their log-determinants (N,)."""
        n, d, height, width = maps.shape
        x = maps.permute(0, 2, 3, 1).reshape(-1, d)
        codes = position_codes(self.position_channels, height, width).to(maps)
        codes = codes[None].repeat(n, 1, 1, 1).permute(0, 2, 3, 1)
        return self.flows[level](x, [codes.reshape(-1, self.position_channels)])

    def _class_distances(self, level, z):
        """Squared distances to the class means, (N, K)."""
        means = self.means[level]
        return (z**2).sum(1, keepdim=True) - 2 * z @ means.T + (means**2).sum(1)

    def _density(self, level, z, labels):
        """Log-density of every vector around the centers of its class, (N,)."""
        means = self.means[level].detach()[:, None]
        centers = torch.cat([means, means + self.deltas[level]], dim=1)[labels]  # (N, M, d)
        log_weights = torch.log_softmax(self.center_logits[level], dim=1)[labels]
        distances = torch.sum((z[:, None] - centers) ** 2, dim=2)
        return torch.logsumexp(-distances / 2 + log_weights, dim=1)

    @staticmethod
    def _entropy(distances):
        logits = -distances / 2
        return -torch.sum(torch.softmax(logits, dim=1) * torch.log_softmax(logits, dim=1), dim=1)

    def _levels(self, batch):
        if self.encoder is not None:
            return self.encoder(batch)
        return [level.to(self.means[0].device) for level in batch]

    @staticmethod
    def _take(data, rows):
        return data[rows] if torch.is_tensor(data) else [level[rows] for level in data]
