"""A frozen backbone and the levels of features it gives."""

import copy
import hashlib
import json
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ..devices import ForkableLock
from ..parameters import SCALES, image_size
from .backbones import create_backbone, resolve_stages
from .folding import fold_batch_norm, for_processor
from .module_outputs import as_map, output_items, select_items
from .projection import project, random_projection

# Of the backbone's arithmetic; everything after it stays in float32.
MIXED_PRECISION = {"cuda": torch.float16}
# What pixels are normalised with, unless the backbone has a `pretrained_cfg` that says otherwise.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_FOLDING = ForkableLock()
_FOLDED_AT = 128  # pixels a side, at most: folding does not depend on them
_ROUNDING = 0.05  # share of the largest feature: bfloat16 changes less, a noisy module more


def _difference(features, others):
    """Return the largest difference, as a share of the largest feature."""
    tiny = torch.finfo(features.dtype).tiny
    return float((features - others).abs().max() / features.abs().max().clamp_min(tiny))


def tensors_sha256(tensors):
    """SHA-256 over names, dtypes, shapes and values of a dict of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Of a single number any stride is contiguous, but not every one can be viewed as bytes.
        digest.update(tensor.reshape(-1)[:, None].view(torch.uint8).numpy())
    return digest.hexdigest()


def fuse_stages(maps, pool=F.adaptive_avg_pool2d):
    """Describe each stage together with what finer stages show inside its positions.

    `maps` (n, channels, height, width) go from fine to coarse. The result has one for every stage
    but the first: mean and standard deviation of the channels of each finer stage within each
    position, then the stage's own channels. A single stage is returned as it is. Finer stages of
    the same size add their channels alone.
    """
    if len(maps) == 1:
        return list(maps)
    fused = []
    for index, coarse in enumerate(maps[1:], start=1):
        parts = []
        size = coarse.shape[2:]
        for finer in maps[:index]:
            # In float32 the variance of a smooth region would be rounding noise.
            wide = finer if finer.device.type == "mps" else finer.double()
            mean = pool(wide, size)
            parts.append(mean.to(coarse.dtype))
            if finer.shape[2:] != size:
                variance = pool(wide.square(), size) - mean.square()
                parts.append(variance.clamp_min(0).sqrt().to(coarse.dtype))
        fused.append(torch.cat([*parts, coarse], dim=1))
    return fused


def signed_power(x, exponent):
    """sign(x) |x|^exponent; an exponent below 1 shortens the heavy tails of activations."""
    return x if exponent == 1 else x.sign() * x.abs().pow(exponent)


class FeatureExtractor(nn.Module):
    """A frozen backbone as a function from pixels to levels of feature vectors.

    Levels are ordered by image scale, then stage.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        A timm model name, or a module that maps float32 images (n, 3, h, w), normalised with
        ImageNet's mean and standard deviation, to maps: see `module_outputs.RETURNS`.
    weights : str, path or None
        See `create_backbone`; ignored for a module.
    out_indices : tuple of int or "auto"
        Stages of the backbone, fine to coarse; for a module, which of its maps. "auto": the stages
        (2, 3, 4); all maps of a module.
    image_size : tuple (height, width)
    image_scales : tuple of float or "auto"
        The backbone sees the image at these multiples of `image_size`. "auto": 2/3 and 1 for a
        named backbone that takes images of any size, else 1 alone.
    pool_size : int, odd
        Each vector is the mean over this many positions a side.
    fuse : bool
        Whether `fuse_stages` combines the stages; else each is a level.
    power : float
        Exponent of `signed_power`.
    max_features : int or None, default=None
        Wider levels are brought to this width by a random projection.
    levels : list of tuples (n_features, height, width), default=None
        None = the backbone is run once to see.
    mixed_precision : bool, default=True
        Whether a GPU runs the backbone in float16.

    Attributes
    ----------
    is_stateless : bool
        Whether several threads may run the backbone at once. False for a module: nobody knows.
    """

    def __init__(
        self,
        backbone,
        weights,
        out_indices,
        image_size,
        image_scales,
        pool_size,
        fuse,
        power,
        max_features=None,
        levels=None,
        *,
        mixed_precision=True,
    ):
        super().__init__()
        self.spec = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "out_indices": _indices(backbone, out_indices),
            "image_size": [int(side) for side in image_size],
            "pool_size": int(pool_size),
            "fuse": bool(fuse),
            "power": float(power),
        }
        if isinstance(backbone, str):
            self.backbone = create_backbone(backbone, weights, out_indices, image_size)
        else:
            self.backbone = copy.deepcopy(backbone)  # the caller keeps theirs as it was
        configuration = _configuration(self.backbone)
        self.spec["image_scales"] = self._scales(image_scales)
        for name, default in IMAGENET.items():
            value = torch.tensor(configuration.get(name, default), dtype=torch.float32)
            self.register_buffer(name, value.view(1, -1, 1, 1))
        _check_normalisation(self.mean, self.std)
        self.mixed_precision = mixed_precision
        self.is_stateless = _is_stateless(self.backbone) and isinstance(backbone, str)
        self._folded = {}  # by device: see `fold`; never saved
        self._running = ForkableLock()
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        if levels is None:
            with torch.inference_mode():
                maps = self._maps(torch.zeros(1, self.n_channels, *image_size))
            for index, (n_features, *_) in enumerate(_shapes(maps)):
                if max_features is not None and n_features > max_features:
                    matrix = random_projection(n_features, max_features)
                    self.register_buffer(_projection_name(index), matrix)
            with torch.inference_mode():
                levels = _shapes(self._projected(maps))
                if not isinstance(backbone, str):
                    self._warn_if_unsteady()
        self.levels = levels

    def _warn_if_unsteady(self):
        """Warn if features of an image depend on chance, or on the image beside it."""
        shape = (2, self.n_channels, *self.spec["image_size"])
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        alone, beside = self._maps(pixels[:1]), self._maps(pixels)
        pairs = [(m[0], n[0]) for m, n in zip(alone, beside, strict=True)]
        if any(m.shape != n.shape or _difference(m, n) > _ROUNDING for m, n in pairs):
            warnings.warn(
                "backbone: the module gives an image other features when another one is beside it, "
                "or at each call, so scores depend on chance. Let it compute without dropout, "
                "noise and statistics of the batch: fit calls its eval().",
                UserWarning,
                stacklevel=2,
            )

    @property
    def n_channels(self):
        """Channels of the pixels: as many as the mean has values."""
        return self.mean.shape[1]

    def room_for_projections(self, state):
        """Make room for the projections of a saved extractor, before its state dict is loaded.

        Raises ValueError if one does not give the width of its level.
        """
        for index, (n_features, *_) in enumerate(self.levels):
            name = _projection_name(index)
            if name in state:
                if state[name].ndim != 2 or len(state[name]) != n_features:
                    raise ValueError(
                        f"{name} has shape {tuple(state[name].shape)}, but its level has "
                        f"{n_features} features."
                    )
                self.register_buffer(name, torch.zeros(state[name].shape))

    def forward(self, pixels):
        """Extract all levels, float32 Tensors (n, n_positions, n_features).

        `pixels` is float32 in [0, 1], of shape (n, channels, height, width). Raises ValueError if
        the backbone gives other maps than at fit.
        """
        maps = self._projected(self._maps(pixels))
        if _shapes(maps) != self.levels:
            raise ValueError(
                f"the backbone gives maps (channels, height, width) of {_shapes(maps)}, but gave "
                f"{self.levels} at fit: load the model with the backbone it was fitted with."
            )
        return [m.permute(0, 2, 3, 1).flatten(1, 2).float() for m in maps]

    # The ONNX export replaces these. Both operations are linear maps of the rows and columns.
    pool = staticmethod(F.adaptive_avg_pool2d)
    rescale = staticmethod(partial(F.interpolate, mode="bilinear", antialias=True))
    folds_batch_norm = True

    def load_state_dict(self, *args, **kwargs):
        """Load other weights; the backbone is folded again when it is next used."""
        result = super().load_state_dict(*args, **kwargs)
        self._folded = {}
        return result

    def __getstate__(self):
        return self.__dict__ | {"_folded": {}}

    def digest(self, device):
        """SHA-256 of everything but the pixels that features depend on, on a device."""
        text = json.dumps(self.spec, sort_keys=True) + tensors_sha256(self.state_dict())
        half = self._half_precision(device)
        text += "" if half is None else str(half)
        return hashlib.sha256(text.encode()).hexdigest()

    def _maps(self, pixels):
        pixels = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        levels = []
        for scale in self.spec["image_scales"]:
            scaled = pixels
            if scale != 1:
                size = [max(1, round(scale * side)) for side in self.spec["image_size"]]
                scaled = self.rescale(pixels, size)
            maps = self._run_backbone(scaled)
            levels += self._fuse(maps) if self.spec["fuse"] else maps
        pool = self.spec["pool_size"]
        if pool > 1:
            levels = [F.avg_pool2d(m, pool, 1, pool // 2, count_include_pad=False) for m in levels]
        return [signed_power(m, self.spec["power"]) for m in levels]

    def _scales(self, image_scales):
        if image_scales != "auto":
            return [float(scale) for scale in image_scales]
        return list(SCALES) if self._takes_any_size() else [1.0]

    def _takes_any_size(self):
        is_named = self.spec["backbone"] is not None
        return is_named and not _configuration(self.backbone).get("fixed_input_size")

    def fold(self, device):
        """Return the backbone with its batch normalisations folded, once for a device."""
        if self.spec["backbone"] is None or not self.folds_batch_norm:
            return self.backbone
        with _FOLDING.held():  # threads that score at once must not fold at once
            if device not in self._folded:
                size = self.spec["image_size"]
                if self._takes_any_size():
                    size = [min(side, _FOLDED_AT) for side in size]
                blank = torch.zeros(1, self.n_channels, *size, device=device)
                blank = blank.contiguous(memory_format=torch.channels_last)
                folded = fold_batch_norm(self.backbone, blank)
                self._folded[device] = for_processor(folded) if device.type == "cpu" else folded
        return self._folded[device]

    def _run_backbone(self, pixels):
        device = pixels.device
        half = self._half_precision(device)
        with self._naming_size(pixels):
            backbone = self.fold(device)
            # What may remember its last call is run by one thread at a time.
            one_at_a_time = nullcontext() if self.is_stateless else self._running.held()
            with one_at_a_time, torch.autocast(device.type, half, enabled=half is not None):
                output = output_items(backbone(pixels))
        if self.spec["backbone"] is None:
            items = select_items(output, self.spec["out_indices"])
            output = [as_map(item, pixels) for item in items]
        if str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC"):  # some of timm's
            output = [m.permute(0, 3, 1, 2) for m in output]
        return [m.float() for m in output]

    @contextmanager
    def _naming_size(self, pixels):
        """Let errors of the backbone about the size of images say what to change."""
        name = self.spec["backbone"]
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            if name is not None and isinstance(error, RuntimeError):
                raise
            height, width = pixels.shape[2:]
            who = "the module" if name is None else repr(name)
            raise ValueError(
                f"backbone: {who} takes no images of {height} x {width} pixels (image_size="
                f"{tuple(self.spec['image_size'])}, image_scales={self.spec['image_scales']}): "
                f"{error}"
            ) from error

    def _half_precision(self, device):
        return MIXED_PRECISION.get(device.type) if self.mixed_precision else None

    def _fuse(self, maps):
        sizes = [tuple(m.shape[2:]) for m in maps]
        if any(fine[0] < coarse[0] or fine[1] < coarse[1] for fine, coarse in pairwise(sizes)):
            raise ValueError(
                f"fuse_stages needs maps from fine to coarse, the backbone gives sizes {sizes}: "
                "name them in that order by out_indices, or pass fuse_stages=False."
            )
        return fuse_stages(maps, self.pool)

    def _projected(self, maps):
        return [
            project(m, getattr(self, _projection_name(index), None)) for index, m in enumerate(maps)
        ]


def build_extractor(parameters, *, weights, levels=None):
    """Create the extractor that the parameters of an estimator ask for; see `FeatureExtractor`."""
    return FeatureExtractor(
        parameters["backbone"],
        weights,
        parameters["out_indices"],
        image_size(parameters["image_size"]),
        parameters["image_scales"],
        parameters["pool_size"],
        parameters["fuse_stages"],
        parameters["feature_power"],
        parameters["max_features"],
        levels,
        mixed_precision=bool(parameters["mixed_precision"]),
    )


def channels_of(backbone):
    """Return how many channels the pixels of a backbone have: 3 unless its mean says otherwise.

    `backbone` is a name or a module; the names are of models for RGB.
    """
    return len(_configuration(backbone).get("mean", IMAGENET["mean"]))


def _configuration(backbone):
    """Return what timm says of a backbone, a dict; of a name or another module, an empty one."""
    return getattr(backbone, "pretrained_cfg", None) or {}


def _check_normalisation(mean, std):
    if mean.shape != std.shape:
        raise ValueError(
            f"the backbone's pretrained_cfg has a mean of {mean.numel()} values and a std of "
            f"{std.numel()}: give one of each for every channel of the pictures."
        )


def _shapes(maps):
    """(channels, height, width) of maps (n, channels, height, width)."""
    return [tuple(m.shape[1:]) for m in maps]


def _indices(backbone, out_indices):
    """Return `out_indices` as JSON has it; "auto" stays for a module, whose maps are not known."""
    if isinstance(backbone, str):
        return list(resolve_stages(out_indices))
    return out_indices if isinstance(out_indices, str) else [int(index) for index in out_indices]


def _is_stateless(backbone):
    """Tell whether several threads may run one of timm's backbones at once.

    Some keep the maps of the last call, in hooks.
    """
    return not any(
        type(value).__name__ == "FeatureHooks"
        for module in backbone.modules()
        for value in vars(module).values()
    )


def _projection_name(index):
    return f"projection_{index}"
