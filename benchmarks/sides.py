"""What a speed benchmark compares: the reference, the bare backbone and skhgad, built alike."""

import timm
import torch
from torch.nn import functional as F

from skhgad import HGADDetector
from skhgad.features.backbones import EMBEDDED_BACKBONE
from skhgad.features.checkpoints import embedded_state_dict
from skhgad.images import ImageSource, iter_batches

PUBLISHED_STAGE, PUBLISHED_SCALES = (3,), (1.0, 0.5, 0.25)


def bare_backbone(options, out_indices):
    """timm's feature extractor with nothing of skhgad around it, and its mean and spread."""
    settings = {"features_only": True, "out_indices": out_indices}
    if options.weights == "auto":
        settings["pretrained"] = True
        if options.backbone == EMBEDDED_BACKBONE:
            settings["pretrained_cfg_overlay"] = {"state_dict": embedded_state_dict()}
    model = timm.create_model(options.backbone, **settings).eval().requires_grad_(False)
    return model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"]


def without_unused_stages(model):
    """Cut an EfficientNet behind the last stage asked for: timm runs the others for nothing."""
    if hasattr(model, "blocks") and hasattr(model, "_stage_out_idx"):
        model.blocks = model.blocks[: max(model._stage_out_idx)]
    return model


def backbone_beside(options, detector):
    """What a fitted detector is measured beside: `bare_backbone` up to the last stage it uses."""
    out_indices = tuple(detector.model_.extractor.spec["out_indices"])
    model, mean, std = bare_backbone(options, out_indices)
    model = without_unused_stages(model).to(options.device, memory_format=torch.channels_last)
    return model, mean, std


def make_encoder(options):
    """Backbone and image scales of the reference."""
    from .reference import Encoder  # needs FrEIA, which the other sides do not

    model, mean, std = bare_backbone(options, PUBLISHED_STAGE)
    return Encoder(model, PUBLISHED_SCALES, mean, std).to(options.device)


def make_reference(options, n_classes, n_steps, encoder=None, channels=None):
    """The untrained reference; `channels` are asked of the encoder where not given."""
    from .reference import ReferenceHGAD

    if channels is None:
        pixels = torch.zeros(1, options.image_size, options.image_size, 3, dtype=torch.uint8)
        channels = [maps.shape[1] for maps in encoder(pixels)]
    model = ReferenceHGAD(channels, n_classes, encoder, n_steps=n_steps, n_blocks=options.n_blocks)
    return model.to(options.device)


def make_detector(options, configuration, **overrides):
    """An unfitted HGADDetector of the same backbone."""
    settings = dict(
        backbone=options.backbone,
        weights=None if options.weights == "none" else options.weights,
        image_size=options.image_size,
        device=options.device,
        random_state=0,
    )
    if configuration == "default":
        return HGADDetector.fast(**settings | overrides)
    settings |= {"out_indices": PUBLISHED_STAGE, "image_scales": PUBLISHED_SCALES}
    return HGADDetector.paper(**settings | {"n_blocks": options.n_blocks} | overrides)


def run_bare(model, mean, std, scales, batches, device):
    """Normalise batches of pixels and pass them through the backbone, at every image scale."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        for pixels in batches:
            x = pixels.to(device)
            if x.dtype == torch.uint8:
                x = x.permute(0, 3, 1, 2).float() / 255
            x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
            for scale in scales:
                size = [max(1, round(scale * side)) for side in x.shape[2:]]
                model(x if scale == 1 else F.interpolate(x, size, mode="bilinear", antialias=True))


def from_arrays(pixels, batch_size):
    """Yield batches of uint8 images (b, height, width, 3)."""
    yield from torch.from_numpy(pixels).split(batch_size)


def from_files(paths, size, batch_size):
    """Yield float batches (b, 3, height, width) from files, decoded and resized as by skhgad."""
    source = ImageSource(paths)
    for batch in iter_batches(source, size=(size, size), batch_size=batch_size):
        yield torch.from_numpy(batch.pixels)
