"""Reading images: pixel rules, errors that name the image, and parallel batches."""

import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

import skhgad
from skhgad.images import ImageSource, decoding, iter_batches

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (13, 17), dtype=np.uint8)


def read_one(item, **kwargs):
    return ImageSource([item], **kwargs).read(0)


def batches(items, *, size=(8, 6), batch_size=4, **kwargs):
    source = items if hasattr(items, "read") else ImageSource(items)
    return list(iter_batches(source, size=size, batch_size=batch_size, **kwargs))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, pixels, *, color_type, extra=b""):
    """Write a 16-bit PNG by hand: Pillow cannot write the colour ones."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    return path


def save(path, image, **kwargs):
    image.save(path, **kwargs)
    return path


# ---------------------------------------------------------------- pixel values


@pytest.mark.parametrize("size", [(13, 17), (5, 9), (29, 20), (1, 1)])
def test_path_pil_uint8_and_float_agree(tmp_path, size):
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE))
    items = [path, str(path), Image.open(path), PICTURE, PICTURE / 255, PICTURE.astype("f4") / 255]
    (batch,) = batches(items, size=size, batch_size=8)
    reference = batch.pixels[0]
    for other in batch.pixels[1:]:
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-6)
    (deep,) = batches(ImageSource([np.uint16(257) * PICTURE], value_range=(0, 65535)), size=size)
    np.testing.assert_allclose(deep.pixels[0], reference, rtol=0, atol=1e-6)
    if size == PICTURE.shape[:2]:
        expected = (PICTURE.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)
        for pixels in batch.pixels:
            np.testing.assert_array_equal(pixels, expected)


def test_resizing_is_antialiased_bilinear():
    stripes = np.zeros((4, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    for image in (stripes, stripes / 255):
        pixels = batches([image], size=(4, 8))[0].pixels
        # Point sampling would return 0 or 1; the interior of the filtered stripes is flat grey.
        np.testing.assert_allclose(pixels[..., 1:-1], 0.5, atol=0.03)
    ramp = np.repeat(np.linspace(0, 1, 8)[None], 8, axis=0)
    halved = batches([ramp], size=(8, 4))[0].pixels[0, 0, 0]
    # Pillow's triangle filter of support 2 (scale 2), weights normalised at the borders.
    centers, taps = (np.arange(4) + 0.5) * 2, np.arange(8) + 0.5
    weights = np.maximum(0, 1 - np.abs(taps - centers[:, None]) / 2)
    expected = weights @ np.linspace(0, 1, 8) / weights.sum(axis=1)
    np.testing.assert_allclose(halved, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 30), (40, 9), (200, 15)])
def test_resizing_is_pillows_without_rounding_to_8_bits(size):
    array = RNG.integers(0, 256, (150, 20, 3), dtype=np.uint8)
    found = batches([array], size=size)[0].pixels[0]
    for channel, plane in enumerate(found):
        image = Image.fromarray(array[..., channel]).convert("F")
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(plane, expected, rtol=0, atol=1e-6)
    assert not np.allclose(found * 255, np.rint(found * 255), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4_000_000, 1), (1, 4_000_000)])
def test_thin_pictures_take_little_memory(tmp_path, shape):
    """8 KB on disk; as wide as `size` and as long as the file, it would take 4 GB."""
    pytest.importorskip("resource")
    path = save(tmp_path / "thin.png", Image.new("L", shape[::-1], color=51))
    code = (
        "import resource, sys\n"
        "from skhgad.images import ImageSource, iter_batches\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "(batch,) = iter_batches(ImageSource(sys.argv[1:]), size=(256, 256), batch_size=1)\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "print((peak() - before) * unit, batch.pixels.min(), batch.pixels.max())\n"
    )
    place = str(Path(skhgad.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place}, check=True,
    )  # fmt: skip
    taken, low, high = map(float, done.stdout.split())
    assert taken < 300e6
    assert low == pytest.approx(0.2, abs=1e-6) and high == pytest.approx(0.2, abs=1e-6)


def test_a_side_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "LONGEST_SIDE", 16)
    path = save(tmp_path / "long.png", Image.fromarray(PICTURE))
    for item, name in ((path, r"X\[0\] \(.*long.png\)"), (PICTURE, r"X\[0\]")):
        with pytest.raises(ValueError, match=name + r" is too long: 17 x 13 pixels.*16 a side"):
            read_one(item)
    assert read_one(PICTURE[:, :16]).shape == (13, 16, 3)


def test_float_resizing_stays_in_range():
    image = RNG.integers(0, 2, (40, 40)).astype(np.float64)
    pixels = batches([image], size=(37, 90))[0].pixels
    assert pixels.min() >= 0 and pixels.max() <= 1
    np.testing.assert_array_equal(batches([np.ones((40, 40))], size=(37, 9))[0].pixels.max(), 1)


@pytest.mark.parametrize("array", [GREY, GREY[..., None], GREY / 255, np.float16(GREY / 255)])
def test_grey_arrays_become_rgb(array):
    pixels = read_one(array)
    assert pixels.shape == (13, 17, 3)
    expected = GREY if array.dtype == np.uint8 else np.squeeze(array).astype(np.float32)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_arrays_of_images():
    stack = RNG.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    source = ImageSource(stack)
    assert len(source) == 3
    np.testing.assert_array_equal(source.read(2), stack[2])
    np.testing.assert_array_equal(ImageSource(stack[..., :1]).read(1)[..., 2], stack[1, :, :, 0])
    np.testing.assert_array_equal(ImageSource(stack[..., 0]).read(1)[..., 2], stack[1, :, :, 0])


def test_extreme_shapes():
    wide = np.linspace(0, 1, 5000)[None]
    (batch,) = batches([np.full((1, 1), 7, np.uint8), wide, wide.T], size=(3, 4))
    assert batch.sizes == [(1, 1), (1, 5000), (5000, 1)]
    np.testing.assert_allclose(batch.pixels[0], 7 / 255, rtol=1e-6)
    np.testing.assert_allclose(batch.pixels[1, 0, 0], [0.125, 0.375, 0.625, 0.875], atol=0.05)


def test_input_is_never_modified():
    floats, wide, picture = PICTURE / 255, PICTURE.astype(np.uint16), PICTURE.copy()
    copies = [x.copy() for x in (floats, wide, picture)]
    source = ImageSource([floats, wide, picture], value_range=(0, 255))
    for i in range(3):
        source.read(i)[...] = 0
    for array, copy in zip((floats, wide, picture), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    stack = PICTURE[None].copy()
    ImageSource(stack).read(0)[...] = 0
    np.testing.assert_array_equal(stack[0], PICTURE)


# ---------------------------------------------------------------- value_range


def test_uint16_needs_value_range(tmp_path):
    deep = RNG.integers(0, 4096, (6, 7)).astype(np.uint16)
    deep[0, :2] = 0, 4095
    path = save(tmp_path / "deep.png", Image.fromarray(deep))
    tiff = save(tmp_path / "deep.tif", Image.fromarray(deep.astype(">u2")))
    pil = Image.fromarray(deep.astype(np.int32))
    expected = np.clip((deep - 100.0) / 3900.0, 0, 1).astype(np.float32)
    for item in (
        deep,
        path,
        tiff,
        pil,
        Image.open(path),
        deep.astype(np.int64),
        deep.astype(">u2"),
    ):
        pixels = read_one(item, value_range=(100, 4000))
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels[..., 1], expected)
        with pytest.raises(ValueError, match=r"X\[0\].*value_range=\(low, high\)"):
            read_one(item)
    assert (expected == 0).any() and (expected == 1).any()  # both ends were clipped
    with pytest.raises(ValueError, match="uint16.*value_range"):
        ImageSource(np.zeros((2, 4, 5), np.uint16))


def test_value_range_and_8_bit_and_floats(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE))
    for item in (path, PICTURE):
        np.testing.assert_array_equal(read_one(item, value_range=(0, 4095)), PICTURE)
    floats = GREY.astype(np.float64) * 10
    pixels = read_one(floats, value_range=(0, 2550))
    np.testing.assert_allclose(pixels[..., 0], GREY / 255, rtol=1e-6)


def test_float_files_need_value_range(tmp_path):
    image = Image.fromarray(GREY.astype(np.float32) / 255)
    path = save(tmp_path / "float.tif", image)
    with pytest.raises(ValueError, match=r"X\[0\] .*float.tif.*32-bit float.*value_range"):
        read_one(path)
    np.testing.assert_allclose(read_one(path, value_range=(0, 1))[..., 2], GREY / 255, rtol=1e-6)


def test_32_bit_integers_keep_their_precision():
    big = np.array([[2**31 - 3, 2**31 - 1]])
    pixels = read_one(big, value_range=(2**31 - 5, 2**31 - 1))
    np.testing.assert_array_equal(pixels[0, :, 0], [0.5, 1.0])


@pytest.mark.parametrize(
    ("value_range", "error"),
    [
        ((1, 1), ValueError),
        ((5, 2), ValueError),
        ((0, np.inf), ValueError),
        ((0, np.nan), ValueError),
    ]
    + [(255, TypeError), ("01", TypeError), ((0, 1, 2), TypeError), ((None, 1), TypeError)],
)
def test_bad_value_range(value_range, error):
    with pytest.raises(error, match="value_range must be"):
        ImageSource([GREY], value_range=value_range)


def test_16_bit_colour_png_is_refused(tmp_path):
    deep = RNG.integers(0, 65536, (5, 4, 3))
    path = write_png(tmp_path / "rgb16.png", deep, color_type=2)
    for item in (path, Image.open(path)):
        for value_range in (None, (0, 65535)):
            with pytest.raises(ValueError, match=r"X\[0\] \(.*rgb16.png\).*8 bits.*uint16 array"):
                read_one(item, value_range=value_range)
    path = write_png(tmp_path / "la16.png", deep[..., :2], color_type=4)
    with pytest.raises(ValueError, match="more than 8 bits"):
        read_one(path)
    path = write_png(tmp_path / "l16.png", deep[..., 0], color_type=0)
    expected = (deep[..., 0] / 65535).astype(np.float32)
    np.testing.assert_array_equal(read_one(path, value_range=(0, 65535))[..., 0], expected)


def write_rgb16_tiff(path, pixels, *, planar):
    """Write an uncompressed little-endian 16-bit RGB TIFF by hand."""
    height, width = pixels.shape[:2]
    planes = np.moveaxis(pixels, 2, 0) if planar else pixels[None]
    data = planes.astype("<u2").tobytes()
    end, n_strips = 8 + len(data), len(planes)
    strip = len(data) // n_strips
    arrays = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", 8, 8 + strip, 8 + 2 * strip)
    arrays += struct.pack("<3I", strip, strip, strip)
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, end),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
    ]
    tags += [(273, 4, n_strips, end + 6 if planar else 8), (277, 3, 1, 3), (278, 3, 1, height)]
    tags += [(279, 4, n_strips, end + 18 if planar else strip), (284, 3, 1, 2 if planar else 1)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    head = struct.pack("<2sHI", b"II", 42, end + len(arrays))
    path.write_bytes(head + data + arrays + directory + b"\0" * 4)
    return path


def test_other_files_that_pillow_reduces_are_refused(tmp_path):
    deep = RNG.integers(0, 65536, (5, 4, 3))
    tiff = write_rgb16_tiff(tmp_path / "rgb16.tif", deep, planar=False)
    assert np.abs(np.asarray(Image.open(tiff)) - deep // 256).max() == 0  # a true file, reduced
    planes = write_rgb16_tiff(tmp_path / "planes.tif", deep, planar=True)
    assert Image.open(planes).mode == "RGB"
    ppm = tmp_path / "rgb16.ppm"
    ppm.write_bytes(b"P6 4 5 65535\n" + deep.astype(">u2").tobytes())
    scaled = tmp_path / "scaled.pgm"  # Pillow stretches 0..1023 to 0..65535
    scaled.write_bytes(b"P5 4 5 1023\n" + (deep[..., 0] % 1024).astype(">u2").tobytes())
    sgi = save(tmp_path / "grey16.sgi", Image.fromarray(GREY), bpc=2)
    for path in (tiff, planes, ppm, scaled, sgi):
        with pytest.raises(ValueError, match="more than 8 bits"):
            read_one(path, value_range=(0, 65535))
    plain = tmp_path / "deep.pgm"
    plain.write_bytes(b"P5 4 5 65535\n" + deep[..., 0].astype(">u2").tobytes())
    expected = (deep[..., 0] / 65535).astype(np.float32)
    np.testing.assert_array_equal(read_one(plain, value_range=(0, 65535))[..., 0], expected)


# ---------------------------------------------------------------- colour modes of files


def test_palette_bilevel_and_grey_files(tmp_path):
    palette = Image.fromarray(PICTURE).quantize(16)
    path = save(tmp_path / "p.png", palette)
    np.testing.assert_array_equal(read_one(path), np.asarray(palette.convert("RGB")))
    bits = GREY > 127
    path = save(tmp_path / "1.png", Image.fromarray(bits))
    np.testing.assert_array_equal(read_one(path), np.repeat(bits[..., None] * 255, 3, axis=2))
    path = save(tmp_path / "l.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(read_one(path), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_cmyk_and_ycbcr_files_become_rgb(tmp_path, mode):
    flat = Image.new("RGB", (16, 16), (200, 60, 20)).convert(mode)
    path = save(tmp_path / "a.jpg", flat, quality=100)
    assert np.abs(read_one(path).astype(int) - [200, 60, 20]).max() <= 3
    assert np.abs(read_one(flat).astype(int) - [200, 60, 20]).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_opaque_alpha_is_dropped_and_real_alpha_refused(tmp_path, mode):
    opaque = Image.fromarray(PICTURE).convert("L" if mode != "RGBA" else "RGB").convert(mode)
    expected = np.asarray(opaque.convert("RGB"))
    np.testing.assert_array_equal(read_one(opaque), expected)
    see_through = opaque.copy()
    alpha = Image.new("L", opaque.size, 255)
    alpha.putpixel((3, 2), 254)
    see_through.putalpha(alpha)
    with pytest.raises(ValueError, match=r"X\[0\] is partly transparent"):
        read_one(see_through)
    if mode != "PA":
        path = save(tmp_path / "opaque.png", opaque)
        np.testing.assert_array_equal(read_one(path), expected)
        path = save(tmp_path / "glass.png", see_through)
        with pytest.raises(ValueError, match=r"X\[0\] \(.*glass.png\) is partly transparent"):
            read_one(path)


@pytest.mark.parametrize("transparency", [5, bytes([255] * 5 + [128])])
def test_palette_transparency(tmp_path, transparency):
    indexed = Image.fromarray(GREY % 8).convert("P")
    palette = RNG.integers(0, 256, 24, dtype=np.uint8)
    indexed.putpalette(palette.tolist())
    used = save(tmp_path / "used.png", indexed, transparency=transparency)
    with pytest.raises(ValueError, match="partly transparent"):
        read_one(used)
    without_5 = np.where(GREY % 8 == 5, 4, GREY % 8)
    indexed = Image.fromarray(without_5.astype(np.uint8)).convert("P")
    indexed.putpalette(palette.tolist())
    unused = save(tmp_path / "unused.png", indexed, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_one(unused), palette.reshape(8, 3)[without_5])


def test_transparent_grey_level_of_8_and_16_bits(tmp_path):
    grey = np.array([[10, 20], [30, 40]], np.uint8)
    for level, is_used in ((30, True), (31, False)):
        eight = save(tmp_path / "l.png", Image.fromarray(grey), transparency=level)
        extra = png_chunk(b"tRNS", struct.pack(">H", level))
        deep = write_png(tmp_path / "l16.png", grey, color_type=0, extra=extra)
        for path in (eight, deep):
            if is_used:
                with pytest.raises(ValueError, match="partly transparent"):
                    read_one(path, value_range=(0, 255))
            else:
                pixels = read_one(path, value_range=(0, 255))
                scale = 1 if pixels.dtype == np.uint8 else 255
                np.testing.assert_allclose(pixels[..., 0] * scale, grey, rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE), exif=exif)
    turned = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.swapaxes(0, 1),
        6: np.rot90(PICTURE, -1),
        7: PICTURE[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(PICTURE),
    }[orientation]
    for item in (path, Image.open(path)):
        np.testing.assert_array_equal(read_one(item), turned)
    assert batches([path])[0].sizes == [turned.shape[:2]]
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16))
    path = save(tmp_path / "deep.png", deep, exif=exif)
    pixels = read_one(path, value_range=(0, 255))
    np.testing.assert_allclose(pixels[..., 0] * 255, turned[..., 0], atol=1e-4)


# ---------------------------------------------------------------- refused files


def test_animated_files_name_their_frame_count(tmp_path):
    frames = [Image.new("P", (4, 4), color=k) for k in range(3)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    rgb = [frame.convert("RGB") for frame in frames]
    gif = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    apng = save(tmp_path / "a.png", rgb[0], save_all=True, append_images=rgb[1:])
    tiff = save(tmp_path / "a.tif", rgb[0], save_all=True, append_images=rgb[1:])
    for item in (gif, apng, tiff, Image.open(gif)):
        with pytest.raises(ValueError, match=r"X\[0\] \(.*a\.\w+\) has 3 frames"):
            read_one(item)
    still = save(tmp_path / "still.gif", frames[1])
    np.testing.assert_array_equal(read_one(still)[0, 0], [255, 0, 0])


def test_the_first_picture_of_a_phone_s_file_is_the_picture(tmp_path):
    picture, preview = Image.fromarray(PICTURE), Image.new("RGB", (4, 4))
    alone = save(tmp_path / "alone.jpg", picture)
    both = tmp_path / "both.jpg"
    picture.save(both, format="MPO", save_all=True, append_images=[preview])
    np.testing.assert_array_equal(read_one(both), read_one(alone))


def test_broken_files_are_named(tmp_path):
    whole = save(tmp_path / "whole.png", Image.fromarray(PICTURE)).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    header_only = tmp_path / "header.png"
    header_only.write_bytes(whole[:20])
    jpeg = save(tmp_path / "whole.jpg", Image.fromarray(PICTURE)).read_bytes()
    cut_jpeg = tmp_path / "cut.jpg"
    cut_jpeg.write_bytes(jpeg[:-100])
    text = tmp_path / "text.png"
    text.write_text("not an image")
    for path in (cut, header_only, cut_jpeg, text):
        source = ImageSource([PICTURE, path])
        with pytest.raises(ValueError, match=rf"X\[1\] \(.*{path.name}\) cannot be read") as caught:
            source.read(1)
        assert type(caught.value) is ValueError
        assert "Replace it or leave it out" in str(caught.value)


def test_empty_file_folder_and_missing_path(tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    good = save(tmp_path / "good.png", Image.fromarray(PICTURE))
    with pytest.raises(ValueError, match=r"X\[1\] \(.*empty.png\) is an empty file \(0 bytes\)"):
        ImageSource([good, empty])
    with pytest.raises(ValueError, match=r"X\[1\] .*is a folder.*load_folder"):
        ImageSource([good, tmp_path])
    absent = [good, tmp_path / "nope.png", str(good / "below_a_file.png")]
    with pytest.raises(
        FileNotFoundError, match=r"X\[1\] \(.*nope.png\).*2 of 3 images are missing"
    ):
        ImageSource(absent)
    with pytest.raises(ValueError, match=r"X\[0\] .*not accessible.*null"):
        ImageSource(["a\0b.png"])
    source = ImageSource([good])
    good.unlink()
    with pytest.raises(FileNotFoundError, match=r"X\[0\] \(.*good.png\) no longer exists"):
        source.read(0)


def test_unreadable_file(tmp_path, monkeypatch):
    path = save(tmp_path / "secret.png", Image.fromarray(PICTURE))
    source = ImageSource([path])

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("skhgad.images.decoding.Image.open", refuse)
    with pytest.raises(ValueError, match=r"X\[0\] \(.*secret.png\).*Permission denied"):
        source.read(0)


def test_closed_pil_image(tmp_path):
    image = Image.open(save(tmp_path / "a.png", Image.fromarray(PICTURE)))
    image.close()
    with pytest.raises(ValueError, match=r"X\[0\].*cannot be read"):
        read_one(image)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [PICTURE[..., 0].size - 1, 50])
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "bomb.png", Image.fromarray(PICTURE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"X\[0\] \(.*bomb.png\) is too large.*MAX_IMAGE_PIXELS"):
        read_one(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(read_one(path), PICTURE)


def test_decompression_bomb_when_warnings_are_errors(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", Image.fromarray(PICTURE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"X\[0\] \(.*bomb.png\) is too large"):
            read_one(path)


def test_a_real_bomb_is_refused_before_it_goes_off(tmp_path):
    resource = pytest.importorskip("resource")
    side = 20_000  # 400 million black pixels in 50 kB
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side)))
        + png_chunk(b"IEND", b"")
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"X\[0\] \(.*bomb.png\) is too large"):
        read_one(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_drawings_that_another_program_would_run_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "drawing.png"  # Pillow goes by the content
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
    )
    with Image.open(path) as image:
        assert image.format == "EPS"
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("subprocess.check_call", None)
    with pytest.raises(ValueError, match=r"X\[0\] \(.*drawing.png\) is an EPS drawing.*PNG"):
        read_one(path)


# ---------------------------------------------------------------- refused arrays


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((2, 3, 8, 9)), ValueError, r"channels.*first; pass X\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 1, 8, 9)), ValueError, r"X\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 9, 4), np.uint8), ValueError, "alpha"),
        (np.zeros((2, 8, 9, 2)), ValueError, "2 channels are neither grey nor RGB"),
        (np.zeros((8, 9, 3)), ValueError, r"without its batch axis; pass X\[None\]"),
        (np.zeros((8, 9, 4)), ValueError, r"X\[None\]"),
        (np.zeros((0, 9, 9)), ValueError, r"shape \(0, 9, 9\)"),
        (np.zeros((2, 0, 9, 3)), ValueError, "no axis empty"),
        (np.zeros((2, 2, 2, 2, 3)), ValueError, r"\(2, 2, 2, 2, 3\); expected"),
        (np.zeros((2, 8, 9), bool), TypeError, r"boolean; pass X\.astype\(np\.uint8\) \* 255"),
        (np.zeros((2, 8, 9), complex), TypeError, "complex128"),
        (np.full((2, 8, 9), None), TypeError, "object"),
        (np.full((2, 8, 9), "a"), TypeError, "<U1"),
        (np.ma.masked_less(np.zeros((2, 8, 9)), 1), ValueError, r"masked pixels.*filled"),
        ([], ValueError, "X is empty"),
        (np.array([], dtype=object), ValueError, "X is empty"),
        ([GREY, np.zeros((3, 8, 9))], ValueError, r"X\[1\] has.*X\[1\]\.transpose\(1, 2, 0\)"),
        ([GREY, np.zeros((8, 9, 4))], ValueError, r"X\[1\].*alpha.*X\[1\]\[\.\.\., :3\]"),
        ([GREY, np.zeros(4)], ValueError, r"X\[1\] has shape \(4,\)"),
        ([GREY, None], TypeError, r"X\[1\] is None \(NoneType\), not an image"),
        ([GREY, float("nan")], TypeError, r"X\[1\] is nan"),
        ([GREY, b"a.png"], TypeError, r"X\[1\] is b'a.png' \(bytes\)"),
        ([GREY, np.bool_(True)], TypeError, r"X\[1\]"),
        ([GREY, Image.new("RGB", (0, 4))], ValueError, r"X\[1\] is an empty PIL image, 0 x 4"),
    ],
)
def test_refused_at_construction(array, error, message):
    with pytest.raises(error, match=message):
        ImageSource(array)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"X\[1\] holds nan at \(2, 3\), one of 1 NaN or infinite"),
        (-np.inf, r"X\[1\] holds -inf at \(2, 3\)"),
        (1.5, r"X\[1\] has floats from 0 to 1.5; without value_range"),
        (-0.25, r"X\[1\] has floats from -0.25 to 0;"),
    ],
)
def test_bad_floats_name_their_image(value, message):
    stack = np.zeros((2, 4, 5))
    stack[1, 2, 3] = value
    for X in (stack, list(stack)):
        source = ImageSource(X)
        np.testing.assert_array_equal(source.read(0), 0)
        with pytest.raises(ValueError, match=message):
            source.read(1)
    if not np.isfinite(value):  # clipping must not hide it
        with pytest.raises(ValueError, match=message):
            ImageSource(stack, value_range=(0, 1)).read(1)


# ---------------------------------------------------------------- sources


def test_mixed_kinds_and_names(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE))
    items = (path, Image.fromarray(PICTURE), PICTURE, GREY, str(path))
    source = ImageSource(items)
    assert [source.name(i) for i in range(3)] == [f"X[0] ({path})", "X[1]", "X[2]"]
    for i in (0, 1, 2, 4):
        np.testing.assert_array_equal(source.read(i), PICTURE)


def test_containers_of_paths(tmp_path):
    pandas = pytest.importorskip("pandas")
    paths = [save(tmp_path / f"{k}.png", Image.new("L", (2, 2), k)) for k in range(3)]
    texts = [str(path) for path in paths]
    series = pandas.Series(texts, index=[7, 5, 5])
    objects = np.array(paths, dtype=object)
    for container in (paths, texts, tuple(paths), objects, np.array(texts), series):
        source = ImageSource(container)
        assert [int(source.read(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    with pytest.raises(TypeError, match=r"X\[1\] is (nan|None|<NA>)"):
        ImageSource(pandas.Series([texts[0], None]))


def test_sources_pickle(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE))
    source = ImageSource([path, GREY.astype(np.uint16)], value_range=(0, 255))
    twin = pickle.loads(pickle.dumps(source))
    assert repr(twin) == "ImageSource(n_images=2, value_range=(0.0, 255.0))"
    for i in range(2):
        np.testing.assert_array_equal(twin.read(i), source.read(i))
    stack = ImageSource(PICTURE[None])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stack)).read(0), PICTURE)


# ---------------------------------------------------------------- batches


class Counting:
    """A source that counts its reads, slowly enough for threads to overlap."""

    def __init__(self, n, delay=0.0):
        self.n, self.delay = n, delay
        self.reads, self.lock = [], threading.Lock()

    def __len__(self):
        return self.n

    def read(self, i):
        time.sleep(self.delay)
        with self.lock:
            self.reads.append(i)
        return np.full((3, 4, 3), i, dtype=np.uint8)


@pytest.mark.parametrize("n_jobs", [None, 1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_results_do_not_depend_on_jobs_or_batches(n_jobs, batch_size):
    images = [RNG.integers(0, 256, (5 + k % 4, 6 + k % 3, 3), dtype=np.uint8) for k in range(20)]
    reference = np.concatenate([batches([image])[0].pixels for image in images])
    got = batches(images, batch_size=batch_size, n_jobs=n_jobs)
    assert [len(b.indices) for b in got][:-1] == [batch_size] * (len(got) - 1)
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in got]), reference)
    np.testing.assert_array_equal(np.concatenate([b.indices for b in got]), np.arange(20))
    assert sum((b.sizes for b in got), []) == [image.shape[:2] for image in images]
    for b in got:
        assert b.pixels.dtype == np.float32 and b.pixels.flags.c_contiguous
        assert b.indices.dtype == np.int64


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_indices_choose_and_order(n_jobs):
    order = [9, 2, 2, 0, 17]
    got = batches(Counting(20, 0.001), size=(3, 4), batch_size=2, n_jobs=n_jobs, indices=order)
    values = np.concatenate([b.pixels[:, 0, 0, 0] for b in got]) * 255
    np.testing.assert_allclose(values, order, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([b.indices for b in got]), order)
    assert batches(Counting(20), indices=[], n_jobs=n_jobs) == []
    with pytest.raises(IndexError, match="20"):
        iter_batches(Counting(20), size=(2, 2), batch_size=2, indices=[20])


def test_order_is_kept_when_early_images_are_slow():
    class Uneven(Counting):
        def read(self, i):
            time.sleep(0.02 if i % 4 == 0 else 0)
            return super().read(i)

    got = batches(Uneven(16), size=(3, 4), batch_size=5, n_jobs=4)
    values = np.concatenate([b.pixels[:, 0, 0, 0] for b in got]) * 255
    np.testing.assert_allclose(values, np.arange(16), atol=1e-4)


@pytest.mark.parametrize(("n_jobs", "most"), [(1, 4), (2, 8), (4, 16)])
def test_reading_stays_a_bounded_number_ahead(n_jobs, most):
    source = Counting(200)
    stream = iter_batches(source, size=(3, 4), batch_size=4, n_jobs=n_jobs)
    assert source.reads == []
    for consumed in range(1, 4):
        next(stream)
        time.sleep(0.05)  # a slow caller: the threads get every chance to run ahead
        assert 4 * consumed <= len(source.reads) <= 4 * (consumed - 1) + most
    if n_jobs > 1:
        assert len(source.reads) > 4 * consumed  # and they do work ahead
    stream.close()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_closing_early_stops_the_work_without_warnings(n_jobs):
    source = Counting(200, delay=0.005)
    before = threading.active_count()
    # Recorded, because a warning turned into an error inside a dying generator is swallowed.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = iter_batches(source, size=(3, 4), batch_size=16, n_jobs=n_jobs)
        next(stream)
        stream.close()
        n_reads = len(source.reads)
        unused = iter_batches(source, size=(3, 4), batch_size=16, n_jobs=n_jobs)
        next(unused)
        del unused
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert n_reads < 32  # the second batch, read ahead, was cut short
    n_reads = len(source.reads)
    time.sleep(0.05)
    assert len(source.reads) == n_reads
    assert threading.active_count() <= before


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
def test_a_broken_file_names_itself_in_parallel(tmp_path, n_jobs):
    paths = [save(tmp_path / f"{k}.png", Image.fromarray(PICTURE)) for k in range(20)]
    for k in (11, 12):
        paths[k].write_bytes(paths[k].read_bytes()[:60])
    got = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"^X\[11\] \(.*11\.png\) cannot be read") as caught:
            source = ImageSource(paths)
            got.extend(iter_batches(source, size=(4, 4), batch_size=3, n_jobs=n_jobs))
            pytest.fail("the broken file went unnoticed")
    assert type(caught.value) is ValueError


def test_batches_before_a_broken_one_arrive():
    class Broken(Counting):
        def read(self, i):
            if i == 5:
                raise ValueError("X[5] is broken")
            return super().read(i)

    for n_jobs in (1, 4):
        stream = iter_batches(Broken(20), size=(3, 4), batch_size=2, n_jobs=n_jobs)
        np.testing.assert_array_equal(next(stream).indices, [0, 1])
        np.testing.assert_array_equal(next(stream).indices, [2, 3])
        with pytest.raises(ValueError, match=r"^X\[5\] is broken$"):
            next(stream)


def test_threads_even_where_the_context_names_processes():
    source = Counting(6)  # its lock cannot be pickled, and its counts would stay in the processes
    with joblib.parallel_config(backend="loky", n_jobs=2):
        got = batches(source, size=(3, 4), batch_size=2)
    assert len(got) == 3 and sorted(source.reads) == list(range(6))


def test_one_lazy_pil_image_shared_by_threads(tmp_path):
    big = RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    image = Image.open(save(tmp_path / "a.png", Image.fromarray(big)))
    got = batches([image] * 12, size=(300, 300), batch_size=12, n_jobs=4)
    expected = big.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    for pixels in got[0].pixels:
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("size, batch_size", [((4,), 2), ((0, 4), 2), ((4, 4.5), 2), ((4, 4), 0)])
def test_bad_batch_parameters(size, batch_size):
    with pytest.raises(ValueError, match="positive integers"):
        iter_batches(ImageSource([GREY]), size=size, batch_size=batch_size)
