"""HGADDetector: one anomaly detector for many product classes, as a scikit-learn estimator."""

import copy
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from .devices import keep_to_one_thread_if_forked
from .features.backbones import FeatureExtractor, image_batches, vector_batches
from .fitting import samples as _fitting
from .fitting.add_class import add_class
from .fitting.discovery import discover_classes
from .fitting.feature_cache import FeatureCache, as_memory
from .fitting.processes import ALONE, Processes
from .images.source import ImageSource
from .parameters import check_parameters, image_size, on_device, resolve_device
from .scoring.calibration import class_scales, hold_out, promised_threshold, threshold
from .scoring.explanation import explain
from .scoring.inspection import inspect, score_batch
from .scoring.scoring_model import ScoringModel, fit_normalizers, resize
from .storage.detector_state import pack, unpack
from .storage.model_folder import load_state, save_state
from .storage.onnx_export import write_onnx
from .validation import check_class_labels, check_X, check_y

_GRID_STRIDE = 4  # image pixels to one position of the map on which levels are summed
_PUBLISHED = {
    "backbone": "tf_efficientnet_b6",
    "out_indices": (3,),
    "image_size": 1024,
    "image_scales": (1.0, 0.5, 0.25),
    "pool_size": 1,
    "fuse_stages": False,
    "feature_power": 1.0,
    "start": "published",
    "n_blocks": 12,
    "hidden_ratio": 2.0,
    "clamp": 1.9,
    "position_channels": 256,
    "n_components": 10,
    "class_separation": 5.0,
    "center_scale": 1.0,
    "class_covariance": False,
    "background_weight": 0.0,
    "max_iter": 200,
    "batch_size": 8,
    "position_fraction": 1.0,
    "learning_rate": 2e-4,
    "center_lr_factor": 3.0,
    "betas": (0.95, 0.99),
    "weight_decay": 1e-4,
    "warmup_fraction": 0.08,
    "final_lr_fraction": 1e-3,
    "first_stage_fraction": 0.08,
    "lambda_inter": 1.0,
    "lambda_mi": 100.0,
    "lambda_entropy": 1.0,
    "lambda_intra": 1.0,
    "label_smoothing": 0.02,
    "criterion": "likelihood_entropy",
    "map_normalization": "exponential",
    "class_calibration": False,
    "blur_sigma": 4.0,
    "validation_fraction": 0.0,
}


