"""Preprocessing and final resizing of ONNX files of images, in ONNX's text form.

Images are resized as by Pillow's antialiased bilinear filter on float pixels: along rows, then
along columns. What comes in between is rounded to float32, as by Pillow.
"""

import onnx

_FLOAT, _INT, _BOOL, _DOUBLE = 1, 6, 9, 11  # element types


def surround(core, size, value_range, opset):
    """Return the model from images to score, class index and map.

    `core` maps "pixels" (n, 3, height, width), where `size` is (height, width), to "score",
    "class_index" and "grid". The result maps "image", uint8 or (with a value range) float of shape
    (n, h, w, 3), any h and w, to "score" and "class_index" (n,) and "map" (n, h, w).
    """
    head = f'<ir_version: {core.ir_version}, opset_import: ["" : {opset}]>\n'
    before, behind = (
        onnx.parser.parse_model(head + text) for text in (_before(*size, value_range), _BEHIND)
    )
    model = onnx.compose.merge_models(before, core, io_map=[("unit", "pixels")])
    return onnx.compose.merge_models(
        model,
        behind,
        io_map=[("grid", "small"), ("image_shape", "sides")],
        outputs=["score", "class_index", "map"],
    )


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


def _before(height, width, value_range):
    if value_range is None:
        kind = "uint8"
        constants = "float white = {255.0}"
        values = f"""
            levels = Cast <to = {_FLOAT}> (planes)
            values = Div (levels, white)"""
    else:
        kind = "float"
        low, high = map(float, value_range)
        constants = f"double low = {{{low!r}}}, double span = {{{high - low!r}}}"
        values = f"""
            wide = Cast <to = {_DOUBLE}> (planes)
            raised = Sub (wide, low)
            stretched = Div (raised, span)
            clipped = Clip (stretched, d0, d1)
            values = Cast <to = {_FLOAT}> (clipped)"""
    return f"""
before ({kind}[n, h, w, 3] image) => (float[n, 3, {height}, {width}] unit, int64[4] image_shape)
<
    int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}},
    int64[1] a0 = {{0}}, int64[1] a1 = {{1}}, int64[1] a3 = {{3}},
    double d0 = {{0.0}}, double d1 = {{1.0}}, double half = {{0.5}},
    {constants},
    int64[2] size = {{{height}, {width}}},
    double to_height = {{{float(height)}}}, double to_width = {{{float(width)}}},
    double[{height}, 1] rows = {{{_middles(height)}}},
    double[1, {width}] columns = {{{_middles(width)}}}
>
{{
    image_shape = Shape (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    {values}
    sides = Slice (image_shape, a1, a3)
    equal = Equal (sides, size)
    equal_int = Cast <to = {_INT}> (equal)
    all_equal = ReduceMin <keepdims = 0> (equal_int)
    has_size = Cast <to = {_BOOL}> (all_equal)
    unit = If (has_size) <
        then_branch = keep () => (float[n, 3, {height}, {width}] kept)
        {{ kept = Identity (values) }},
        else_branch = resize () => (float[n, 3, {height}, {width}] resized)
        {{
            {_weights("across", "i2", "to_width", "columns", "a1", "a0")}
            {_weights("down", "i1", "to_height", "rows", "a0", "a1")}
            long = Cast <to = {_DOUBLE}> (values)
            across_sum = MatMul (long, across)
            across_short = Cast <to = {_FLOAT}> (across_sum)
            across_done = Cast <to = {_DOUBLE}> (across_short)
            down_sum = MatMul (down, across_done)
            resized = Cast <to = {_FLOAT}> (down_sum)
        }}
    >
}}
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
