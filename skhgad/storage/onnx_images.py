"""Preprocessing and final resizing of ONNX files of images, in ONNX's text form.

Images are resized as by Pillow's antialiased bilinear filter on float pixels: along rows, then
along columns, by matrices of weights. What comes in between is rounded to float32, as by Pillow.

Images that have the right size already are not resized: the matrices are multiplied by none of
them. A branch (If) would say the same, but OpenVINO 2026.4 then gets the first image wrong.
"""

import numpy as np
import onnx

from ..scoring.frames import LEAST_WEIGHT

_FLOAT, _INT, _DOUBLE = 1, 7, 11  # element types


def surround(core, size, value_range, opset, *, n_channels=3, region=None):
    """Return the model from images to score, class index and map.

    `core` maps "pixels" (n, c, height, width), where `size` is (height, width), to "score",
    "class_index" and "grid". The result maps "image", uint8 or (with a value range) float of shape
    (n, h, w, c), any h and w, to "score" and "class_index" (n,) and "map" (n, h, w).

    `region` None, or (mask, colour, grid): bool (h, w) of the only size that images then have; what
    replaces pixels outside, float32 (c,); and bool (grid height, grid width), what of the grid is
    inside.
    """
    head = f'<ir_version: {core.ir_version}, opset_import: ["" : {opset}]>\n'
    before, behind = (
        onnx.parser.parse_model(head + text)
        for text in (
            _before(*size, value_range, n_channels, region),
            _BEHIND if region is None else _behind_region(region),
        )
    )
    if region is not None:
        _add_constant(before, "roi", region[0][None, None])
        _add_constant(behind, "behind_grid", region[2][None, None].astype(np.float32))
    model = onnx.compose.merge_models(before, core, io_map=[("unit", "pixels")])
    passed = [("grid", "small"), ("image_shape", "sides")]
    return onnx.compose.merge_models(
        model,
        behind,
        io_map=passed if region is None else [*passed, ("roi_passed", "behind_roi")],
        outputs=["score", "class_index", "map"],
    )


def _add_constant(model, name, values):
    """Give an input of a model a constant value."""
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
    kept = [entry for entry in graph.input if entry.name != name]
    del graph.input[:]
    graph.input.extend(kept)


_BEHIND = """
behind (float[n, gh, gw] small, int64[4] sides) => (float[n, h, w] map)
<int64[1] behind_0 = {0}, int64[1] behind_1 = {1}, int64[1] behind_3 = {3}>
{
    behind_planes = Unsqueeze (small, behind_1)
    behind_count = Slice (sides, behind_0, behind_1)
    behind_size = Slice (sides, behind_1, behind_3)
    behind_sizes = Concat <axis = 0> (behind_count, behind_1, behind_size)
    behind_large = Resize <mode = "linear"> (behind_planes, , , behind_sizes)
    map = Squeeze (behind_large, behind_1)
}
"""


def _behind_region(region):
    """Return the text of what `scoring.frames.full_maps` does."""
    (height, width), (grid_height, grid_width) = region[0].shape, region[2].shape
    return f"""
behind (
    float[n, gh, gw] small, int64[4] sides,
    float[1, 1, {grid_height}, {grid_width}] behind_grid, bool[1, 1, {height}, {width}] behind_roi
) => (float[n, {height}, {width}] map)
<
    int64[1] behind_0 = {{0}}, int64[1] behind_1 = {{1}}, int64[1] behind_3 = {{3}},
    int64[2] behind_axes = {{2, 3}},
    float behind_zero = {{0.0}}, float behind_huge = {{3e38}},
    float behind_least = {{{LEAST_WEIGHT}}}
>
{{
    behind_planes = Unsqueeze (small, behind_1)
    behind_count = Slice (sides, behind_0, behind_1)
    behind_size = Slice (sides, behind_1, behind_3)
    behind_sizes = Concat <axis = 0> (behind_count, behind_1, behind_size)
    behind_one = Concat <axis = 0> (behind_1, behind_1, behind_size)
    behind_inside = Greater (behind_grid, behind_zero)
    behind_kept = Where (behind_inside, behind_planes, behind_zero)
    behind_total = Resize <mode = "linear"> (behind_kept, , , behind_sizes)
    behind_weight = Resize <mode = "linear"> (behind_grid, , , behind_one)
    behind_safe = Max (behind_weight, behind_least)
    behind_mean = Div (behind_total, behind_safe)
    behind_others = Where (behind_inside, behind_planes, behind_huge)
    behind_lowest = ReduceMin (behind_others, behind_axes)
    behind_has = Greater (behind_weight, behind_least)
    behind_large = Where (behind_has, behind_mean, behind_lowest)
    behind_within = Where (behind_roi, behind_large, behind_huge)
    behind_floor = ReduceMin (behind_within, behind_axes)
    behind_outside = Min (behind_floor, behind_zero)
    behind_done = Where (behind_roi, behind_large, behind_outside)
    map = Squeeze (behind_done, behind_1)
}}
"""