class HGADDetector(OutlierMixin, BaseEstimator):
    """Hierarchical Gaussian mixture normalizing flow for unified anomaly detection.

    One model learns what normal samples of many product classes look like and finds anomalies in
    all of them. Features (a frozen backbone's maps of an image, or the vectors given) pass through
    a normalizing flow into a latent space with one Gaussian component per class and several
    centers inside each class. A sample is anomalous where the likelihood under its class is low
    and where the class posterior is undecided.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="tf_efficientnet_lite0"
        A timm model name, or a module that maps images (n, 3, h, w) to a list of feature maps.
        Not used for feature vectors.
    weights : "auto", None or path, default="auto"
        "auto": the weights embedded with skhgad for tf_efficientnet_lite0 (no network), timm's
        hub weights for other models (network). None: random. Else a local checkpoint.
    out_indices : tuple of int, default=(2, 3, 4)
        Stages of the backbone, fine to coarse, as in timm's ``features_only``; strides 8, 16, 32.
    image_size : int or (height, width), default=256
        Images are resized to this, antialiased.
    image_scales : tuple of float, default=(1.0,)
        The backbone sees each image at these multiples of `image_size`; every scale and stage is
        one level with a flow of its own.
    pool_size : int, default=1
        Vectors are means over neighbourhoods of this many positions a side; odd.
    fuse_stages : bool, default=True
        Describe each stage but the finest together with the mean and standard deviation of finer
        stages inside each of its positions; these are the levels. False: each stage is a level.
    feature_power : float, default=0.5
        Image features x become ``sign(x) * abs(x) ** feature_power``, which draws in heavy tails.
    value_range : (low, high), default=None
        Pixel values meaning black and white, for images of more than 8 bits.
    start : {"whitened", "published"}, default="whitened"
        "whitened": features are whitened by the pooled within-class covariance and coupling
        blocks start at the identity. "published": raw features, random blocks.
    whitening_shrinkage : float in [0, 1], "ledoit_wolf" or "auto", default="auto"
        Shrinkage of that covariance to the identity of equal mean variance; "auto": 0.1 for
        images, 0.9 for feature vectors.
    n_blocks : int, default=4
        Coupling blocks of each flow. 0 leaves the linear start alone.
    hidden_ratio : float, default=0.5
        Width of a block's hidden layer over the width of its input.
    clamp : float, default=1.9
        Largest log-scale of a coupling.
    position_channels : int, default=32
        Length of the position codes that condition the flow, a multiple of 4; 0 = none.
    n_components : int, default=10
        Centers inside each class, M.
    class_separation : float, default=5.0
        Distance between the class means in latent space at the start.
    center_scale : float, default=1.0
        Standard deviation of the starting offsets of the centers.
    class_covariance : bool, default=True
        Give every class the (Ledoit-Wolf) covariance of its latent vectors after training;
        False = unit covariances, as published.
    background_weight : float, default=0.5
        With `class_covariance` and several classes: how much of what a background model, one
        Gaussian over all classes, predicts of the log-likelihood of normal vectors is taken off.
        What is unusual for everything (contrast, brightness) then counts less than what is unusual
        for the class. 0 = none, as published; 1 = the full regression on held-out normals.
    n_classes : int, "discover" or "auto", default="auto"
        "auto": the classes in y, one without y. With y None or a single class, an int finds that
        many classes by clustering, and "discover" finds their number too, up to 100: the largest
        one whose clusters are all found again in random parts of the samples. A class needs 5
        samples to be counted, better 20.
    max_iter : int or "auto", default="auto"
        Passes over the training data. "auto": enough for 240 steps (images) or 120 (vectors); none
        with fewer than 10 training vectors per feature, which teach a whitened flow nothing.
    batch_size : int or "auto", default="auto"
        Samples in a training step.
    position_fraction : float in (0, 1], default=0.25
        Share of the positions of a map drawn for each step.
    learning_rate : float or "auto", default="auto"
        Peak learning rate of Adam for the flow.
    center_lr_factor : float, default=3.0
        Learning rate of the mixture over that of the flow.
    betas : (float, float), default=(0.95, 0.99)
    weight_decay : float, default=1e-4
        On the flow only.
    warmup_fraction, final_lr_fraction : float, default=0.08, 1e-3
        Linear warm-up over this share of the steps, then cosine decay to this share of the peak.
    first_stage_fraction : float, default=0.08
        Share of the steps before the intra-class terms join.
    lambda_inter, lambda_mi, lambda_entropy, lambda_intra : float, default=1, 10, 1, 1
        Weights of the inter-class likelihood, the mutual information (maximised), the posterior
        entropy, and the two intra-class terms.
    label_smoothing : float in [0, 1), default=0.02
    criterion : {"auto", "likelihood_entropy", "likelihood", "entropy"}, default="auto"
        What makes the anomaly map; "auto": likelihood and entropy for images, likelihood alone
        for feature vectors, whose class posterior is rarely in doubt.
    entropy_weight : float, default=0.3
        Weight of the entropy beside the likelihood in "standardized" maps.
    map_normalization : {"standardized", "exponential"}, default="standardized"
        How levels and terms are made comparable; "exponential" is the published one.
        "standardized": in standard deviations from the mean over held-out normals of the class,
        of the likelihood also at each position.
    class_calibration : bool, default=True
        Put the scores of all classes on one scale, measured on held-out normals, so that one
        threshold serves all products.
    blur_sigma : float, default=1.0
        Gaussian blur of maps, in pixels of a map 256 pixels high.
    validation_fraction : float in [0, 1), default=0.2
        Share of each class's normals kept from training to calibrate scores, `offset_` and
        p-values. Classes of fewer than 5 samples keep all for training and borrow the others'
        calibration.
    contamination : float in (0, 0.5] or "auto", default="auto"
        A float puts `offset_` so that this share of the training normals is flagged. "auto": about
        5 % of fresh normals of every class are flagged.
    unknown_rate : float in (0, 1), default=None
        A float makes `predict_class` answer "unknown" (-1 where classes are ints) where a sample
        fits its class worse than all but this share of the held-out normals of that class: images
        by the likelihood of their median position, which a local defect hardly moves, vectors by
        their score. Needs 1 / `unknown_rate` - 1 held-out normals a class.
        May be set after the fit.
    cache_budget : int or "auto", default="auto"
        Bytes of features to hold in memory during fit, "auto" = half of the free memory; past it
        they go to a temporary memory-mapped float16 file.
    device : str or torch.device, default="auto"
        "auto" = the GPU where there is one.
    mixed_precision : bool or "auto", default="auto"
        Whether the flow trains with products in bfloat16, and a GPU runs the backbone in float16;
        everything else is in float32 or float64, all scoring on a CPU among it. "auto" = bfloat16
        where the processor or the GPU multiplies in it, float16 on every GPU.
    memory : None, str, path or joblib.Memory, default=None
        Where features of images are remembered, image by image, between fits and scorings.
    n_jobs : int, default=None
        Threads that decode images. None = one, or several where a GPU would wait for them.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        >= 1 shows progress bars.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Product classes.
    offset_ : float
        ``decision_function = score_samples - offset_``.
    n_features_in_ : int
        Only after a fit on feature vectors.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only after a fit on a DataFrame with string column names.
    n_iter_ : int
        Passes done.
    history_ : list of dict
        One a pass: loss, learning rate and every term, means over steps, summed over levels.
        Terms not yet counted are nan.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Detector for feature vectors of one class.

    References
    ----------
    .. [1] X. Yao, R. Li, Z. Qian, L. Wang, C. Zhang, "Hierarchical Gaussian Mixture Normalizing
       Flow Modeling for Unified Anomaly Detection", ECCV 2024, arXiv:2403.13349.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad import HGADDetector
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(0, 1, (100, 8)), rng.normal(6, 1, (100, 8))])
    >>> y = ["bolt"] * 100 + ["nut"] * 100
    >>> detector = HGADDetector(random_state=0).fit(X, y)
    >>> detector.predict([[0.0] * 8, [6.0] * 8, [3.0] * 8]).tolist()
    [1, 1, -1]
    >>> detector.predict_class([[0.0] * 8, [6.0] * 8]).tolist()
    ['bolt', 'nut']
    """

    def __init__(
        self,
        backbone="tf_efficientnet_lite0",
        *,
        weights="auto",
        out_indices=(2, 3, 4),
        image_size=256,
        image_scales=(1.0,),
        pool_size=1,
        fuse_stages=True,
        feature_power=0.5,
        value_range=None,
        start="whitened",
        whitening_shrinkage="auto",
        n_blocks=4,
        hidden_ratio=0.5,
        clamp=1.9,
        position_channels=32,
        n_components=10,
        class_separation=5.0,
        center_scale=1.0,
        class_covariance=True,
        background_weight=0.5,
        n_classes="auto",
        max_iter="auto",
        batch_size="auto",
        position_fraction=0.25,
        learning_rate="auto",
        center_lr_factor=3.0,
        betas=(0.95, 0.99),
        weight_decay=1e-4,
        warmup_fraction=0.08,
        final_lr_fraction=1e-3,
        first_stage_fraction=0.08,
        lambda_inter=1.0,
        lambda_mi=10.0,
        lambda_entropy=1.0,
        lambda_intra=1.0,
        label_smoothing=0.02,
        criterion="auto",
        entropy_weight=0.3,
        map_normalization="standardized",
        class_calibration=True,
        blur_sigma=1.0,
        validation_fraction=0.2,
        contamination="auto",
        unknown_rate=None,
        cache_budget="auto",
        device="auto",
        mixed_precision="auto",
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.out_indices = out_indices
        self.image_size = image_size
        self.image_scales = image_scales
        self.pool_size = pool_size
        self.fuse_stages = fuse_stages
        self.feature_power = feature_power
        self.value_range = value_range
        self.start = start
        self.whitening_shrinkage = whitening_shrinkage
        self.n_blocks = n_blocks
        self.hidden_ratio = hidden_ratio
        self.clamp = clamp
        self.position_channels = position_channels
        self.n_components = n_components
        self.class_separation = class_separation
        self.center_scale = center_scale
        self.class_covariance = class_covariance
        self.background_weight = background_weight
        self.n_classes = n_classes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.position_fraction = position_fraction
        self.learning_rate = learning_rate
        self.center_lr_factor = center_lr_factor
        self.betas = betas
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.final_lr_fraction = final_lr_fraction
        self.first_stage_fraction = first_stage_fraction
        self.lambda_inter = lambda_inter
        self.lambda_mi = lambda_mi
        self.lambda_entropy = lambda_entropy
        self.lambda_intra = lambda_intra
        self.label_smoothing = label_smoothing
        self.criterion = criterion
        self.entropy_weight = entropy_weight
        self.map_normalization = map_normalization
        self.class_calibration = class_calibration
        self.blur_sigma = blur_sigma
        self.validation_fraction = validation_fraction
        self.contamination = contamination
        self.unknown_rate = unknown_rate
        self.cache_budget = cache_budget
        self.device = device
        self.mixed_precision = mixed_precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def paper(cls, **overrides):
        """Return the published configuration (ECCV 2024), unfitted.

        Parameters
        ----------
        **overrides
            Parameters to set differently.

        Returns
        -------
        HGADDetector

        Notes
        -----
        What stays ours: classes are inferred and every constant is frozen at fit on training
        normals, where the authors' evaluation is told the class and takes maxima over test sets.
        """
        return cls(**{**_PUBLISHED, **overrides})

    def fit(self, X, y=None):
        """Learn the normal samples of all classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Feature vectors; or an array (n, height, width[, channels]), or a list of paths, PIL
            images or image arrays.
        y : array-like of shape (n_samples,), default=None
            Product class of each sample (str or int). -1 or "-1" marks a known anomaly, which is
            left out. None = one class, unless `n_classes` asks for classes to be discovered.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            Naming the parameter, label, image or file that cannot be used.
        FloatingPointError
            If the loss is not finite.
        RuntimeError
            In a group of processes, where another one failed.

        Notes
        -----
        Where `torch.distributed` is initialised, all processes of the group call fit together, with
        the same X and y, and share the work. Each then holds the same detector.
        """
        before = self.__dict__.copy()
        try:
            self._fit(X, y)
        except BaseException:  # also Ctrl-C: nothing half-fitted is left behind
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def add_class(self, X, y):
        """Learn the normal samples of new classes in closed form; the others stay as they are.

        Parameters
        ----------
        X : array-like or images
            Normal samples of the new classes, of the kind seen at fit.
        y : str, int or array-like of shape (n_samples,)
            Label of the new class, or of each sample; none of `classes_`. -1 or "-1" marks a
            known anomaly, which is left out.

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            Naming the label or sample that cannot be used; or the detector was fitted with
            ``class_covariance=False``. On any error the detector stays as it was.

        Warns
        -----
        UserWarning
            If a class is too small to hold samples out; it then borrows the known classes' scale.

        Notes
        -----
        Backbone, start and flow stay, and so does the background. A new class becomes one
        Gaussian, all its centers at its latent mean, with its own covariance, and its scores are
        put on the common scale by a share `validation_fraction` of its samples. With
        `class_labels` given, samples of the classes known before score exactly as before; without,
        they may be taken for the new class. `offset_` is derived anew from the calibration samples
        of all classes where ``contamination="auto"`` and it is still what `fit` chose; else it
        stays.
        """
        check_is_fitted(self)
        keep_to_one_thread_if_forked()
        self.__dict__.update(add_class(self, X, y))
        return self

    def fit_predict(self, X, y=None):
        """Fit on X and y, then return `predict` of X: ndarray of shape (n_samples,), +1 or -1."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X, *, class_labels=None):
        """Score the normality of each sample: higher = more normal.

        Parameters
        ----------
        X : array-like or images
            Of the kind seen at fit.
        class_labels : array-like of shape (n_samples,), str or int, default=None
            Product class of each sample, where known; None = inferred by likelihood.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Minus the maximum of the anomaly map. With `class_calibration`, in units of the mean
            excess of held-out normals over their median, which scores 0, class by class.
        """
        _, scores, _, _ = self._score(X, class_labels)
        return scores

    def decision_function(self, X, *, class_labels=None):
        """Return ``score_samples(X) - offset_``: negative = anomaly, ndarray (n_samples,)."""
        return self.score_samples(X, class_labels=class_labels) - self.offset_

    def predict(self, X, *, class_labels=None):
        """Return -1 where `decision_function` is negative, else +1: ndarray (n_samples,), int."""
        return np.where(self.decision_function(X, class_labels=class_labels) < 0, -1, 1)

    def score(self, X, y=None):
        """Mean of `score_samples` over the samples not labelled -1.

        Parameters
        ----------
        X : array-like or images
        y : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            For model selection without anomalies.
        """
        scores = self.score_samples(X)
        if y is not None:
            scores = scores[check_y(y, len(scores))[0] >= 0]
        return float(scores.mean())

    def predict_class(self, X):
        """Infer the product class of each sample.

        Parameters
        ----------
        X : array-like or images

        Returns
        -------
        ndarray of shape (n_samples,)
            Elements of `classes_`; with `unknown_rate` also "unknown", or -1 where classes are
            ints.
        """
        return self.inspect(X).class_label

    def inspect(self, X, *, class_labels=None, maps=False):
        """Score X once and return everything there is to say of it.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        maps : bool, default=False
            Whether to return anomaly maps, each of its own image's size.

        Returns
        -------
        Inspection
            Named tuple of `class_label`, `score`, `p_value` and `is_anomaly`, ndarrays of shape
            (n_samples,), and `maps`, a list of ndarray (height, width), or None.

        Raises
        ------
        ValueError
            If maps are asked for after a fit on feature vectors.
        """
        check_is_fitted(self)
        if maps:
            self._require_images("maps=True")
        return inspect(self, X, class_labels, maps)

    def anomaly_maps(self, X, *, class_labels=None):
        """Where each image is anomalous.

        Parameters
        ----------
        X : images
        class_labels : array-like of shape (n_samples,), str or int, default=None

        Returns
        -------
        maps : ndarray of shape (n_samples, height, width), float32
            Higher = more anomalous, in units of `score_samples`. Height and width are those of the
            images, or `image_size` where these differ.

        Raises
        ------
        ValueError
            After a fit on feature vectors.
        """
        check_is_fitted(self)
        self._require_images("anomaly_maps")
        _, _, grids, sizes = self._score(X, class_labels, keep_maps=True)
        size = sizes[0] if len(set(sizes)) == 1 else image_size(self.image_size)
        maps = np.empty((len(grids), *size), dtype=np.float32)
        for row, grid in enumerate(grids):
            maps[row] = resize(grid[None], size)[0].numpy()
        return maps

    def p_values(self, X, *, class_labels=None):
        """Chance that a fresh normal sample of the same class scores as low.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None

        Returns
        -------
        ndarray of shape (n_samples,), in (0, 1]
            Class-conditional conformal p-values from the held-out normals of the class: given to
            fit, if `class_labels` are given, else inferred like that of the sample.
        """
        return self.inspect(X, class_labels=class_labels).p_value

    def explain(self, X, *, class_labels=None, threshold=None):
        """Say of each sample where it is anomalous, how much, and by which evidence.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        threshold : float, default=None
            Pixels whose anomaly map lies above it make regions; None = ``-offset_``, from which
            an image is flagged.

        Returns
        -------
        list of Explanation
            Named tuples of `class_label`, `score`, `p_value`, `is_anomaly`, `peak`,
            `peak_position`, `area`, `regions`, `level` and `term`. Vectors have no place: `peak`,
            `peak_position` and `area` are None and `regions` is empty.

        Raises
        ------
        ValueError
            If the threshold is no finite number.
        """
        check_is_fitted(self)
        return explain(self, X, class_labels, threshold)

    def set_threshold(self, *, false_alarm_rate):
        """Move `offset_` so that about this share of fresh normal samples is flagged; no refit.

        Parameters
        ----------
        false_alarm_rate : float in (0, 1)
            Share of the normal samples of all classes together. With `class_calibration` it is
            about the same in every class.

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            If the rate is not between 0 and 1.

        Warns
        -----
        UserWarning
            With fewer than ``1 / false_alarm_rate - 1`` calibration samples, which cannot promise
            the rate.

        Notes
        -----
        The calibration samples are the held-out normals, `validation_fraction` of those given to
        fit. Without any they are the training samples, on which the rate is optimistic.
        """
        check_is_fitted(self)
        self.offset_ = promised_threshold(self._calibration.scores, false_alarm_rate)
        return self

    def save(self, folder):
        """Write the fitted detector to a folder: safetensors and JSON, no pickle.

        Parameters
        ----------
        folder : str or path
            Created, or replaced if it holds a model; replaced only when the new one is complete.

        Raises
        ------
        NotFittedError
        ValueError
            If the place is taken by something else.
        OSError
            If it cannot be written.
        """
        check_is_fitted(self)
        save_state(folder, *pack(self))

    @classmethod
    def load(cls, folder, *, backbone=None):
        """Read a detector that `save` wrote.

        Parameters
        ----------
        folder : str or path
        backbone : torch.nn.Module, default=None
            The module the detector was fitted with, if it was no timm model; its weights are
            replaced by the saved ones.

        Returns
        -------
        HGADDetector
            Fitted, on the CPU until used.

        Raises
        ------
        FileNotFoundError, ValueError
            No model, unknown format, damaged or inconsistent content.
        """
        tensors, description = load_state(folder)
        try:
            return unpack(cls, tensors, description, backbone)
        except ValueError as error:
            raise ValueError(f"{str(folder)!r} cannot be loaded: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(f"{str(folder)!r} holds an inconsistent model: {error}") from error

    def to_onnx(self, path):
        """Write the whole scoring path as one ONNX file, for machines without torch.

        Parameters
        ----------
        path : str or path
            Replaced if it exists, when the new file is complete.

        Raises
        ------
        NotFittedError
        ImportError
            If onnx is not installed: ``pip install "skhgad[onnx]"``.
        ValueError
            If no file can be at `path`.
        RuntimeError
            If torch cannot export the backbone.
        OSError
            If the file cannot be written.

        Notes
        -----
        Fitted on images, the input is "image": RGB, uint8 of shape (n, h, w, 3), of any height and
        width; with `value_range`, float32 of that shape with the raw values. Everything else is
        in the graph. The resizing to `image_size` gives the same pixels to the last bit, but takes
        longer than the rest for large images; images that have the size skip it. Fitted on
        vectors, the input is "features": float64 of shape (n, n_features).

        The outputs are "score" (n,), as `score_samples`; "class_index" (n,), into `classes_`; and
        for images "map" (n, h, w), as `anomaly_maps`. They agree within 1e-4 and what float32
        leaves. Classes are inferred, without `unknown_rate`. The file's metadata hold "classes"
        and "image_size", as JSON, and "offset": a lower score is an anomaly.
        """
        check_is_fitted(self)
        write_onnx(self, path)

    def __getstate__(self):
        """Move tensors to the CPU, so that a model fitted on a GPU loads anywhere."""
        state = super().__getstate__().copy()
        for name in ("_model", "_extractor"):
            module = state.get(name)
            if module is not None and next(module.buffers()).device.type != "cpu":
                state[name] = copy.deepcopy(module).cpu()
        return state

    def _fit(self, X, y):
        keep_to_one_thread_if_forked()
        processes = Processes.current()
        with processes.agree():
            parameters = self.get_params(deep=False)
            check_parameters(parameters)
            device, memory = resolve_device(self.device), as_memory(self.memory)
            X = check_X(X, value_range=self.value_range, estimator=self, reset=True)
            codes, classes = check_y(y, len(X))
            random_state = check_random_state(self.random_state)
            is_images = isinstance(X, ImageSource)
            extractor = self._feature_extractor(self.weights) if is_images else None
        processes.check_data(X, codes, classes)
        if is_images:
            processes.share_state(extractor)
        random_state = processes.broadcast(random_state)
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
        normal = np.flatnonzero(codes >= 0)
        level_shapes = _fitting.level_shapes(X, extractor)
        with self._cached_features(X, extractor, normal, device, memory, processes) as cache:
            codes = codes[normal]
            codes, classes = self._find_classes(cache, codes, classes, random_state)
            n_classes = len(classes)
            held_out = hold_out(codes, self.validation_fraction, random_state)
            if processes.is_first:
                self._warn_uncalibrated(codes, classes, held_out)
            rows = np.flatnonzero(~held_out)
            levels = [
                _fitting.build_level(
                    parameters, cache, index, shape[1:], rows, codes, n_classes, generator
                )
                for index, shape in enumerate(level_shapes)
            ]
            plan = _fitting.training_plan(parameters, len(rows), level_shapes, device)
            if not plan.n_passes:  # centers at random would only blur classes that are tight
                for level in levels:
                    level.mixture.offsets.data.zero_()
            history = _fitting.train_levels(
                levels, cache, rows, codes, plan, generator, device, self.verbose,
                on_pass=self._on_pass,
            )  # fmt: skip
            model = self._scoring_model(levels, extractor)
            model = model.cpu().to(torch.float32 if is_images else torch.float64)
            for level in levels:
                level.drop_last_mix()
            if self.class_covariance:
                _fitting.fit_covariances(levels, cache, rows, codes)
            model.to(device)
            calibration = self._calibrate(model, cache, codes, held_out, device)
            if self.contamination == "auto":
                offset = threshold(calibration.scores)
            else:
                scores = _fitting.scores_of(model, cache, device)
                offset = float(np.percentile(scores, 100 * self.contamination))
        processes.share_state(model)  # machines that differ round differently
        calibration, offset = processes.broadcast((calibration, offset))
        self._model, self._extractor = model, extractor
        self._calibration = calibration
        self.classes_ = classes
        self.offset_ = offset
        self.history_ = history
        self.n_iter_ = plan.n_passes

    def _on_pass(self, number, levels):
        """Nothing; a subclass that wants to look at the levels after each pass overrides it."""

    def _feature_extractor(self, weights, levels=None):
        """Build the backbone as the parameters ask, with `weights`; `levels` if known."""
        return FeatureExtractor(
            self.backbone,
            weights,
            self.out_indices,
            image_size(self.image_size),
            self.image_scales,
            self.pool_size,
            self.fuse_stages,
            self.feature_power,
            levels,
            mixed_precision=bool(self.mixed_precision),
        )

    def _features(self, X, extractor, device, memory, rows=None, *, quiet=False):
        """Iterate over (features, sizes) of X, batch by batch, with a progress bar."""
        if extractor is None:
            yield from vector_batches(X, rows)
            return
        total = len(X) if rows is None else len(rows)
        batches = image_batches(
            X, on_device(extractor, device), rows, device=device, memory=memory, n_jobs=self.n_jobs
        )
        quiet = quiet or self.verbose < 1
        with tqdm(total=total, desc="images", unit="image", disable=quiet) as bar:
            for features, sizes in batches:
                yield features, sizes
                bar.update(len(sizes))

    @contextmanager
    def _cached_features(self, X, extractor, rows, device, memory, processes=ALONE):
        """Enter a FeatureCache that holds the features of some rows of X, shared by processes."""
        own = rows[processes.own(np.arange(len(rows)))]
        shapes = _fitting.level_shapes(X, extractor)
        with processes.agree():
            cache = FeatureCache(
                len(rows),
                [(height * width, n_features) for n_features, height, width in shapes],
                np.float64 if extractor is None else np.float32,
                None if self.cache_budget == "auto" else self.cache_budget,
                processes,
            )
        with cache:
            filled, quiet = 0, not processes.is_first
            with processes.agree():
                for features, _ in self._features(X, extractor, device, memory, own, quiet=quiet):
                    cache.write(filled, features)
                    filled += len(features[0])
            yield cache

    def _find_classes(self, cache, codes, classes, random_state):
        """Discover classes where `n_classes` asks for it; check that it fits y otherwise."""
        if self.n_classes in ("auto", len(classes)):
            return codes, classes
        if len(classes) > 1:
            raise ValueError(
                f"n_classes={self.n_classes!r}, but y names {len(classes)} classes: "
                f"{classes.tolist()[:10]}. Leave n_classes='auto', or y=None to discover classes."
            )
        rows = np.arange(len(codes))
        codes = discover_classes(cache, rows, self.n_classes, random_state)
        return codes, np.arange(codes.max() + 1)

    def _warn_uncalibrated(self, codes, classes, held_out, known_classes=False):
        """Tell which classes are too small to hold samples out."""
        missing = np.setdiff1d(codes, codes[held_out])
        if self.validation_fraction == 0 or not len(missing):
            return
        source = "training samples"
        if held_out.any() or known_classes:
            source = "the other classes' held-out normals"
        warnings.warn(
            f"fewer than 5 normal samples of class {classes[missing].tolist()[:10]}: all were used "
            f"for training, and scores, offset_ and p-values of these classes rest on {source}.",
            UserWarning,
            stacklevel=4,
        )

    def _calibrate(self, model, cache, codes, held_out, device):
        """Freeze the model's constants on held-out normals; return what it finds in them."""
        rows = np.flatnonzero(held_out)
        if not len(rows):
            rows = np.arange(len(codes))
        evidence = _fitting.evidence_of(model, cache, rows, codes, device)
        fit_normalizers(model, [given for _, given in evidence], self.background_weight)
        if self.class_calibration:
            raw = _fitting.calibration_of(model, evidence)
            location, scale = class_scales(-raw.scores, raw.codes, model.n_classes)
            model.score_location.copy_(torch.from_numpy(location))
            model.score_scale.copy_(torch.from_numpy(scale))
        return _fitting.calibration_of(model, evidence)

    @torch.inference_mode()
    def _scored_batches(self, X, class_labels=None):
        """Iterate over X, batch by batch, as ScoredBatch."""
        check_is_fitted(self)
        keep_to_one_thread_if_forked()
        X = self._check_input(X)
        given = None
        if class_labels is not None:
            given = torch.from_numpy(check_class_labels(class_labels, self.classes_, len(X)))
        device, memory = resolve_device(self.device), as_memory(self.memory)
        model, n_seen = on_device(self._model, device), 0
        for features, sizes in self._features(X, self._extractor, device, memory):
            codes = None if given is None else given[n_seen : n_seen + len(sizes)].to(device)
            yield score_batch(model, features, codes, sizes)
            n_seen += len(sizes)

    def _score(self, X, class_labels=None, *, keep_maps=False):
        """Codes, scores, maps on the model's grid (if kept) and image sizes of X."""
        codes, scores, grids, sizes = [], [], [], []
        for batch in self._scored_batches(X, class_labels):
            codes.append(batch.codes)
            scores.append(batch.scores)
            sizes += batch.sizes
            if keep_maps:
                grids.append(batch.maps.float().cpu())
        grids = torch.cat(grids) if keep_maps else None
        return np.concatenate(codes), np.concatenate(scores), grids, sizes

    def _require_images(self, wish):
        if self._extractor is None:
            raise ValueError(f"{wish} needs images; this detector was fitted on feature vectors.")

    def _check_input(self, X):
        """Validate X and its kind against fit."""
        X = check_X(X, value_range=self.value_range, estimator=self, reset=False)
        if isinstance(X, ImageSource) == (self._extractor is None):
            seen, found = "feature vectors", "images"
            if self._extractor is not None:
                seen, found = found, seen
            raise ValueError(f"X holds {found}, but this detector was fitted on {seen}.")
        return X

    def _scoring_model(self, levels, extractor):
        """Assemble the levels; vectors are a map of one position."""
        map_size, criterion = (1, 1), self.criterion
        if extractor is not None:
            map_size = [max(1, side // _GRID_STRIDE) for side in extractor.spec["image_size"]]
        if criterion == "auto":
            criterion = "likelihood" if extractor is None else "likelihood_entropy"
        return ScoringModel(
            levels,
            map_size,
            criterion,
            self.map_normalization,
            self.blur_sigma,
            self.entropy_weight,
        ).requires_grad_(False)
