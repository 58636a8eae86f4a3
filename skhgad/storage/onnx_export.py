"""The scoring path as an ONNX file: image or vector in; score, class and map out.

torch traces what lies between pixels in [0, 1] and the map on the model's grid; `_onnx_images` is
what lies around it. What torch cannot trace is computed differently here, with the same result:
loops over the classes of a batch become gathers, poolings and rescalings become products with
constant matrices.
"""

import copy
import json
import warnings

import torch
from torch import nn
from torch.nn import functional as F

import skhgad

from ..features.backbones import FeatureExtractor
from ..model.coupling import CouplingBlocks
from ..model.level import LevelModel
from ..model.losses import log_likelihood
from ..model.mixture import entropy
from ..parameters import image_size
from .files import check_file_place, whole_file

OPSET = 18
# Scores of evidence that overflows, as in the estimator.
LOWEST = {dtype: torch.finfo(dtype).min / 2 for dtype in (torch.float32, torch.float64)}


def write_onnx(detector, path):
    """Write a fitted detector as one ONNX file, whole or not at all: `HGADDetector.to_onnx`."""
    try:
        import onnx

        from .onnx_images import surround
    except ImportError as error:
        raise ImportError("to_onnx needs the package onnx: pip install 'skhgad[onnx]'.") from error
    check_file_place(path, "path")
    is_images = detector._extractor is not None
    with whole_file(path) as part:
        _export_core(Core(detector), _example(detector), part, is_images)
        model = onnx.load(part)
        if is_images:
            size = image_size(detector.image_size)
            model = surround(model, size, detector.value_range, OPSET)
        model.producer_name, model.producer_version = "skhgad", skhgad.__version__
        onnx.helper.set_model_props(model, _properties(detector))
        onnx.checker.check_model(model)
        onnx.save(model, part)


class Core(nn.Module):
    """From pixels (n, 3, h, w) in [0, 1], or vectors (n, d), to score, class and map on the grid.

    Parameters
    ----------
    detector : HGADDetector
        Fitted; copied to the CPU.
    """

    def __init__(self, detector):
        super().__init__()
        self.extractor = _on_cpu(detector._extractor)
        self.model = _on_cpu(detector._model)
        # The same state under classes that compute the same in a way that can be traced.
        for level in self.model.levels:
            level.__class__ = _TraceableLevel
            level.flow.blocks.__class__ = _TraceableBlocks
        if self.extractor is not None:
            self.extractor.__class__ = _TraceableExtractor
            self.extractor.matrices = {}
        self.eval()

    def forward(self, x):
        """Return score (n,), class index (n,) and, of images, map (n, height, width)."""
        features = [x[:, None]] if self.extractor is None else self.extractor(x)
        maps, codes = self.model(features)
        lowest = LOWEST[maps.dtype]
        scores = torch.nan_to_num(-maps.amax((1, 2)), nan=lowest, neginf=lowest)
        return (scores, codes) if self.extractor is None else (scores, codes, maps)


class _TraceableLevel(LevelModel):
    def evidence(self, z, log_det, codes):
        mixture = self.mixture
        if mixture.whiteners is None:
            centers, white, class_log_det = mixture.centers(), z, 0
        else:
            centers, class_log_det = mixture.whitened_offsets, mixture.log_dets[codes][:, None]
            white = (z - (mixture.means + mixture.shifts)[codes][:, None]) @ mixture.whiteners[
                codes
            ]
        # Transposed before the gather, so that it is a constant of the graph.
        cross = white @ centers.transpose(1, 2)[codes]
        squares = white.square().sum(-1, keepdim=True) + centers.square().sum(-1)[codes][:, None]
        logits = mixture.center_logits.log_softmax(1)[codes][:, None]
        density = torch.logsumexp(logits - 0.5 * (squares - 2 * cross).clamp_min(0), dim=-1)
        background = None
        if mixture.background_mean is not None:
            background = log_likelihood(mixture.log_density_background(z), log_det, self.n_features)
        likelihood = log_likelihood(density + class_log_det, log_det, self.n_features)
        class_logits = mixture.class_logits_of(z)
        if mixture.generations.any():  # otherwise every class knew all others
            unknown = mixture.generations > mixture.generations[codes][:, None, None]
            class_logits = class_logits.masked_fill(unknown, -1e30)
        return likelihood, background, entropy(class_logits)


class _TraceableBlocks(CouplingBlocks):
    def _without_gradient(self, x, blocks, workspace):
        n_active, log_det = x.shape[-1] // 2, 0
        for block in blocks:
            passive, active = x.split((x.shape[-1] - n_active, n_active), dim=-1)
            raw, shift = block.network(passive)
            log_scale = self.clamp * raw.tanh()
            x = torch.cat((passive, active * log_scale.exp() + shift), dim=-1)
            x = x * block.mix if block.mix.ndim == 1 else F.linear(x, block.mix)
            x = x + block.mix_bias
            log_det = log_det + log_scale.sum(-1)
        return x, log_det


class _TraceableExtractor(FeatureExtractor):
    def _run_backbone(self, pixels):
        return self.backbone(pixels)  # onnxruntime folds what can be folded

    def pool(self, x, size):
        return self._product("pool", x, size)

    def rescale(self, x, size):
        return self._product("rescale", x, size)

    def _product(self, name, x, size):
        """Compute a linear map of rows and columns as two matrix products."""
        height, width, to_height, to_width = map(int, (*x.shape[2:], *size))
        down = self._matrix(name, height, to_height, x.dtype)
        across = self._matrix(name, width, to_width, x.dtype)
        return down @ x @ across.T

    def _matrix(self, name, n_in, n_out, dtype):
        # Found by a first run, so that the trace sees constants.
        key = name, n_in, n_out, dtype
        if key not in self.matrices:
            operation = getattr(FeatureExtractor, name)
            identity = torch.eye(n_in, dtype=dtype)[None, None]
            self.matrices[key] = operation(identity, (n_out, n_in))[0, 0]
        return self.matrices[key]


def _on_cpu(module):
    return None if module is None else copy.deepcopy(module).cpu()


def _example(detector):
    if detector._extractor is None:
        return torch.zeros(2, detector.n_features_in_, dtype=torch.float64)
    return torch.zeros(2, 3, *image_size(detector.image_size))


@torch.no_grad()
def _export_core(core, example, path, is_images):
    core(example)  # constants are made now, so that the trace sees them as such
    name = "pixels" if is_images else "features"
    outputs = ["score", "class_index", "grid"]
    with warnings.catch_warnings():
        # Constant sizes are meant; dynamo=True would need one more package and 20 times the time.
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
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            raise RuntimeError(
                f"torch cannot export this backbone to ONNX ({type(error).__name__}: {reason})"
            ) from error


def _properties(detector):
    """Write what a deployer needs beside the outputs as text."""
    properties = {
        "classes": json.dumps(detector.classes_.tolist()),
        "offset": repr(float(detector.offset_)),
    }
    if detector._extractor is not None:
        properties["image_size"] = json.dumps(image_size(detector.image_size))
    return properties
