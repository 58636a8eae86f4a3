"""Preprocessing and final resizing of ONNX files of images, in ONNX's text form.

Images are resized as by Pillow's antialiased bilinear filter on float pixels: along rows, then
along columns, a few at a time. Sums are in float32, where Pillow's are in float64.

Images that have the right size already are not resized: none of them are multiplied. A branch (If)
would say the same, but OpenVINO 2026.4 then gets the first image wrong.
"""

import numpy as np
import onnx

from ..scoring.frames import LEAST_WEIGHT

_FLOAT, _INT, _DOUBLE = 1, 7, 11  # element types
_BLOCK = 16  # output rows or columns of one product


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
    constants, white = [], 1.0
    if value_range is None and region is None:
        # The resizing divides by `white`: as floats, all pixels would take four times the memory.
        kind, white = "uint8", 255.0
        values = """
            read = Identity (planes)"""
    elif value_range is None:
        kind = "uint8"
        constants = ["float read_white = {255.0}"]
        values = f"""
            levels = Cast <to = {_FLOAT}> (planes)
            read = Div (levels, read_white)"""
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
        constants += _resizing_constants(height, width, white)
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


def _resizing_constants(height, width, white):
    constants = [
        f"float white = {{{white}}}",
        f"double down_white = {{{white}}}, double across_white = {{1.0}}",
        "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] a0 = {0}, int64[1] a1 = {1}",
        "int64[1] a2 = {2}, int64[1] a3_resize = {3}, int64[1] a4_resize = {4}",
        "int64[1] am1 = {-1}, int64[1] last_axis = {-1}, int64[4] four_ones = {1, 1, 1, 1}",
        "double half = {0.5}, double d2 = {2.0}, double d3 = {3.0}, double tiny = {1e-9}",
    ]
    for name, side in (("down", height), ("across", width)):
        n_blocks = -(-side // _BLOCK)
        n_padded = n_blocks * _BLOCK
        first = ", ".join(str(block * _BLOCK + 0.5) for block in range(n_blocks))
        constants += [
            f"double {name}_target = {{{float(side)}}}, int64[1] {name}_end = {{{side}}}",
            f"double[{n_blocks}, 1] {name}_first = {{{first}}}",
            f"double[{n_blocks}, {_BLOCK}, 1] {name}_outputs = {{{_middles(n_padded)}}}",
            f"int64[1] {name}_cut_first = {{{n_blocks}}}",
            f"int64[1] {name}_padded = {{{n_padded}}}, double {name}_block = {{{float(_BLOCK)}}}",
        ]
    return constants


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
    kept_read = Slice (values, a0, n_kept, a0)
    kept_levels = Cast <to = {_FLOAT}> (kept_read)
    kept_values = Div (kept_levels, white)
    kept = Reshape <allowzero = 1> (kept_values, kept_shape)
    others = Slice (values, n_kept, count, a0)
    {_banded("down", "others", "short", "i1")}
    short_turned = Transpose <perm = [0, 1, 3, 2]> (short)
    {_banded("across", "short_turned", "done_turned", "i2")}
    done = Transpose <perm = [0, 1, 3, 2]> (done_turned)
    unit = Concat <axis = 0> (kept, done)
"""


def _middles(n):
    return ", ".join(f"{i + 0.5}" for i in range(n))


def _banded(name, source, result, side):
    """Return the text that resizes the third axis, a few output rows at a time.

    Each block of output rows is a product of its weights, a triangle around each row's middle, and
    of the input rows that it needs: all of them would be a product with mostly zeros. Every image
    has the weights for itself, because onnxruntime before 1.24 multiplies none by nothing else.
    """
    return f"""
            {name}_n = Gather (image_shape, {side})
            {name}_long = Cast <to = {_DOUBLE}> ({name}_n)
            {name}_ratio = Div ({name}_long, {name}_target)
            {name}_support = Max ({name}_ratio, d1)
            {name}_inverse = Div (d1, {name}_support)
            {name}_span = Mul ({name}_ratio, {name}_block)
            {name}_twice = Mul ({name}_support, d2)
            {name}_reach = Add ({name}_span, {name}_twice)
            {name}_reach_more = Add ({name}_reach, d3)
            {name}_wanted = Min ({name}_reach_more, {name}_long)
            {name}_taps_floor = Floor ({name}_wanted)
            {name}_room = Sub ({name}_long, {name}_taps_floor)
            {name}_taps = Cast <to = {_INT}> ({name}_taps_floor)
            {name}_begin_middle = Mul ({name}_first, {name}_ratio)
            {name}_begin_low = Sub ({name}_begin_middle, {name}_support)
            {name}_begin_down = Floor ({name}_begin_low)
            {name}_begin_least = Max ({name}_begin_down, d0)
            {name}_begin_double = Min ({name}_begin_least, {name}_room)
            {name}_begin = Cast <to = {_INT}> ({name}_begin_double)
            {name}_range = Range (i0, {name}_taps, i1)
            {name}_places = Add ({name}_begin, {name}_range)
            {name}_flat = Reshape ({name}_places, am1)
            {name}_taken = Gather <axis = 2> ({source}, {name}_flat)
            {name}_rows = Cast <to = {_FLOAT}> ({name}_taken)
            {name}_shape = Shape ({name}_rows)
            {name}_leading = Slice ({name}_shape, a0, a2)
            {name}_width = Slice ({name}_shape, a3_resize, a4_resize)
            {name}_tap_count = Unsqueeze ({name}_taps, a0)
            {name}_blocks_shape = Concat <axis = 0>
                ({name}_leading, {name}_cut_first, {name}_tap_count, {name}_width)
            {name}_blocks = Reshape ({name}_rows, {name}_blocks_shape)
            {name}_middles = Mul ({name}_outputs, {name}_ratio)
            {name}_places_long = Cast <to = {_DOUBLE}> ({name}_places)
            {name}_places_apart = Unsqueeze ({name}_places_long, a1)
            {name}_offset = Sub ({name}_places_apart, {name}_middles)
            {name}_centred = Add ({name}_offset, half)
            {name}_relative = Mul ({name}_centred, {name}_inverse)
            {name}_distance = Abs ({name}_relative)
            {name}_height = Sub (d1, {name}_distance)
            {name}_high = Max ({name}_height, d0)
            {name}_sum = ReduceSum <keepdims = 1> ({name}_high, last_axis)
            {name}_total = Max ({name}_sum, tiny)
            {name}_whole = Mul ({name}_total, {name}_white)
            {name}_share = Div ({name}_high, {name}_whole)
            {name}_weights = Cast <to = {_FLOAT}> ({name}_share)
            {name}_count = Slice ({name}_shape, a0, a1)
            {name}_each = Concat <axis = 0> ({name}_count, four_ones)
            {name}_of_each = Expand ({name}_weights, {name}_each)
            {name}_product = MatMul ({name}_of_each, {name}_blocks)
            {name}_joined_shape = Concat <axis = 0>
                ({name}_leading, {name}_padded, {name}_width)
            {name}_joined = Reshape ({name}_product, {name}_joined_shape)
            {result} = Slice ({name}_joined, a0, {name}_end, a2)
    """
