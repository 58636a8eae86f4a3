"""HGADDetector: one anomaly detector for many product classes, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from .devices import usual_torch
from .features.reader import FeatureReader
from .fitting.add_class import add_class
from .fitting.fit import fit_detector
from .fitting.forget import forget
from .fitting.listeners import Listeners
from .fitting.update import update
from .parameters import FAST, PUBLISHED, backbone_recipe
from .regions import check_threshold
from .scoring.calibration import promised_threshold
from .scoring.certificate import ClassCertificate, certify
from .scoring.changes import ClassChange, class_changes, class_states
from .scoring.explanation import Explanation, explain, with_contributions
from .scoring.inspection import Inspection, Judge, stacked_maps
from .scoring.latents import Latents, all_latents
from .scoring.level_maps import LevelMaps, level_maps
from .scoring.likeliest_values import likeliest_values
from .scoring.probability import anomaly_probability
from .scoring.thresholds import class_thresholds, offsets_by_code
from .storage.detector_state import pack, unpack
from .storage.model_card import model_card
from .storage.model_folder import load_state, save_state
from .storage.onnx_export import write_onnx
from .threads import computing, stepwise
from .validation import check_class_labels, check_scored_X, check_y

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

    from .fitting.objective import TrainingStep
    from .scoring.scores import ScoredBatch


class HGADDetector(OutlierMixin, BaseEstimator):
    """Hierarchical Gaussian mixture normalizing flow for unified anomaly detection.

    One model learns what normal samples of many product classes look like and finds anomalies in
    all of them. Features are the maps that a frozen backbone makes of an image, or the vectors
    given. They pass through a normalizing flow into a latent space with a component for each class
    and, inside a class, one Gaussian or as many centers as the data call for. A sample is anomalous
    where the likelihood under its class is low; of images also where no normal vector that the
    model keeps is near and, after a training, where the class posterior is undecided. An image's
    score is the sum of the peaks of its levels, calibrated class by class.

    The parameters stand in groups: images, features, start and flow, classes and mixture, training,
    losses, scores and maps, thresholds, running.

    A fitted detector scores, and is saved, with the parameters of its fit. Of what `set_params`
    changes after the fit, `unknown_rate`, `cache_budget`, `device`, `memory`, `n_jobs` and
    `verbose` count at once; all others count from the next fit.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="tf_efficientnet_lite0"
        A timm model name, or a module. A module gets float32 pixels (n, 3, h, w), normalised with
        ImageNet's mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225), or with
        those of its attribute `pretrained_cfg`, a dict with "mean" and "std". With c values there,
        not three, images are arrays (h, w, c). It returns a map
        (n, channels, height, width); or tokens (n, n_tokens, channels) of a plain grid of patches,
        maybe after a class token or registers; or a list, tuple or dict of these, fine to coarse;
        or an output of transformers, of which `feature_maps`, `hidden_states` or
        `last_hidden_state` is read. Not used for feature vectors.
    weights : "auto", None or path, default="auto"
        "auto": the weights that come with skhgad for tf_efficientnet_lite0 (no network), timm's
        hub weights for other models (network). None: random weights. A path: a checkpoint of the
        same architecture, which must fill every tensor of the backbone; a classifier in it is left
        out. Not used for a module.
    out_indices : tuple of int or "auto", default="auto"
        Stages of a timm model, fine to coarse, as in timm's ``features_only``; "auto" is (2, 3, 4),
        which have strides 8, 16 and 32. For a module: positions in the list of maps that it
        returns; "auto" is all of them.
    image_size : int or (height, width), default=384
        Images are resized to this, antialiased.
    image_scales : tuple of float or "auto", default="auto"
        The backbone sees each image at these multiples of `image_size`. Every scale and stage is
        a level with a flow of its own. "auto": 2/3 and 1, which are 256 and 384 pixels by default;
        1 alone for a module, and for a timm model that is built for one size of image.
    resize : {"stretch", "pad"}, default="stretch"
        How an image of other proportions than `image_size` gets this size. "stretch": its sides
        are resized by different factors. "pad": its proportions are kept, and a border fills the
        rest; nothing is learnt of the border and nothing is found there.
    tile_size : int or (height, width), default=None
        Every image is cut into tiles of so many of its own pixels, and each tile is resized to
        `image_size`; for large images with small defects. Neighbouring tiles overlap by a quarter
        or more. The score is that of the whole image, and maps have no seams. An image smaller than
        a tile lies in the middle of one. At most 256 tiles lie along a side. None = no tiles.
    value_range : (low, high), default=None
        Pixel values meaning black and white, for images of more than 8 bits.
    augmentation : None, "slight", "mild" or dict, default=None
        Harmless changes that `fit`, `update` and `add_class` make to each image, once and by
        chance, so that a later image that differs no more is normal. A dict holds the largest of
        each: "shift", as a share of width and height; "rotation", in degrees; "brightness", as a
        share; "blur", the standard deviation as a share of the shorter side; "noise", the standard
        deviation of a pixel as a share of white; "jpeg_quality", from 1 to 100, the lowest. What is
        missing is left out. "mild": 1/64, 1.5, 0.1, 1/256, 0.012 and 40. "slight": 1/128, 0.7,
        0.05, and the last three as in "mild". Masks and regions of interest stay where they are.
        Images that are scored are never changed. None: nothing is.
    pool_size : int, default=1
        Each vector is the mean over a square of this many positions a side; odd.
    fuse_stages : bool, default=True
        Add to the vectors of each stage the mean and standard deviation of the finer stages inside
        each position. The finest stage is then no level itself. False: each stage is a level.
    feature_power : float, default=0.5
        Image features x become ``sign(x) * abs(x) ** feature_power``. Below 1 this shortens the
        heavy tails of activations.
    max_features : int or None, default=640
        Levels with more image features than this are brought to this many by a fixed random
        projection with orthonormal rows, because the time of a fit grows with the cube of the
        width. No stage of the default backbone is as wide. More than about 60 classes of few images
        get fewer, so that a model stays small: see "Models on disk" in the guide. None = no limit.
    start : {"whitened", "published"}, default="whitened"
        "whitened": features are whitened by the pooled within-class covariance and coupling
        blocks start at the identity. Skewed features of vectors of a single class take a power or
        a logarithm before, where that makes vectors left out more likely. "published": raw
        features, random blocks.
    whitening_shrinkage : float in [0, 1], "ledoit_wolf" or "auto", default="auto"
        Shrinkage of that covariance to the identity of equal mean variance. "auto": 0.1 for
        images, in closed form 0.25 where that makes images left out clearly more likely, with three
        times the odds of the prior in the covariances of the classes. For feature vectors, what
        makes vectors left out most likely; 0.9 where they have much heavier tails than a Gaussian.
    n_blocks : int, default=4
        Coupling blocks of each flow. 0 leaves the linear start alone.
    hidden_ratio : float, default=0.5
        Width of a block's hidden layer over the width of its input.
    clamp : float, default=1.9
        Largest log-scale of a coupling.
    position_channels : int, default=32
        Length of the position codes that condition the flow, a multiple of 4; 0 = none.
    n_classes : int, "discover" or "auto", default="auto"
        "auto": the classes in y; one class without y. With y None or a single class, an int finds
        that many classes by clustering. "discover" also finds their number, up to 100: the largest
        one whose clusters lie apart and are found again in random parts of the samples. A class
        needs at least 5 samples to be counted, better 20. Samples far from every class, alone or in
        a small group, take no part in the fit, as they may be defects; a warning names them. So
        does "discover" with classes of at most a tenth of all samples that have less than a quarter
        of the median class.
    n_components : int or "auto", default="auto"
        Centers inside each class. An int fits so many Gaussians to every class. "auto" chooses for
        each class of feature vectors by the likelihood of vectors left out: one Gaussian; its
        modes, with a covariance in common; 2 to 16 Gaussians; or kernels, a center at every
        training vector (at most 4,096) with one covariance, or in up to 12 widths. Three or more
        classes choose together where their few vectors cannot tell alone. The choice is in
        `n_components_`.
        Images of a class have one Gaussian in each level, or one for each group of at least a tenth
        of them that look apart, such as variants of a product, where that makes images left out
        likelier by 0.02 nats a dimension; two of these at most count for an image.
    class_separation : float, default=5.0
        Distance between the class means in latent space at the start.
    center_scale : float, default=1.0
        Standard deviation of the starting offsets of the centers.
    class_covariance : bool, default=True
        Whether every class gets the Ledoit-Wolf covariance of its latent vectors after training.
        False: unit covariances, as published.
    background_weight : float, default=0.5
        With `class_covariance` and several classes. A background model, one Gaussian over all
        classes, predicts part of the log-likelihood of normal vectors; this share of the
        prediction is subtracted. What is unusual for all products (contrast, brightness) then
        counts less than what is unusual for one. 0 = nothing, as published; 1 = all of it.
    bank_size : int, default=3000
        How many normal vectors of each class the model keeps (a memory bank, as in PatchCore
        [2]_); 0 = none, as published. Of images, where nothing is trained, so many of each level,
        chosen so that few normal vectors are far from all of them. The distance to the nearest is
        taken off the log-likelihood, with a weight that lets both vary alike among normals. A level
        keeps at most 500,000 vectors, in which many classes share evenly. A vector takes 64 bytes
        of the model, 32 where classes times `bank_size` are more than 250,000.
        Of a table all rows are kept that are not held out. None are if a class has more than
        `bank_size` of them, all classes together have more than 10,000, there are more than 128
        features, or `contamination` is a share. The logarithm of the distance to the nearest row of
        any class then counts beside the likelihood: what classes share can hide a row that is like
        none of them.
    max_iter : int or "auto", default="auto"
        Passes over the training data. "auto" is 0: start and mixture are fitted in closed form,
        which was at least as accurate as the trained flow on images and on tables. The mixture of
        feature vectors is found again after a training, in the latent space of the flow. The flow
        then stays only if it makes held-out normals likelier, by two standard errors, than a
        mixture found without it. It always stays where a `loss` of your own trained it, the
        entropy is part of the criterion, or no normals are held out.
    batch_size : int or "auto", default="auto"
        Samples in a training step.
    position_fraction : float in (0, 1], default=0.25
        Share of the positions of a map drawn for each step.
    learning_rate : float or "auto", default="auto"
        Peak learning rate of Adam for the flow.
    center_lr_factor : float, default=3.0
        Learning rate of the mixture over that of the flow.
    betas : (float, float), default=(0.95, 0.99)
        Decay rates of Adam's running means.
    weight_decay : float, default=1e-4
        Of the flow; the mixture has none.
    warmup_fraction, final_lr_fraction : float, default=0.08, 1e-3
        Linear warm-up over this share of the steps, then cosine decay to this share of the peak.
    first_stage_fraction : float, default=0.08
        Share of the steps before the intra-class terms join.
    loss : callable, default=None
        What training minimises, in each step and for each level of features: a function that takes
        a `skhgad.TrainingStep` and returns a 0-d Tensor. None = `skhgad.hgad_loss`, the published
        objective. A saved model records the function's name alone, because a file holds no code.
    lambda_inter, lambda_mi, lambda_entropy, lambda_intra : float, default=1, 10, 1, 1
        Weights of the inter-class likelihood, the mutual information (maximised), the posterior
        entropy, and the two intra-class terms.
    label_smoothing : float in [0, 1), default=0.02
        Of the class labels in the mutual information.
    criterion : {"auto", "likelihood_entropy", "likelihood", "entropy"}, default="auto"
        Evidence that makes the anomaly map. "auto": likelihood and entropy for images after a
        training, else likelihood alone. The posterior of a model in closed form, and of feature
        vectors, is rarely in doubt. A fit on one class uses the likelihood alone, because the
        posterior of a single class is never in doubt.
    entropy_weight : float, default=0.3
        Weight of the entropy beside the likelihood in "standardized" maps.
    map_normalization : {"standardized", "exponential"}, default="standardized"
        How levels and terms are made comparable. "standardized": in standard deviations from the
        mean over held-out normals of the class; of the likelihood, from their mean at the same
        position. With `class_calibration`, each level is then measured by the peaks that it has in
        held-out normals of the class, and an image's score is the sum of the levels' peaks.
        "exponential": as published.
    blur_sigma : float, default=1.0
        Gaussian blur of maps, in pixels of a map 256 pixels high.
    class_calibration : bool, default=True
        Put the scores of all classes on one scale, measured on held-out normals, so that one
        threshold serves all products.
    synthetic_anomalies : {"auto", "none"}, default="auto"
        Whether fit learns what each level of images counts in the sum from pictures with a defect
        painted in: a spot that shows another place of the picture, a blurred spot, or a scratch.
        Levels in which these stand out more count more. "auto": for each class with 48 normal
        images or more, from an eighth of them, at most 24, which the backbone sees once more;
        never with `tile_size`, ``criterion="entropy"``, ``map_normalization="exponential"`` or
        without `class_calibration`. Scores, thresholds and p-values are calibrated on normals
        alone. "none": all levels count alike.
    known_anomalies : {"auto", "ignore"}, default="auto"
        What fit does with samples labelled -1. "auto": of each class with at least 3, it learns a
        direction that leads from normals to these anomalies, and adds to the likelihood how much
        farther a sample lies in it than most normals; of feature vectors by a logistic regression,
        and farther than half of the normals. Of images, with `class_calibration`, it also
        learns what each level counts in the sum: more where these anomalies stand out more.
        Cross-fitting measures the gain on known anomalies and normals that the correction has not
        seen; only a gain above half of its standard error is kept. Their class is inferred.
        Thresholds and p-values still come from normals alone.
        "ignore": they are left out, as they always are with ``criterion="entropy"`` and with
        ``map_normalization="exponential"``.
    validation_fraction : float in [0, 1), "cross" or "auto", default="auto"
        Which normals calibrate scores, `offset_` and p-values. "cross": all of them. Ten models,
        each fitted without a tenth of every class, judge what they did not see; the model that
        scores is fitted to all. A float: this share of each class is kept from training. 0: the
        training samples, which promises nothing. "auto": "cross" for a closed form where
        half of the classes have fewer than 400 samples, else 0.2. Of vectors with more than two
        features for each sample of a class, 0.2 from 95 samples on if there are several classes or
        known anomalies. A class of fewer than 5 samples trains on all of them and takes the
        calibration of the other classes.
    contamination : float in (0, 0.5] or "auto", default="auto"
        "auto": the training samples are normal. `offset_` aims at flagging 5 % of fresh normals,
        all classes together, which takes 19 calibrating normals; with 10 about 9 % are flagged. The
        rate of one fit, and of one class, varies around this mean.
        A float: anomalies are among the training samples, and have this share. `offset_` flags this
        share of them. The fit leaves out twice as many of each class (at most half), which still
        calibrate p-values: vectors that an isolation forest isolates soonest, and images that are
        most anomalous to models of a first fit, without them. Of vectors, ``n_components="auto"``
        then takes no kernels and at most 4 Gaussians. On clean samples this costs accuracy: leave
        "auto", and choose another rate by `set_threshold`. None is left out of classes that are
        discovered, and of images where a flow is trained.
    unknown_rate : float in (0, 1), default=None
        A float makes `predict_class` answer "unknown" (-1 where classes are ints) for a sample
        that fits its class worse than all but this share of the held-out normals of that class.
        Images are compared by the likelihood of their median position, which a local defect hardly
        moves, vectors by their score. Needs 1 / `unknown_rate` - 1 held-out normals a class. May
        be set after the fit.
    cache_budget : int or "auto", default="auto"
        Bytes of features to hold in memory during fit; "auto" = half of the free memory. Beyond
        it, features go to a temporary memory-mapped float16 file.
    device : str or torch.device, default="auto"
        "auto" = the GPU where there is one.
    mixed_precision : bool or "auto", default="auto"
        Whether the flow trains with products in bfloat16 and a GPU runs the backbone in float16.
        Everything else is computed in float32 or float64, and so is all scoring on a CPU. "auto" =
        bfloat16 where the hardware multiplies in it, float16 on every GPU.
    memory : None, str, path or joblib.Memory, default=None
        A folder where features of images are remembered, image by image, between fits and
        scorings; of a Memory its location. The files hold numbers and no code. What is damaged
        there is computed again.
    n_jobs : int, default=None
        Threads that decode images and that compute on the CPU. None = as many as torch uses, of
        which one decodes, or several where a GPU would wait for them; 1 = all in the calling
        thread; -1 = one for each core. Results are equal but for rounding.
    random_state : int, RandomState or None, default=None
        Source of the held-out samples and folds, the starting weights and the order of training.
    verbose : int, default=0
        >= 1 shows progress bars, and says what `fit` decided: the sizes of the classes, whether a
        flow is trained and why, the centers chosen, and what was held out.
    callbacks : callback or list of callbacks, default=None
        Told of a fit: when it starts, after each pass of a training, and when it ends, or fails. A
        callback is an object with some of the methods of `skhgad.callbacks.Callback`, such as
        `skhgad.callbacks.TensorBoardCallback` and `skhgad.callbacks.MLflowCallback`; or a function
        that is called with a `skhgad.callbacks.PassInfo` after each pass, and with a
        `skhgad.callbacks.FitInfo` at the end. What a callback raises, `fit` raises. Of several
        processes that fit together the first calls its own. No saved model holds them.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Product classes.
    offset_ : float
        ``decision_function = score_samples - offset_``, but for the classes in `class_offsets_`.
    class_offsets_ : dict of label to float
        Takes the place of `offset_` for samples of these classes, given or inferred. Empty after
        `fit`; `set_threshold` fills it.
    known_anomalies_ : list of KnownAnomalies, or None
        What known anomalies gave, a named tuple for each class: `class_label`, `n_anomalies`,
        `gain`, `standard_error` and `is_kept`. None where fit left them out or y marks none.
    n_features_in_ : int
        Only after a fit on feature vectors.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only after a fit on a DataFrame with string column names.
    n_components_ : ndarray of shape (n_levels, n_classes), int64
        Centers of each class in each level. As many as training vectors: kernels.
    n_iter_ : int
        Passes done. The closed form that ``max_iter="auto"`` chooses counts as one.
    history_ : list of dict
        One a pass of training: loss, learning rate and every term, means over steps, summed over
        levels. Terms not yet counted are nan. Empty in closed form.
    model_ : FittedModel
        Feature extractor, scoring model, calibration and classes: everything that scoring needs.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Detector for feature vectors of one class.

    References
    ----------
    .. [1] X. Yao, R. Li, Z. Qian, L. Wang, C. Zhang, "Hierarchical Gaussian Mixture Normalizing
       Flow Modeling for Unified Anomaly Detection", ECCV 2024, arXiv:2403.13349.
    .. [2] K. Roth, L. Pemula, J. Zepeda, B. Scholkopf, T. Brox, P. Gehler, "Towards Total Recall in
       Industrial Anomaly Detection", CVPR 2022, arXiv:2106.08265.

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

    class_offsets_: dict[str | int, float]

    def __init__(
        self,
        # Images
        backbone: str | nn.Module = "tf_efficientnet_lite0",
        *,
        weights: str | PathLike[str] | None = "auto",
        out_indices: tuple[int, ...] | str = "auto",
        image_size: int | tuple[int, int] = 384,
        image_scales: tuple[float, ...] | str = "auto",
        resize: str = "stretch",
        tile_size: int | tuple[int, int] | None = None,
        value_range: tuple[float, float] | None = None,
        augmentation: Mapping[str, float] | str | None = None,
        # Features
        pool_size: int = 1,
        fuse_stages: bool = True,
        feature_power: float = 0.5,
        max_features: int | None = 640,
        # Start and flow
        start: str = "whitened",
        whitening_shrinkage: float | str = "auto",
        n_blocks: int = 4,
        hidden_ratio: float = 0.5,
        clamp: float = 1.9,
        position_channels: int = 32,
        # Classes and mixture
        n_classes: int | str = "auto",
        n_components: int | str = "auto",
        class_separation: float = 5.0,
        center_scale: float = 1.0,
        class_covariance: bool = True,
        background_weight: float = 0.5,
        bank_size: int = 3000,
        # Training
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        position_fraction: float = 0.25,
        learning_rate: float | str = "auto",
        center_lr_factor: float = 3.0,
        betas: tuple[float, float] = (0.95, 0.99),
        weight_decay: float = 1e-4,
        warmup_fraction: float = 0.08,
        final_lr_fraction: float = 1e-3,
        first_stage_fraction: float = 0.08,
        # Losses
        loss: Callable[[TrainingStep], torch.Tensor] | str | None = None,
        lambda_inter: float = 1.0,
        lambda_mi: float = 10.0,
        lambda_entropy: float = 1.0,
        lambda_intra: float = 1.0,
        label_smoothing: float = 0.02,
        # Scores and maps
        criterion: str = "auto",
        entropy_weight: float = 0.3,
        map_normalization: str = "standardized",
        blur_sigma: float = 1.0,
        class_calibration: bool = True,
        synthetic_anomalies: str = "auto",
        known_anomalies: str = "auto",
        # Thresholds
        validation_fraction: float | str = "auto",
        contamination: float | str = "auto",
        unknown_rate: float | None = None,
        # Running
        cache_budget: int | str = "auto",
        device: str | torch.device = "auto",
        mixed_precision: bool | str = "auto",
        memory: Any = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        callbacks: Any = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.out_indices = out_indices
        self.image_size = image_size
        self.image_scales = image_scales
        self.resize = resize
        self.tile_size = tile_size
        self.value_range = value_range
        self.augmentation = augmentation
        self.pool_size = pool_size
        self.fuse_stages = fuse_stages
        self.feature_power = feature_power
        self.max_features = max_features
        self.start = start
        self.whitening_shrinkage = whitening_shrinkage
        self.n_blocks = n_blocks
        self.hidden_ratio = hidden_ratio
        self.clamp = clamp
        self.position_channels = position_channels
        self.n_classes = n_classes
        self.n_components = n_components
        self.class_separation = class_separation
        self.center_scale = center_scale
        self.class_covariance = class_covariance
        self.background_weight = background_weight
        self.bank_size = bank_size
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
        self.loss = loss
        self.lambda_inter = lambda_inter
        self.lambda_mi = lambda_mi
        self.lambda_entropy = lambda_entropy
        self.lambda_intra = lambda_intra
        self.label_smoothing = label_smoothing
        self.criterion = criterion
        self.entropy_weight = entropy_weight
        self.map_normalization = map_normalization
        self.blur_sigma = blur_sigma
        self.class_calibration = class_calibration
        self.synthetic_anomalies = synthetic_anomalies
        self.known_anomalies = known_anomalies
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
        self.callbacks = callbacks

    @classmethod
    def paper(cls, **overrides: Any) -> HGADDetector:
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
        Scoring stays honest: classes are inferred, and every constant is frozen at fit on a fifth
        of the normals, which no training sees. The authors' evaluation is told the classes and
        takes maxima over test sets.
        """
        return cls(**{**PUBLISHED, **overrides})

    @classmethod
    def fast(cls, **overrides: Any) -> HGADDetector:
        """Return the configuration for images that sees them at one scale, 256 pixels, unfitted.

        Parameters
        ----------
        **overrides
            Parameters to set differently.

        Returns
        -------
        HGADDetector
            It scores about three images in the time of one by default, and misses more of small
            defects. On feature vectors it is the default.
        """
        return cls(**{**FAST, **overrides})

    @classmethod
    def with_backbone(cls, name: str, **overrides: Any) -> HGADDetector:
        """Return settings for a self-supervised vision transformer of timm, unfitted.

        Parameters
        ----------
        name : {"dinov2-small", "dinov2-base", "dinov3-small", "dinov3-base"}
            DINOv2 with registers sees images of 448 pixels in patches of 14, DINOv3 images of 512
            pixels in patches of 16. The output of the blocks 3, 6 and 9 (of 12, numbered from 0)
            makes three levels, whose scores are added.
        **overrides
            Parameters to set differently. `image_size` should be a multiple of the patch.

        Returns
        -------
        HGADDetector

        Raises
        ------
        ValueError
            If there are no settings of that name.

        Notes
        -----
        timm downloads the weights at `fit`, from https://huggingface.co/timm. Without a network,
        download ``model.safetensors`` elsewhere and pass ``weights="model.safetensors"``. The
        weights of DINOv3 have a licence of their own. These settings were tested with random
        weights alone; how accurate they are, is not known to us.

        Examples
        --------
        >>> from skhgad import HGADDetector
        >>> HGADDetector.with_backbone("dinov2-small", random_state=0).image_size
        448
        """
        return cls(**{**backbone_recipe(name), **overrides})

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        masks: Any = None,
        roi: Any = None,
        groups: ArrayLike | None = None,
    ) -> HGADDetector:
        """Learn the normal samples of all classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Feature vectors; or an array (n, height, width[, channels]), or a list of paths, PIL
            images or image arrays.
        y : array-like of shape (n_samples,), default=None
            Product class of each sample (str or int). -1 or "-1" marks a known anomaly, which is
            no normal; see `known_anomalies`. None = one class, unless `n_classes` asks for classes
            to be discovered.
        masks : sequence of n_samples masks, default=None
            Of images: which pixels of the known anomalies are defective. Each is a path, an array
            (height, width) of the image's size in which all but 0 marks a defect, or None where
            nothing is known. Normals have None. A known anomaly of which it marks nothing inside
            `roi` is left out, with a warning.
        roi : mask, mapping of label to mask, or sequence of n_samples masks, default=None
            Region of interest of images: one mask for all; one for each product, where products
            that are not named have none; or one for each image, None for a whole one. A mask is an
            array (height, width) of bool or of 0 and 1, a path or a PIL image, of the size of its
            image.
            What lies outside is not learnt, and changes no score, class or verdict. One mask for
            all and masks by product are remembered, and used at scoring unless it has others. A
            known anomaly has the mask of the product it is taken for.
        groups : array-like of shape (n_samples,), default=None
            The part that each sample comes from, str or int, where parts were photographed or
            measured several times: equal labels, one part. No part is on both sides of a choice or
            a calibration, and one sample of each, drawn at random, calibrates; so false-alarm
            rates, p-values and certificates are those of fresh parts, and count parts. All are
            fitted to. Normal samples of a part are of one class. None = each sample is a part.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            Naming the parameter, label, mask, image or file that cannot be used.
        MemoryError
            If a table would need more memory than the machine has, before any work; it names
            both, and what to do.
        FloatingPointError
            If the loss is not finite.
        RuntimeError
            In a group of processes, where another one failed.
        Exception
            Of any type, that a callback raised. The detector is then what it was before.

        Warns
        -----
        UserWarning
            If y holds exactly 0 and 1, or names classes like defects ("bad", "NG", "defective");
            if features have very different spreads, or columns look like running numbers or hold
            marks of missing values; if samples are left out, because they belong to no class
            discovered, or are images that are blank beside all others of their class; if images
            are enlarged more than four times; if no groups are given, and samples are copies of
            others, which then count as one part, or samples given one after the other are as alike
            as repeats of a part;
            if y seems to name the wrong class of few samples;
            if too few normals of a class are held out for the rate that ``contamination="auto"``
            promises. Each names what was found and what to do.

        Notes
        -----
        Where `torch.distributed` is initialised, all processes of the group call fit together, with
        the same X, y, masks and groups, and share the work. Each then holds the same detector.
        """
        before = self.__dict__.copy()
        try:
            with Listeners() as listeners:
                with computing(self.n_jobs):
                    self.__dict__.update(
                        fit_detector(
                            self, X, y, masks=masks, roi=roi, groups=groups, listeners=listeners
                        )
                    )
                listeners.end(self)
        except BaseException:  # also Ctrl-C: nothing half-fitted is left behind
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    @property
    def n_components_(self) -> NDArray[np.int64]:
        """Centers of each class in each level, ndarray of shape (n_levels, n_classes)."""
        if "model_" not in self.__dict__:
            raise AttributeError("n_components_ needs a fitted detector: call fit first.")
        return self.model_.n_components

    def add_class(
        self,
        X: Any,
        y: str | int | ArrayLike,
        *,
        roi: Any = None,
        groups: ArrayLike | None = None,
    ) -> HGADDetector:
        """Learn the normal samples of new classes in closed form; the others stay as they are.

        Parameters
        ----------
        X : array-like or images
            Normal samples of the new classes, of the kind seen at fit.
        y : str, int or array-like of shape (n_samples,)
            Label of the new class, or of each sample; none of `classes_`. -1 or "-1" marks a
            known anomaly, which is left out.
        roi : default=None
            Region of interest, as in `fit`. None = the one that all classes had at `fit`; the whole
            image where there was none or each product had its own.
        groups : array-like of shape (n_samples,), default=None
            The part that each sample comes from, as in `fit`.

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
            As `fit` does: of labels that look like defects, of features in other units, columns and
            cells that are no measurement, of small and blank images, of copies and repeats, and of
            too few normals.
            A class too small to hold samples out borrows the known classes' scale.

        Notes
        -----
        Backbone, start, flow and background stay; in closed form, new classes of images are
        compared with a background of their own, which knows them, and have the Gaussians that
        `n_components` says. After a training, a new class of images becomes one Gaussian with its
        own covariance. Its held-out normals, chosen as `validation_fraction` says, put its scores
        on the common scale. With `class_labels` given, samples of the classes known before score
        exactly as before; without, they may be taken for the new class.
        With ``contamination="auto"``, and unless it was changed after `fit`, `offset_` is computed
        again from the calibration samples of all classes; `class_offsets_` stays.
        """
        check_is_fitted(self)
        with computing(self.n_jobs):
            attributes = add_class(self, X, y, roi, groups)
        self.__dict__.update(attributes)  # at the very end, so that Ctrl-C leaves all or nothing
        return self

    def fit_predict(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        masks: Any = None,
        roi: Any = None,
        groups: ArrayLike | None = None,
    ) -> NDArray[np.int64]:
        """Fit as `fit`, then return `predict` of X: ndarray of shape (n_samples,), +1 or -1.

        To find anomalies among X, set `contamination` to about their share. With "auto", all of X
        is learned as normal, and samples that were learned look more normal than fresh ones.
        """
        return self.fit(X, y, masks=masks, roi=roi, groups=groups).predict(X, roi=roi)

    def update(
        self,
        X: Any,
        y: str | int | ArrayLike | None = None,
        *,
        roi: Any = None,
        groups: ArrayLike | None = None,
        return_changes: bool = False,
    ) -> HGADDetector | list[ClassChange]:
        """Learn more normal samples of known classes, confirmed false alarms among them.

        The samples given to `fit` are not needed: the model keeps sums of them, see Notes.

        Parameters
        ----------
        X : array-like or images
            Normal samples, of the kind seen at fit.
        y : str, int or array-like of shape (n_samples,), default=None
            Label of all samples, or of each one; of `classes_`. -1 or "-1" marks a known anomaly,
            which is left out. None = the only class, if there is one.
        roi : default=None
            Region of interest of these images, as in `fit`; None = the one remembered from `fit`.
            That one stays.
        groups : array-like of shape (n_samples,), default=None
            The part that each sample comes from, as in `fit`; none of them was seen before.
        return_changes : bool, default=False
            Return what changed, and not the detector.

        Returns
        -------
        self, or list of ClassChange
            Named tuples, in the order of the classes, with the number of calibrating normals,
            false-alarm rate and bound, threshold and mean score of each class, before and after;
            ``pandas.DataFrame(changes)`` is a table.

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            Naming the label or sample that cannot be used; or the detector was fitted with
            ``class_covariance=False``. On any error, and on Ctrl-C, the detector stays as it was.

        Notes
        -----
        Backbone, start, flow, background and all other classes stay: with `class_labels` given,
        their samples score exactly as before. A class of images takes the mean and covariance of
        old and new samples together, in closed form. Of feature vectors the model keeps up to 4,096
        of each class, to which its mixture is fitted anew. A detector of a single class, or of more
        features than vectors, then equals one fitted on everything, all classes included, if no
        flow was trained. Of larger classes, kernels are drawn from old and new vectors, and new
        vectors are counted in where there are a few Gaussians.

        The old calibration samples stay. Each new normal is judged by a model without it, and
        joins them, whatever `validation_fraction` is, unless that is 0. The scales of its class,
        p-values and certificate follow. With ``contamination="auto"``, and unless it was changed
        after `fit`, `offset_` is computed again from all calibration samples; `class_offsets_`
        stays. Pictures that look in all figures like one that the model knows, and copies of
        vectors that it keeps, are left out with a warning.

        Images are seen as at `fit`, in its regions of interest, padding or tiles. Where the
        positions inside differ from image to image, the old ones are taken to lie like the new.
        A row of a table with a cell that is no measurement calibrates alone, as in `fit`.

        False alarms alone are no fair sample of the normals. The certificate holds only if the
        other normals of the same days are given, too.

        Examples
        --------
        >>> import numpy as np
        >>> from skhgad import HGADDetector
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(0, 1, (60, 4)), rng.normal(9, 1, (60, 4))])
        >>> detector = HGADDetector(random_state=0).fit(X, ["bolt"] * 60 + ["nut"] * 60)
        >>> changes = detector.update(rng.normal(9, 1, (40, 4)), "nut", return_changes=True)
        >>> [(c.class_label, c.n_normals_before, c.n_normals_after) for c in changes]
        [('bolt', 60, 60), ('nut', 60, 100)]
        """
        check_is_fitted(self)
        with computing(self.n_jobs):
            attributes = update(self, X, y, roi, groups)
        return self._changed_by(attributes, return_changes)

    def forget(
        self, labels: str | int | ArrayLike, *, return_changes: bool = False
    ) -> HGADDetector | list[ClassChange]:
        """Remove classes from the fitted detector, with all that it knows of them.

        Parameters
        ----------
        labels : str, int or array-like of these
            One or several of `classes_`, not all.
        return_changes : bool, default=False
            Return what changed, and not the detector; see `update`.

        Returns
        -------
        self, or list of ClassChange

        Raises
        ------
        NotFittedError
        ValueError
            If a class is not known, or none would stay. The detector then stays as it was.

        Notes
        -----
        With `class_labels` given, samples of the other classes score exactly as before, except
        where the entropy of the class posterior is a criterion. Without, they are no longer taken
        for the class that left. Start and background, which all classes share, stay. `offset_`
        follows as for `update`; the thresholds in `class_offsets_` of these classes are removed.
        """
        check_is_fitted(self)
        with usual_torch():
            attributes = forget(self, labels)
        return self._changed_by(attributes, return_changes)

    def score_samples(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.float64]:
        """Score the normality of each sample: higher = more normal.

        Parameters
        ----------
        X : array-like or images
            Of the kind seen at fit.
        class_labels : array-like of shape (n_samples,), str or int, default=None
            Product class of each sample, where known; None = inferred by likelihood.
        roi : mask, mapping of label to mask, or sequence of n_samples masks, default=None
            Region of interest of images, as in `fit`; None = the one remembered from `fit`. No
            pixel outside changes anything. Where products have different masks and no class is
            given, the class is inferred from what the masks have in common, then the image is
            scored in the mask of its class, which runs the backbone twice.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            Minus the maximum of the anomaly map. With `class_calibration`, the median held-out
            normal of each class scores 0, and the unit is the mean excess over that median. A
            picture with less than a third of the contrast of the normals of its class, such as a
            black or a white one, scores lower than all normals that calibrate.

        Warns
        -----
        UserWarning
            If pictures have fewer pixels than any normal picture of their class.
        """
        batches = self._scored_batches(X, class_labels, roi)
        return np.concatenate([batch.scores for batch in batches])

    def decision_function(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.float64]:
        """Return ``score_samples(X) - offset_``: negative = anomaly, ndarray (n_samples,).

        For samples of a class in `class_offsets_`, given or inferred, its threshold is subtracted.
        """
        batches = self._scored_batches(X, class_labels, roi)
        offsets = self._offsets()
        return np.concatenate([batch.scores - offsets[batch.codes] for batch in batches])

    def predict(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.int64]:
        """Return -1 where `decision_function` is negative, else +1: ndarray (n_samples,), int."""
        decisions = self.decision_function(X, class_labels=class_labels, roi=roi)
        return np.where(decisions < 0, -1, 1)

    def anomaly_probability(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.float64]:
        """Score the anomaly of each sample between 0 and 1; 0.5 is the threshold of its class.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        ndarray of shape (n_samples,), float64, in [0, 1]
            Higher = more anomalous, in exactly the opposite order of `decision_function`. Above
            0.5 where `predict` says -1.

        Notes
        -----
        The value is ``1 / (1 + exp(decision_function(X) / s))``, where s is the distance from the
        median of the calibration scores to their lower quartile. It follows `set_threshold`, also
        where a class has a threshold of its own. With `class_calibration`, the scores of each class
        were put on one scale before, so s serves all classes.

        It is no frequency: of samples with 0.9, not 90 % are anomalies. That depends on how many
        anomalies there are, which normal samples cannot tell. The value is the posterior
        probability if the odds fall exponentially with the score and are even at the threshold. For
        guarantees take `p_values`.
        """
        decisions = self.decision_function(X, class_labels=class_labels, roi=roi)
        return anomaly_probability(decisions, self.model_.calibration.scores)

    def score(self, X: Any, y: ArrayLike | None = None, *, roi: Any = None) -> float:
        """Mean of `score_samples` over the samples not labelled -1.

        Parameters
        ----------
        X : array-like or images
        y : array-like of shape (n_samples,), default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        float
            For model selection without anomalies.
        """
        scores = self.score_samples(X, roi=roi)
        if y is not None:
            scores = scores[check_y(y, len(scores))[0] >= 0]
        return float(scores.mean())

    def predict_class(self, X: Any, *, roi: Any = None) -> NDArray[Any]:
        """Infer the product class of each sample.

        Parameters
        ----------
        X : array-like or images
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Elements of `classes_`; with `unknown_rate` also "unknown", or -1 where classes are
            ints.
        """
        return self.inspect(X, roi=roi).class_label

    def inspect(
        self,
        X: Any,
        *,
        class_labels: ArrayLike | None = None,
        maps: bool = False,
        roi: Any = None,
    ) -> Inspection:
        """Score X once and return everything there is to say of it.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.
        maps : bool, default=False
            Whether to return anomaly maps, each of its own image's size.

        Returns
        -------
        Inspection
            Named tuple of `class_label`, `score`, `p_value` and `is_anomaly`, ndarrays of shape
            (n_samples,), `maps`, a list of ndarray (height, width), or None, and `threshold`,
            ndarray of shape (n_samples,). Its ``to_dict()`` and ``to_json()`` give plain Python
            values and JSON.

        Raises
        ------
        ValueError
            If maps are asked for after a fit on feature vectors.
        """
        check_is_fitted(self)
        if maps:
            self.model_.require_images("maps=True")
        batches = self._scored_batches(X, class_labels, roi)
        return self._judge().inspect(batches, maps=maps, given=class_labels is not None)

    def anomaly_maps(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.float32]:
        """Where each image is anomalous.

        Parameters
        ----------
        X : images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        maps : ndarray of shape (n_samples, height, width), float32
            Higher = more anomalous, in units of `score_samples`. Height and width are those of the
            images, or `image_size` where these differ. Outside a region of interest a map holds
            the lowest value that it has inside, or 0 where that is lower.

        Raises
        ------
        ValueError
            After a fit on feature vectors.
        """
        check_is_fitted(self)
        self.model_.require_images("anomaly_maps")
        batches = self._scored_batches(X, class_labels, roi)
        return stacked_maps(batches, self.model_.image_size)

    @usual_torch()
    def level_maps(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> LevelMaps:
        """Return the parts that anomaly maps are made of: one of each level, one of the entropy.

        Parameters
        ----------
        X : array-like or images
            Feature vectors have one position.
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        LevelMaps
            Named tuple of `likelihood`, ndarray of shape (n_samples, n_levels, height, width), or
            None; `entropy` and `lift`, ndarrays of shape (n_samples, height, width), or None;
            `location`, `scale`, `is_product` and `class_label`. They are on the grid on which the
            detector adds them, a quarter of `image_size` a side. ``combined()`` is the anomaly map
            on that grid, ``resized((height, width))`` lays the parts over images.
        """
        batches = self._scored_batches(X, class_labels, roi)
        return level_maps(self.model_, batches)

    @usual_torch()
    def latents(self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None) -> Latents:
        """Return the latent vectors of each sample, where the flow puts it.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        Latents
            Named tuple of `vectors`, a list of ndarray of shape (n_samples, n_positions,
            n_features), one a level, in the order of `image_scales`, then stages; `map_shapes`, the
            (height, width) of each level's positions; and `class_label`, ndarray of shape
            (n_samples,), inferred or given.

        Notes
        -----
        All vectors are held in memory, once: by default an image takes about 1.2 MB. Pass fewer
        samples at a time where that is too much.
        """
        check_is_fitted(self)
        X, codes = self._checked(X, class_labels)
        return all_latents(self.model_, self.feature_reader(), X, codes, roi)

    def p_values(
        self, X: Any, *, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> NDArray[np.float64]:
        """Chance that a fresh normal sample of the same class scores as low.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.

        Returns
        -------
        ndarray of shape (n_samples,), in (0, 1]
            Class-conditional conformal p-values from the held-out normals of the class: given to
            fit, if `class_labels` are given, else inferred like that of the sample. Which normals
            are held out, `validation_fraction` says.
        """
        return self.inspect(X, class_labels=class_labels, roi=roi).p_value

    @usual_torch()
    def explain(
        self,
        X: Any,
        *,
        class_labels: ArrayLike | None = None,
        threshold: float | None = None,
        maps: bool = False,
        roi: Any = None,
    ) -> list[Explanation]:
        """Say of each sample where it is anomalous, how much, and by which evidence.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), str or int, default=None
        roi : default=None
            Region of interest of images, see `score_samples`.
        threshold : float, default=None
            Pixels whose anomaly map lies above it make regions; None = ``-offset_``, from which
            an image is flagged, or that of its class in `class_offsets_`.
        maps : bool, default=False
            Whether to return anomaly maps, each of its own image's size.

        Returns
        -------
        list of Explanation
            Named tuples of `class_label`, `score`, `p_value`, `is_anomaly`, `peak`,
            `peak_position`, `area`, `regions`, `level`, `term`, `anomaly_map`, `contributions` and
            `expected_values`. Vectors have no place: `peak`, `peak_position` and `area` are None
            and `regions` is empty. They have `contributions` instead: by how much the score would
            rise if one feature alone took its expected value, the likeliest one given all others.

        Raises
        ------
        ValueError
            If the threshold is no finite number, or maps are asked for after a fit on feature
            vectors.
        """
        check_is_fitted(self)
        if maps:
            self.model_.require_images("maps=True")
        if threshold is not None:
            check_threshold(threshold)  # before the work
        X, codes = self._checked(X, class_labels)
        reader = self.feature_reader()
        found = explain(
            self._judge(),
            self._batches(X, codes, roi),
            threshold,
            given=codes is not None,
            maps=maps,
        )
        if self.model_.takes_images:
            return found
        names = getattr(self, "feature_names_in_", None)
        if codes is None:
            codes = self.model_.inferred_codes(reader, X)
        scores = np.array([explanation.score for explanation in found])
        likeliest = likeliest_values(self.model_, reader, X, codes, scores)
        return with_contributions(found, likeliest, None if names is None else names.tolist())

    def set_threshold(self, *, false_alarm_rate: float | Mapping[str | int, float]) -> HGADDetector:
        """Move `offset_` so that about this share of fresh normal samples is flagged; no refit.

        Parameters
        ----------
        false_alarm_rate : float in (0, 1), or mapping of class label to float
            A float is the share of the normal samples of all classes together. With
            `class_calibration` it is about the same in every class. It sets `offset_`, and
            `class_offsets_` becomes empty. A mapping, such as ``{"bolt": 0.01}``, gives these
            classes a threshold of their own in `class_offsets_`; the others keep theirs.

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            If a rate is not between 0 and 1, or a class is not known or has no calibration sample.
            The thresholds then stay as they were.

        Warns
        -----
        UserWarning
            With fewer than ``1 / false_alarm_rate - 1`` calibration samples, of the class where it
            has a rate of its own; they cannot promise the rate.

        Notes
        -----
        The calibration samples are the held-out normals: by cross-fitting all of those given to
        fit, else a share of them, see `validation_fraction`. With 0 they are the training samples,
        on which the rate is optimistic. Those of a class are the ones of which this class is
        inferred, as for `p_values`.

        Examples
        --------
        >>> import numpy as np
        >>> from skhgad import HGADDetector
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(0, 1, (600, 4)), rng.normal(6, 1, (600, 4))])
        >>> detector = HGADDetector(random_state=0).fit(X, ["bolt"] * 600 + ["nut"] * 600)
        >>> detector.set_threshold(false_alarm_rate=0.1)
        HGADDetector(random_state=0)
        >>> detector.set_threshold(false_alarm_rate={"bolt": 0.01})
        HGADDetector(random_state=0)
        >>> detector.class_offsets_["bolt"] < detector.offset_
        True
        """
        check_is_fitted(self)
        if isinstance(false_alarm_rate, Mapping):
            own = class_thresholds(self.model_, false_alarm_rate)
            self.class_offsets_ = {**self.class_offsets_, **own}
            return self
        self.offset_ = promised_threshold(self.model_.calibration.scores, false_alarm_rate)
        self.class_offsets_ = {}
        return self

    def certificate(self, confidence: float = 0.95) -> list[ClassCertificate]:
        """Say which false-alarm rate the present threshold does not exceed, class by class.

        The threshold of a class is `offset_`, or its own in `class_offsets_`.

        Parameters
        ----------
        confidence : float in (0, 1), default=0.95

        Returns
        -------
        list of ClassCertificate
            Named tuples of `class_label`, `n_normals`, `n_flagged`, `rate` and `bound`, in the
            order of `classes_`. Of the `n_normals` calibration samples of a class `n_flagged` score
            below its threshold; `rate` is their share. `bound` is the upper Clopper-Pearson bound
            of the rate among fresh normals [1]_. It is 1 where all are flagged or there are none.

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            If `confidence` does not lie strictly between 0 and 1.

        Notes
        -----
        What the bound says: of many detectors, each calibrated on other normals, at most the share
        ``1 - confidence`` has a higher false-alarm rate in this class than its bound. That is so
        for a threshold fixed in advance, and for one that `fit` or `set_threshold` took from the
        calibration samples.

        What it does not say:

        - Few normals give a wide bound. With 19 normals and none flagged it is 14.6 % at 95 %
          confidence; below 5 % takes 59.
        - It holds for each class by itself. Of 20 classes about one may exceed its bound at 95 %;
          for all K classes together, ask for the confidence ``1 - 0.05 / K``.
        - It is exact for normals that settled nothing but the threshold. It is close to that where
          they were held out, because they also settle the scales of the scores, and where they were
          cross-fitted, because the model that scores has seen a tenth more.
        - It speaks of fresh normals like those given to fit, of which the class is inferred, and
          of no anomaly.
        - Where ``contamination`` is a float, the threshold comes from the training samples; the
          bound is still that of the calibration samples. With ``validation_fraction=0`` there are
          no normals to certify anything.
        - It does not hold for the best of several thresholds chosen by their certificates.

        References
        ----------
        .. [1] C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated
           in the case of the binomial", Biometrika 26, 1934. As the coverage of an order
           statistic: V. Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.

        Examples
        --------
        >>> import numpy as np
        >>> from skhgad import HGADDetector
        >>> X = np.random.default_rng(0).normal(size=(60, 4))
        >>> detector = HGADDetector(random_state=0).fit(X, ["bolt"] * 60)
        >>> (bolt,) = detector.certificate()
        >>> bolt.n_flagged, bolt.n_normals, round(bolt.bound, 3)
        (2, 60, 0.101)
        """
        check_is_fitted(self)
        return certify(self.model_, self._offsets(), confidence)

    @usual_torch()
    def save(self, folder: str | PathLike[str]) -> None:
        """Write the fitted detector to a folder, as one safetensors file without pickle.

        Beside it stands ``MODEL_CARD.md``: products, thresholds, certificate, settings, limits,
        versions and licences, for whoever takes the model over. Loading does not read it.

        Parameters
        ----------
        folder : str or path
            Created, or replaced if it holds a model; replaced only when the new one is complete.

        Raises
        ------
        NotFittedError
        ValueError
            If the place is taken by something else, or a parameter or threshold that was set after
            the fit could not be loaded again.
        TypeError
            If such a parameter is of another type.
        OSError
            If it cannot be written.
        """
        check_is_fitted(self)
        tensors, description = pack(self)
        save_state(folder, tensors, description, model_card(self))

    @classmethod
    @usual_torch()
    def load(
        cls, folder: str | PathLike[str], *, backbone: nn.Module | None = None
    ) -> HGADDetector:
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

    @usual_torch()
    def to_onnx(self, path: str | PathLike[str]) -> None:
        """Write the whole scoring path as one ONNX file, for machines without torch.

        Parameters
        ----------
        path : str or path
            Replaced if it exists, when the new file is complete.

        Raises
        ------
        NotFittedError
        ImportError
            If onnx is not installed: ``pip install ".[onnx]"`` in a clone of skhgad.
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
        in the graph. The resizing to `image_size` gives the same pixels but for float32 rounding,
        and takes longer than the rest for large images; images that have the size skip it. Fitted
        on vectors, the input is "features": float64 of shape (n, n_features).

        The outputs are "score" (n,), as `score_samples`; "class_index" (n,), into `classes_`; and
        for images "map" (n, h, w), as `anomaly_maps`. They agree within 1e-4 and what float32
        leaves, but that blank pictures are judged like others, see `score_samples`. Classes are
        inferred, without `unknown_rate`. The file's metadata hold "classes"
        and "image_size", as JSON, and "offset": a lower score is an anomaly. "class_offsets", a
        JSON list, holds the threshold of each class: "offset", or its own in `class_offsets_`.
        """
        check_is_fitted(self)
        write_onnx(self, path)

    def feature_reader(self) -> FeatureReader:
        """Return the way from X to features, as this detector reads it now.

        Returns
        -------
        FeatureReader
            ``reader.batches(X)`` iterates over the features of images or vectors that
            `skhgad.validation.check_scored_X` has checked.

        Raises
        ------
        NotFittedError
        ValueError, TypeError
            If `device` or `memory` cannot be used.
        """
        check_is_fitted(self)
        return FeatureReader(
            self.model_.extractor,
            device=self.device,
            memory=self.memory,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )

    def _repr_html_inner(self) -> str:
        """Return what notebooks show; of a fitted detector also products and certificate."""
        html: str = super()._repr_html_inner()
        if "model_" not in self.__dict__:
            return html
        from .display.notebook import fitted_html

        return html + fitted_html(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] = self._repr_html_inner()
        return bundle

    def _changed_by(
        self, attributes: dict[str, Any], return_changes: bool
    ) -> HGADDetector | list[ClassChange]:
        """Take fitted attributes, all at once; return the detector, or what changed."""
        if not return_changes:
            self.__dict__.update(attributes)
            return self
        now = {**self.__dict__, **attributes}
        before = class_states(self.model_, self.offset_, self.class_offsets_)
        after = class_states(now["model_"], now["offset_"], now["class_offsets_"])
        changes = class_changes(before, after)
        self.__dict__.update(attributes)
        return changes

    def _scored_batches(
        self, X: Any, class_labels: ArrayLike | None = None, roi: Any = None
    ) -> Iterator[ScoredBatch]:
        """Validate X and the labels; iterate over the scores, batch by batch."""
        check_is_fitted(self)
        X, codes = self._checked(X, class_labels)
        return self._batches(X, codes, roi)

    def _batches(self, X: Any, codes: NDArray[np.int64] | None, roi: Any) -> Iterator[ScoredBatch]:
        """Iterate over the scores of what `_checked` returned, on the threads of `n_jobs`."""
        batches = self.model_.scored_batches(self.feature_reader(), X, codes, roi)
        return stepwise(batches, self.n_jobs, on_one=self.model_.takes_images and len(X) > 1)

    def _checked(
        self, X: Any, class_labels: ArrayLike | None
    ) -> tuple[Any, NDArray[np.int64] | None]:
        """Validate X and the labels; return X and the codes of the labels, or None."""
        X = check_scored_X(X, self, takes_images=self.model_.takes_images)
        if class_labels is None:
            return X, None
        return X, check_class_labels(class_labels, self.classes_, len(X))

    def _judge(self) -> Judge:
        """Return what turns scores into verdicts by the present threshold."""
        return Judge(self.model_, self._offsets(), self.unknown_rate)

    def _offsets(self) -> NDArray[np.float64]:
        """Return the present threshold of each class."""
        return offsets_by_code(self.offset_, self.class_offsets_, self.classes_)