def _before(height, width, value_range, n_channels, region):
    if value_range is None:
        kind = "uint8"
        constants = ["float white = {255.0}"]
        values = f"""
            levels = Cast <to = {_FLOAT}> (planes)
            read = Div (levels, white)"""
    else:
        kind = "float"
        low, high = map(float, value_range)
        constants = [f"double low = {{{low!r}}}, double span = {{{high - low!r}}}"]
        constants += ["double d0 = {0.0}, double d1 = {1.0}"]
        values = f"""
            wide = Cast <to = {_DOUBLE}> (planes)
            raised = Sub (wide, low)
            stretched = Div (raised, span)
            clipped = Clip (stretched, d0, d1)
            read = Cast <to = {_FLOAT}> (clipped)"""
    sides, roi, passed = "h, w", "", ""
    if region is None:
        values += """
            values = Identity (read)"""
    else:
        mask, colour, _ = region
        sides = f"{mask.shape[0]}, {mask.shape[1]}"
        roi = f", bool[1, 1, {sides}] roi"
        passed = f", bool[1, 1, {sides}] roi_passed"
        listed = ", ".join(repr(float(value)) for value in colour)
        constants.append(f"float[1, {n_channels}, 1, 1] colour = {{{listed}}}")
        values += """
            values = Where (roi, read, colour)
            roi_passed = Identity (roi)"""
    c = n_channels
    if region is not None and mask.shape == (height, width):  # of all images
        unit = "unit = Identity (values)"
    else:
        unit = _resized()
        constants += _resizing_constants(height, width)
        constants.append(f"int64[1] a3 = {{3}}, int64[2] size = {{{height}, {width}}}")
        constants.append(f"int64[1] plane = {{{c}}}")
        if value_range is None:
            constants.append("double d0 = {0.0}, double d1 = {1.0}")
    constants = ",\n    ".join(constants)
    return f"""
before ({kind}[n, {sides}, {c}] image{roi})
    => (float[n, {c}, {height}, {width}] unit, int64[4] image_shape{passed})
<
    {constants}
>
{{
    image_shape = Shape (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    {values}
    {unit}
}}
"""


def _resizing_constants(height, width):
    return [
        "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] a0 = {0}, int64[1] a1 = {1}",
        "double half = {0.5}",
        f"double to_height = {{{float(height)}}}, double to_width = {{{float(width)}}}",
        f"double[{height}, 1] rows = {{{_middles(height)}}}",
        f"double[1, {width}] columns = {{{_middles(width)}}}",
    ]


def _resized():
    """Return the text that resizes all images or none: "kept" or "done" holds none of them."""
    return f"""
    count = Slice (image_shape, a0, a1)
    sides = Slice (image_shape, a1, a3)
    equal = Equal (sides, size)
    equal_int = Cast <to = {_INT}> (equal)
    has_size = ReduceMin <keepdims = 1> (equal_int, a0)
    n_kept = Mul (count, has_size)
    kept_shape = Concat <axis = 0> (n_kept, plane, size)
    kept_values = Slice (values, a0, n_kept, a0)
    kept = Reshape <allowzero = 1> (kept_values, kept_shape)
    others = Slice (values, n_kept, count, a0)
    {_weights("across", "i2", "to_width", "columns", "a1", "a0")}
    {_weights("down", "i1", "to_height", "rows", "a0", "a1")}
    long = Cast <to = {_DOUBLE}> (others)
    across_sum = MatMul (long, across)
    across_short = Cast <to = {_FLOAT}> (across_sum)
    across_done = Cast <to = {_DOUBLE}> (across_short)
    down_sum = MatMul (down, across_done)
    done = Cast <to = {_FLOAT}> (down_sum)
    unit = Concat <axis = 0> (kept, done)
"""


def _middles(n):
    return ", ".join(f"{i + 0.5}" for i in range(n))


def _weights(name, side, target, middles, tap_axis, sum_axis):
    """Return the text for weights: a triangle around each target pixel's middle."""
    return f"""
            {name}_n = Gather (image_shape, {side})
            {name}_long = Cast <to = {_DOUBLE}> ({name}_n)
            {name}_ratio = Div ({name}_long, {target})
            {name}_support = Max ({name}_ratio, d1)
            {name}_inverse = Div (d1, {name}_support)
            {name}_middles = Mul ({middles}, {name}_ratio)
            {name}_range = Range (i0, {name}_n, i1)
            {name}_range_long = Cast <to = {_DOUBLE}> ({name}_range)
            {name}_taps = Unsqueeze ({name}_range_long, {tap_axis})
            {name}_offset = Sub ({name}_taps, {name}_middles)
            {name}_centred = Add ({name}_offset, half)
            {name}_relative = Mul ({name}_centred, {name}_inverse)
            {name}_distance = Abs ({name}_relative)
            {name}_height = Sub (d1, {name}_distance)
            {name}_high = Max ({name}_height, d0)
            {name}_total = ReduceSum <keepdims = 1> ({name}_high, {sum_axis})
            {name} = Div ({name}_high, {name}_total)
    """
