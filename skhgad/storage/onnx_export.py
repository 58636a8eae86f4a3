"""The scoring path as an ONNX file: image or vector in; score, class and map out.

What torch cannot trace is computed in another way here, with the same result. `onnx_images` adds
preprocessing and final resizing.
"""

import copy
import json
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..features.framing import framed
from ..images.source import ImageSource
from ..model.level import LevelModel
from ..model.mixture import entropy
from ..scoring.thresholds import offset_of
from ..scoring.views import frame_of_maps
from ..version import installed_version, needing
from .files import check_file_place, whole_file

OPSET = 18
# The score of a sample whose evidence overflows, the same as the estimator's.
LOWEST = {dtype: torch.finfo(dtype).min / 2 for dtype in (torch.float32, torch.float64)}


def write_onnx(detector, path):
    """Write a fitted detector as one ONNX file, whole or not at all: `HGADDetector.to_onnx`."""
    with needing("to_onnx", "the package onnx", "onnx", "onnx"):
        import onnx

        from .onnx_images import surround
    check_file_place(path, "path")
    check_exportable(detector.model_)
    is_images = detector.model_.takes_images
    with whole_file(path) as part:
        _export_core(Core(detector.model_), _example(detector), part, is_images)
        model = onnx.load(part)
        if is_images:
            fitted = detector.model_
            model = surround(
                model,
                fitted.image_size,
                fitted.value_range,
                OPSET,
                n_channels=fitted.n_channels,
                region=_region_constants(fitted),
            )
        del model.opset_import[1:]  # merging models names the one operator set once for each
        model.producer_name, model.producer_version = "skhgad", installed_version()
        onnx.helper.set_model_props(model, _properties(detector))
        onnx.checker.check_model(model)
        onnx.save(model, part)


def check_exportable(fitted):
    """Raise ValueError for what no ONNX file of ours computes."""
    parameters = fitted.parameters
    if fitted.takes_images and (
        parameters["tile_size"] is not None or parameters["resize"] == "pad"
    ):
        name = "resize" if parameters["tile_size"] is None else "tile_size"
        raise ValueError(
            f"to_onnx cannot export {name}={parameters[name]!r}, with which the graph would have "
            "another shape for each size of image: score with HGADDetector, or fit without it."
        )
    if fitted.roi is not None and not fitted.roi.is_common:
        raise ValueError(
            "to_onnx can export one region of interest for all products, but this detector was "
            "fitted with a mask for each: fit with one mask, or one detector a product."
        )


def region_of(fitted):
    """Return the ViewSource of a blank image with the region that all products have, or None."""
    if fitted.roi is None or not fitted.roi.masks:
        return None
    blank = np.zeros((1, *fitted.roi.masks[0].shape, fitted.n_channels), dtype=np.uint8)
    images = ImageSource(blank, n_channels=fitted.n_channels)
    return framed(images, fitted.extractor, fitted.parameters, fitted.roi.regions([0]))


class Core(nn.Module):
    """From pixels (n, 3, h, w) in [0, 1] or vectors (n, d) to score, class and map on the grid."""

    def __init__(self, fitted):
        super().__init__()
        self.extractor = _on_cpu(fitted.extractor)
        self.model = _on_cpu(fitted.model)
        self.model.levels = nn.ModuleList(map(TraceableLevel, self.model.levels))
        self.frame, views = None, region_of(fitted)
        if views is not None:
            inside = [torch.from_numpy(i) for i in views.inside(0)]
            self.frame = frame_of_maps(views, [0], inside, self.model.map_size)
        if self.extractor is not None:
            self.extractor.folds_batch_norm = False  # onnxruntime folds what can be folded
            self.extractor.pool = MatrixProducts(self.extractor.pool)
            self.extractor.rescale = MatrixProducts(self.extractor.rescale)
        self.eval()

    def forward(self, x):
        """Return scores (n,), class indices (n,) and, of images, maps (n, height, width)."""
        features = [x[:, None]] if self.extractor is None else self.extractor(x)
        if self.frame is None:
            maps, codes = self.model(features)
        else:  # as without, but for the typicality, which cannot be traced
            levels = zip(self.model.levels, features, strict=True)
            codes = self.model.infer_codes([level.latent(x)[0] for level, x in levels], self.frame)
            maps, codes = self.model(features, codes, self.frame)
        lowest = LOWEST[maps.dtype]
        scores = torch.nan_to_num(-maps.amax((1, 2)), nan=lowest, neginf=lowest)
        return (scores, codes) if self.extractor is None else (scores, codes, maps)


