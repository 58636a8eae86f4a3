"""Frozen backbones by name: the embedded one, and timm's."""

import logging
import re

import torch

from ..parameters import BACKBONE_RECIPES
from .checkpoints import (
    check_blocks,
    check_filled,
    embedded_state_dict,
    load_checked,
    read_checkpoint,
)
from .efficientnet_lite0 import EfficientNetLite0
from .outline import outline

EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
STAGES = (2, 3, 4)  # of a named backbone with out_indices="auto"
_EMBEDDED_NAMES = (EMBEDDED_BACKBONE, f"{EMBEDDED_BACKBONE}.in1k")
_OTHER_SHAPE = re.compile(
    r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)"
)


def resolve_stages(out_indices):
    """Turn `out_indices` of a named backbone into a tuple of int."""
    if isinstance(out_indices, str):
        return STAGES
    return tuple(int(index) for index in out_indices)


def create_backbone(name, weights, out_indices, image_size, *, seed=0):
    """Create a frozen backbone that returns the stages `out_indices` as a list of maps.

    `name` is a timm model that supports ``features_only``; tf_efficientnet_lite0 is built without
    timm. `weights` "auto": the embedded weights for tf_efficientnet_lite0, timm's hub weights for
    any other model. None: random weights drawn from `seed`. Else the path of a checkpoint, which
    must fill every tensor. `image_size` (height, width) is for models built for one size, such as
    vision transformers. Raises ValueError for an unknown model or stage and an unusable checkpoint.
    """
    stages = resolve_stages(out_indices)
    # Building draws random weights from torch's global state: leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _EMBEDDED_NAMES:
            return _create_embedded(name, weights, stages)
        return _create_timm(name, weights, stages, image_size)


def _create_embedded(name, weights, stages):
    try:
        backbone = EfficientNetLite0(stages)
    except ValueError as error:
        raise ValueError(_cannot_be_built(name, weights, stages, error)) from error
    if weights == "auto":
        load_checked(backbone, embedded_state_dict(), source="the embedded file of weights")
    elif weights is not None:
        state, source = read_checkpoint(weights), _source(weights, name)
        load_checked(backbone, state, source=source)
        with outline():
            whole = EfficientNetLite0((4,))
        check_blocks(whole.state_dict(), state, source=source)
    return backbone


def _create_timm(name, weights, stages, image_size):
    timm = _import_timm()
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        if name in BACKBONE_RECIPES:
            hint = f"; HGADDetector.with_backbone({name!r}) has settings of that name"
        raise ValueError(f"backbone={name!r} is not a timm model{hint}")
    options = {"features_only": True, "out_indices": stages}
    state = None
    if weights == "auto":
        options["pretrained"] = True
    elif weights is not None:
        state = read_checkpoint(weights)
    # timm warns of the classifier weights that a feature extractor leaves out.
    log = logging.getLogger("timm.models._builder")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        if state is None:
            return _build(name, image_size, options)
        _check_state(name, state, image_size, options, source=_source(weights, name))
        return _build(name, image_size, options, state)
    except _DoesNotFit as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(_cannot_be_built(name, weights, stages, error)) from error
    finally:
        log.setLevel(level)


def _import_timm():
    """Import timm when the first backbone asks for it: it takes about as long as torch.

    Most of that is torch's compiler, which torchvision imports; timm's own models are a tenth.
    """
    import timm

    return timm


class _DoesNotFit(ValueError):
    """A checkpoint that does not fill the backbone."""


def _check_state(name, state, image_size, options, *, source):
    """Raise _DoesNotFit unless a state dict is one of the whole model that the backbone belongs to.

    Every tensor of the backbone must be filled, and there must be no further blocks.

    timm renames and resizes tensors of a checkpoint as each architecture needs, and does not report
    tensors that it did not find. So the backbone is built once from a state dict of nan: a tensor
    that holds none of them afterwards was not filled.
    """
    blank = {
        key: torch.full((), torch.nan, dtype=t.dtype).expand(t.shape) if _is_float(t) else t
        for key, t in state.items()
    }
    shapes = {}
    while True:
        try:
            backbone = _build(name, image_size, options, blank)
            break
        except RuntimeError as error:
            different = _other_shapes(error)
            if missing := _missing(error):  # timm is strict with some architectures
                n_whole = len(_whole(name).state_dict())
                _check_filled(missing, shapes | different, n_whole, source)
            if not different.keys() & blank.keys():
                raise
            shapes.update(different)
            blank = {key: t for key, t in blank.items() if key not in different}
    needed = backbone.state_dict()
    unfilled = [key for key, t in needed.items() if _is_float(t) and not t.isnan().any()]
    named = {key.replace(".", "_") for key in shapes}  # the backbone may say stages_0 for stages.0
    missing = [key for key in unfilled if key.replace(".", "_") not in named]
    _check_filled(missing, shapes, len(needed), source)
    try:
        check_blocks(_whole(name).state_dict(), state, source=source)
    except ValueError as error:
        raise _DoesNotFit(str(error)) from None


def _whole(name):
    """Build a model of timm with all its layers, without values."""
    with outline():
        return _import_timm().create_model(name)


def _check_filled(missing, shapes, n_needed, source):
    try:
        check_filled(missing, shapes, n_needed, source=source)
    except ValueError as error:
        raise _DoesNotFit(str(error)) from None


def _build(name, image_size, options, state=None):
    timm = _import_timm()
    if state is not None:
        # A copy, because timm takes tensors out of it.
        overlay = {"state_dict": dict(state)}
        options = options | {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _other_shapes(error):
    """Read the tensors of another shape from torch's message: name to (found, needed)."""
    found = {}
    for name, *shapes in _OTHER_SHAPE.findall(str(error)):
        found[name] = tuple(tuple(map(int, filter(None, s.split(", ")))) for s in shapes)
    return found


def _missing(error):
    """Read the names of missing tensors from torch's message."""
    found = re.search(r"Missing key\(s\) in state_dict: (.*?)\. *$", str(error), re.MULTILINE)
    return [] if found is None else re.findall(r'"(.*?)"', found[1])


def _is_float(tensor):
    return tensor.is_floating_point()


def _source(weights, name):
    return f"weights={str(weights)!r} for backbone={name!r}"


def _cannot_be_built(name, weights, stages, error):
    text = (
        f"backbone={name!r} with out_indices={stages} and weights={weights!r} cannot be built: "
        f"{error}"
    )
    if weights == "auto" and name not in _EMBEDDED_NAMES:
        text += (
            " Its weights come from https://huggingface.co/timm. Without a network, download the "
            "checkpoint (model.safetensors) elsewhere and pass its path as weights=."
        )
    return text
