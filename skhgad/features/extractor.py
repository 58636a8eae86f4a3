"""A frozen backbone and the levels of features it gives."""

import copy
import hashlib
import json
import threading
from functools import partial

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional as F

from ..parameters import image_size
from .backbones import create_backbone
from .folding import fold_batch_norm

# Of the backbone's arithmetic; everything after it stays in float32.
MIXED_PRECISION = {"cuda": torch.float16}
_FOLDING = threading.Lock()


def tensors_sha256(tensors):
    """SHA-256 over names, dtypes, shapes and values of a dict of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
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
        A timm model name, or a module that maps images (n, 3, h, w) to a list of maps
        (n, channels, h', w').
    weights : str, path or None
        See `create_backbone`; ignored for a module.
    out_indices : tuple of int
        Stages of the backbone, fine to coarse; for a module, which of its maps.
    image_size : tuple (height, width)
    image_scales : tuple of float
        The backbone sees the image at these multiples of `image_size`.
    pool_size : int, odd
        Each vector is the mean over this many positions a side.
    fuse : bool
        Whether `fuse_stages` combines the stages; else each is a level.
    power : float
        Exponent of `signed_power`.
    levels : list of tuples (n_features, height, width), default=None
        None = the backbone is run once to see.
    mixed_precision : bool, default=True
        Whether a GPU runs the backbone in float16.
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
        levels=None,
        *,
        mixed_precision=True,
    ):
        super().__init__()
        self.spec = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "out_indices": [int(index) for index in out_indices],
            "image_size": [int(side) for side in image_size],
            "image_scales": [float(scale) for scale in image_scales],
            "pool_size": int(pool_size),
            "fuse": bool(fuse),
            "power": float(power),
        }
        if isinstance(backbone, str):
            self.backbone = create_backbone(backbone, weights, out_indices, image_size)
        else:
            self.backbone = copy.deepcopy(backbone)  # the caller keeps theirs as it was
        configuration = getattr(self.backbone, "pretrained_cfg", None) or {}
        for name, default in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            value = torch.tensor(configuration.get(name, default), dtype=torch.float32)
            self.register_buffer(name, value.view(1, 3, 1, 1))
        self.mixed_precision = mixed_precision
        self._folded = {}  # by device: see `fold`; never saved
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        if levels is None:
            with torch.inference_mode():
                levels = _shapes(self._maps(torch.zeros(1, 3, *image_size)))
        self.levels = levels

    def forward(self, pixels):
        """Extract all levels, float32 Tensors (n, n_positions, n_features).

        `pixels` is float32 in [0, 1], of shape (n, 3, height, width). Raises ValueError if the
        backbone gives other maps than at fit.
        """
        maps = self._maps(pixels)
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
            maps = self._select(self._run_backbone(scaled))
            levels += fuse_stages(maps, self.pool) if self.spec["fuse"] else maps
        pool = self.spec["pool_size"]
        if pool > 1:
            levels = [F.avg_pool2d(m, pool, 1, pool // 2, count_include_pad=False) for m in levels]
        return [signed_power(m, self.spec["power"]) for m in levels]

    def fold(self, device):
        """Return the backbone with its batch normalisations folded, once for a device."""
        if self.spec["backbone"] is None or not self.folds_batch_norm:
            return self.backbone
        with _FOLDING:  # threads that score at once must not fold at once
            if device not in self._folded:
                blank = torch.zeros(1, 3, *self.spec["image_size"], device=device)
                blank = blank.contiguous(memory_format=torch.channels_last)
                self._folded[device] = fold_batch_norm(self.backbone, blank)
        return self._folded[device]

    def _run_backbone(self, pixels):
        device = pixels.device
        backbone, half = self.fold(device), self._half_precision(device)
        with torch.autocast(device.type, half, enabled=half is not None):
            maps = backbone(pixels)
        return [m.float() if isinstance(m, torch.Tensor) else m for m in maps]

    def _half_precision(self, device):
        return MIXED_PRECISION.get(device.type) if self.mixed_precision else None

    def _select(self, outputs):
        outputs = list(outputs)
        if self.spec["backbone"] is None:
            outputs = [outputs[index] for index in self.spec["out_indices"]]
            for output in outputs:
                if not isinstance(output, torch.Tensor) or output.ndim != 4:
                    raise ValueError(
                        "backbone: the module must return a list of maps of shape "
                        f"(n, channels, height, width), got {type(output).__name__} of shape "
                        f"{tuple(getattr(output, 'shape', ()))}."
                    )
        elif str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC"):
            outputs = [output.permute(0, 3, 1, 2) for output in outputs]
        return outputs


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
        levels,
        mixed_precision=bool(parameters["mixed_precision"]),
    )


def _shapes(maps):
    """(channels, height, width) of maps (n, channels, height, width)."""
    return [tuple(m.shape[1:]) for m in maps]