class TraceableLevel(LevelModel):
    """A level that computes the same without loops over the classes of a batch."""

    def __init__(self, level):
        flow = TraceableFlow(level.flow)
        super().__init__(
            level.start, flow, level.mixture, level.map_shape, level.densities, level.nearest
        )

    def log_density(self, z, codes):
        """Log-density of each position under the class of its image."""
        n_classes = len(self.mixture.means)
        densities = torch.stack([self.log_density_of(z, code) for code in range(n_classes)], 1)
        return densities.gather(1, codes[:, None, None].expand(-1, 1, z.shape[1]))[:, 0]

    def background_log_density(self, z, codes):
        """Log-density under the background of the class of each image."""
        source = self.densities
        numbers = range(1 + len(source.own_background_log_dets))
        if len(numbers) == 1:
            return source.log_density_of_background(z, 0)
        densities = torch.stack([source.log_density_of_background(z, n) for n in numbers], 1)
        chosen = source.own_backgrounds[codes][:, None, None].expand(-1, 1, z.shape[1])
        return densities.gather(1, chosen)[:, 0]

    def posterior_entropy(self, z, codes):
        """Entropy of the class posterior at each position."""
        mixture = self.mixture
        class_logits = mixture.class_logits(z)
        if mixture.generations.any():  # a class that was added later is unknown to earlier ones
            unknown = mixture.generations > mixture.generations[codes][:, None, None]
            class_logits = class_logits.masked_fill(unknown, -1e30)
        return entropy(class_logits)


class TraceableFlow(nn.Module):
    """A flow over whole maps, in operations that can be traced."""

    def __init__(self, flow):
        super().__init__()
        flow.freeze()
        self.flow = flow

    def forward(self, x):
        """Return z and the log-determinant, as `ConditionalFlow` does."""
        if not len(self.flow.blocks.mix):
            return self.flow(x)
        blocks, log_scale = self.flow.blocks.folded_blocks(None)
        n_active, log_det = x.shape[-1] // 2, 0
        for block in blocks:
            passive, active = x.split((x.shape[-1] - n_active, n_active), dim=-1)
            raw, shift = block.network(passive)
            log_factor = self.flow.blocks.clamp * raw.tanh()
            x = torch.cat((passive, active * log_factor.exp() + shift), dim=-1)
            x = x * block.mix if block.mix.ndim == 1 else F.linear(x, block.mix)
            x = x + block.mix_bias
            log_det = log_det + log_factor.sum(-1)
        return x, log_det + log_scale


class MatrixProducts:
    """Two matrix products for operation(x, size), linear and the same for all rows and columns."""

    def __init__(self, operation):
        self.operation = operation
        self.matrices = {}  # found by a first run

    def __call__(self, x, size):
        """Apply the operation to x (n, channels, height, width)."""
        height, width, to_height, to_width = map(int, (*x.shape[2:], *size))
        down = self._matrix(height, to_height, x.dtype)
        across = self._matrix(width, to_width, x.dtype)
        return down @ x @ across.T

    def _matrix(self, n_in, n_out, dtype):
        key = n_in, n_out, dtype
        if key not in self.matrices:
            identity = torch.eye(n_in, dtype=dtype)[None, None]
            self.matrices[key] = self.operation(identity, (n_out, n_in))[0, 0]
        return self.matrices[key]


def _on_cpu(module):
    return None if module is None else copy.deepcopy(module).cpu()


def _region_constants(fitted):
    """Return mask, colour outside and grid of the region of interest, or None."""
    views = region_of(fitted)
    if views is None:
        return None
    colour = views.colour.astype(np.float32) / np.float32(255)
    return views.mask(0), colour, views.grid_inside(0, tuple(fitted.model.map_size))


def _example(detector):
    if not detector.model_.takes_images:
        return torch.zeros(2, detector.n_features_in_, dtype=torch.float64)
    return torch.zeros(2, detector.model_.n_channels, *detector.model_.image_size)


@torch.no_grad()
def _export_core(core, example, path, is_images):
    core(example)  # computes the constant matrices, so that the trace sees constants
    name = "pixels" if is_images else "features"
    outputs = ["score", "class_index", "grid"]
    with warnings.catch_warnings():
        # Sizes become constants, as intended. dynamo=True takes another package, 20 times the time.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                core,
                (example,),
                str(path),
                input_names=[name],
                output_names=outputs if is_images else outputs[:2],
                dynamic_axes={key: {0: "n"} for key in (name, *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        except OSError:  # a full disk is no fault of the backbone
            raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            raise RuntimeError(
                f"torch cannot export this backbone to ONNX ({type(error).__name__}: {reason})"
            ) from error


def _properties(detector):
    properties = {
        "classes": json.dumps(detector.classes_.tolist()),
        "offset": repr(float(detector.offset_)),
        "class_offsets": json.dumps([offset_of(detector, k) for k in detector.classes_.tolist()]),
    }
    if detector.model_.takes_images:
        properties["image_size"] = json.dumps(detector.model_.image_size)
    return properties
