"""The detectors of the tables benchmark: each is fitted on normals and gives anomaly scores.

A method is a function of the samples to fit on and those to score, float64 arrays of shape
(n, n_features). It returns scores of shape (n_test,), higher = more anomalous.
"""

import contextlib
import inspect
import io
import warnings
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import nn
from torch.nn import functional as F

from skhgad import HGADDetector

# Key, title, and where PyOD has it. The defaults of PyOD, seed 0.
_PYOD = {
    "pyod-knn": ("KNN", "knn.KNN"),
    "pyod-ecod": ("ECOD", "ecod.ECOD"),
    "pyod-copod": ("COPOD", "copod.COPOD"),
    "pyod-lunar": ("LUNAR", "lunar.LUNAR"),
    "pyod-dif": ("DIF", "dif.DIF"),
    "pyod-deepsvdd": ("DeepSVDD", "deep_svdd.DeepSVDD"),
    "pyod-vae": ("VAE", "vae.VAE"),
    "pyod-autoencoder": ("AutoEncoder", "auto_encoder.AutoEncoder"),
    "pyod-alad": ("ALAD", "alad.ALAD"),
}
_NO_PYOD = (
    '{keys}: PyOD is not installed. pip install pyod, or in the clone pip install ".[benchmarks]", '
    "brings it; without it, name other --methods."
)


class Hgad:
    """An HGADDetector; `n_centers` tells its number of centers after a run."""

    def __init__(self, **parameters):
        self.parameters = parameters

    def __call__(self, train, test):
        """Fit and score."""
        detector = HGADDetector(random_state=0, **self.parameters).fit(train)
        self.n_centers = int(detector.n_components_[0, 0])
        return -detector.score_samples(test)


def nearest_neighbours(train, test):
    """Distance to the fifth neighbour."""
    found = NearestNeighbors(n_neighbors=min(5, len(train))).fit(train)
    return found.kneighbors(test)[0][:, -1]


def gaussian_mixture(train, test):
    """Five Gaussians."""
    model = GaussianMixture(min(5, len(train)), reg_covar=1e-3, random_state=0)
    return -model.fit(train).score_samples(test)


def local_outlier_factor(train, test):
    """LOF with 20 neighbours."""
    model = LocalOutlierFactor(n_neighbors=min(20, len(train) - 1), novelty=True)
    return -model.fit(train).score_samples(test)


def ledoit_wolf(train, test):
    """Mahalanobis distance under the covariance of Ledoit and Wolf."""
    return LedoitWolf().fit(train).mahalanobis(test)


def isolation_forest(train, test):
    """Isolation forest."""
    return -IsolationForest(random_state=0).fit(train).score_samples(test)


class PyodMethod:
    """A detector of PyOD with its defaults; `place` is "module.Class" in pyod.models."""

    def __init__(self, place):
        self.place = place

    def __call__(self, train, test):
        """Fit and score, quietly and reproducibly."""
        module, name = self.place.split(".")
        kind = getattr(import_module(f"pyod.models.{module}"), name)
        known = inspect.signature(kind).parameters
        wanted = {"n_features": train.shape[1], "random_state": 0, "verbose": 0}
        detector = kind(**{key: value for key, value in wanted.items() if key in known})
        # Some have no random_state and draw from the global generators.
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return detector.fit(train).decision_function(test)


class DiffusionTime:
    """How much noise of a diffusion a sample seems to hold, told by a network.

    Normal samples get the noise of a random time, and a network tells to which of seven spans the
    time belongs. The score is the span expected of a sample as it is. Three hidden layers, schedule
    and spans are those of the categorical model of [1]_; 1,000 steps of 256 samples with a larger
    rate stand for its 400 epochs.

    References
    ----------
    .. [1] Livernoche et al., "On Diffusion Modeling for Anomaly Detection", ICLR 2024.
    """

    n_times, n_spans = 400, 7

    def __init__(self, *, n_steps=1000, batch_size=256, learning_rate=1e-3):
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    def __call__(self, train, test):
        """Fit and score."""
        train, test = (torch.from_numpy(X).float() for X in (train, test))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self._trained(train)
        with torch.no_grad():
            posterior = torch.cat([network(part).softmax(1) for part in test.split(4096)])
        return (posterior @ torch.arange(self.n_spans, dtype=posterior.dtype)).numpy()

    def _trained(self, X):
        widths = (X.shape[1], 256, 512, 256)
        layers = [
            layer
            for n_in, n_out in zip(widths, widths[1:], strict=False)
            for layer in (nn.Linear(n_in, n_out), nn.ReLU())
        ]
        network = nn.Sequential(*layers, nn.Linear(widths[-1], self.n_spans))
        kept = (1 - torch.linspace(1e-4, 0.01, self.n_times)).cumprod(0)  # of the variance
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for _ in range(self.n_steps):
            x = X[torch.randint(len(X), (self.batch_size,))]
            times = torch.randint(self.n_times, (self.batch_size,))
            share = kept[times, None]
            noisy = share.sqrt() * x + (1 - share).sqrt() * torch.randn_like(x)
            loss = F.cross_entropy(network(noisy), times * self.n_spans // self.n_times)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network


SKLEARN = {
    "nn": ("nearest neighbours", nearest_neighbours),
    "gmm": ("GMM(5)", gaussian_mixture),
    "lof": ("LOF", local_outlier_factor),
    "ledoit-wolf": ("Ledoit-Wolf", ledoit_wolf),
    "iforest": ("isolation forest", isolation_forest),
}
PYOD = {key: (f"PyOD {title}", PyodMethod(place)) for key, (title, place) in _PYOD.items()}
# Key of each method: title and function.
METHODS = {
    "hgad": ("HGAD", Hgad()),
    "hgad-unclean": ("HGAD, contamination=0.1", Hgad(contamination=0.1)),
    **SKLEARN,
    **PYOD,
    "dte": ("diffusion time", DiffusionTime()),
}


def check_methods(keys):
    """Raise ModuleNotFoundError if a method needs PyOD and it is not there."""
    missing = [key for key in keys if key in PYOD]
    if missing and find_spec("pyod") is None:
        raise ModuleNotFoundError(_NO_PYOD.format(keys=", ".join(missing)), name="pyod")
