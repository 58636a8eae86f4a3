"""Broken files for the image reader and the model loader: thousands of mutations, no surprises.

    python -m benchmarks.fuzz [--files 20000] [--seed 0] [--case N] [--json FILE]

Every second case is an image, the others are model folders; each is a valid file with a few of its
bytes, lengths or values changed, and checksums mended in half of the cases, so that damage gets
past them. Allowed are a result, and the documented ValueError, TypeError and OSError. Everything
else is a failure: another exception, a hang, memory without bound, a result that is no image. A
case depends on the seed and its number alone: --case N repeats it, with its traceback. While a case
runs its files lie in the folder that is printed first, should the process die.
"""

import argparse
import copy
import faulthandler
import io
import json
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load
from torch import nn

from skhgad import HGADDetector
from skhgad.images import ImageSource
from skhgad.storage.model_folder import model_hash

DOCUMENTED = (ValueError, TypeError, OSError)
SIDE = 16
MODEL = "model.safetensors"
LIMIT = 20.0  # seconds a case may take
MEMORY = 3 << 30  # bytes that a case may ask for beyond what importing took
EXTREMES = (0, 1, -1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20, 1 << 40)
VALUES = (
    *(None, True, False, "", "x", "auto", "../../etc/passwd", [], {}, [[]], [0], {"a": 1}),
    *(0, -1, 1, 2, 3, 10**6, 10**12, -(2**63), 2**64, 10**400),
    *(0.5, -0.5, 1e-300, 1e308, -1e308, math.inf, -math.inf, math.nan),
)


class Hang(BaseException):
    """Not an Exception, so that nobody takes it for a broken file."""


class Halves(nn.Module):
    """A backbone that costs nothing: the image at half and quarter size."""

    def forward(self, x):
        return [nn.functional.avg_pool2d(x, 2), nn.functional.avg_pool2d(x, 4)]


def image_files():
    """Valid images, {name: content}, of every format and of the kinds that are read differently."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    grey, palette = color.convert("L"), color.quantize(16)
    deep = Image.fromarray(rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [color.transpose(Image.Transpose.ROTATE_90)]}
    wanted = [
        (color, "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (grey.convert("1"), "PNG", {"exif": exif}),
        (color.convert("RGBA"), "PNG", {}),
        (color, "PNG", frames),
        (color, "JPEG", {"exif": exif}),
        (color, "JPEG", {"progressive": True, "quality": 95}),
        (color.convert("CMYK"), "JPEG", {}),
        (grey, "JPEG", {}),
        (color, "BMP", {}),
        (palette, "BMP", {}),
        (color, "TIFF", {}),
        (color, "TIFF", {"compression": "tiff_lzw"}),
        (color, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (Image.fromarray(rng.random((SIDE, SIDE), dtype=np.float32)), "TIFF", {}),
        (color, "TIFF", frames),
        (palette, "GIF", {}),
        (palette, "GIF", {"transparency": 2, **frames}),
        (color, "WEBP", {"exif": exif}),
        (color.convert("RGBA"), "WEBP", {"lossless": True}),
        (color, "WEBP", frames),
    ]
    files = {}
    for number, (image, kind, options) in enumerate(wanted):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[f"{number:02}.{kind.lower()}"] = buffer.getvalue()
    return files


def model_files():
    """Contents of valid model files: of vectors and of images."""
    rng = np.random.default_rng(0)
    tiny = {"max_iter": 1, "n_blocks": 1, "n_components": 2, "random_state": 0}
    vectors = HGADDetector(**tiny).fit(rng.normal(size=(30, 3)), np.repeat(["a", "b"], 15))
    images = HGADDetector(
        Halves(), out_indices=(0, 1), image_size=SIDE, position_channels=4, **tiny
    ).fit(rng.random((20, SIDE, SIDE, 3)))
    contents = []
    for detector in (vectors, images):
        with tempfile.TemporaryDirectory() as folder:
            detector.save(folder)
            header, description, data = split_model((Path(folder) / MODEL).read_bytes())
        description["saved"] = "2025-01-01T00:00:00+00:00"  # cases depend on nothing but numbers
        contents.append(join_model(header, description, data, mended=True))
    return contents


def mutate(rng, content, others):
    """Change a few bytes of `content`, or exchange a part with one of `others`."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = MUTATIONS[rng.integers(len(MUTATIONS))](rng, content, others)
    return bytes(content)


def _position(rng, content):
    """Where to hurt: headers, with their sizes and offsets, as often as all the rest."""
    return int(rng.integers(max(1, min(len(content), 64) if rng.random() < 0.5 else len(content))))


def flip_bits(rng, content, others):
    """Flip up to eight bits."""
    for _ in range(rng.integers(1, 9) if content else 0):
        content[_position(rng, content)] ^= 1 << int(rng.integers(8))
    return content


def truncate(rng, content, others):
    """Keep the beginning."""
    return content[: rng.integers(len(content) + 1)]


def cut(rng, content, others):
    """Remove a part."""
    start = _position(rng, content)
    return content[:start] + content[start + int(rng.integers(1, 65)) :]


def repeat(rng, content, others):
    """Write a part again and again."""
    start = _position(rng, content)
    part = content[start : start + int(rng.integers(1, 65))]
    return content[:start] + part * int(rng.choice([2, 3, 100])) + content[start:]


def splice(rng, content, others):
    """Go on as another file."""
    other = others[rng.integers(len(others))]
    return content[: _position(rng, content)] + other[rng.integers(len(other) + 1) :]


def set_number(rng, content, others):
    """Write an extreme number of 1, 2, 4 or 8 bytes, of either byte order."""
    size = int(rng.choice([1, 2, 4, 8]))
    order = ("little", "big")[rng.integers(2)]
    number = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * size)
    start = _position(rng, content)
    content[start : start + size] = number.to_bytes(size, order)
    return content


MUTATIONS = (flip_bits, truncate, cut, repeat, splice, set_number, set_number)


def mend_png(content):
    """Give every chunk of a PNG the checksum of what it now holds."""
    content = bytearray(content)
    start = 8
    while start + 12 <= len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[start + 4 : end]))
        start = end + 4
    return bytes(content)


def mutate_values(rng, value):
    """Replace, remove or double one value somewhere in a JSON tree."""
    while True:
        if isinstance(value, dict) and value:
            keys = sorted(value)
        elif isinstance(value, list) and value:
            keys = range(len(value))
        else:
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.85:
            value = value[key]
            continue
        action = rng.integers(6)
        if action == 0:
            del value[key]
        elif action == 1 and isinstance(value, list):
            value.append(value[key])
        elif action == 2 and isinstance(value[key], int | float):
            value[key] += int(rng.choice([-1, 1]))
        else:
            value[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        return


def split_model(content):
    """Take a model file apart: (header, description, bytes of the tensors)."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["description"]), content[8 + length :]


def join_model(header, description, data, *, mended):
    """Make a model file, its hash right where `mended` asks for it and the tensors are readable.

    Parameters
    ----------
    header : dict
    description : str, or JSON values
    data : bytes
    mended : bool

    Returns
    -------
    bytes
    """
    text = description if isinstance(description, str) else json.dumps(description)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict):
        metadata["description"] = text
        if mended:
            with suppress(Exception):
                metadata["sha256"] = model_hash(text, load(_safetensors(header, data)))
    return _safetensors(header, data)


def _safetensors(header, data):
    text = json.dumps(header, sort_keys=True).encode()
    return len(text).to_bytes(8, "little") + text + data


def mutate_model(rng, content, others):
    """Change a model file, and mend its hash in half of the cases."""
    what = rng.choice(["file", "text", "values", "values", "tensors", "tensors", "both", "mix"])
    mended = what == "mix" or rng.random() < 0.5
    if what == "file":
        return mutate(rng, content, others)
    header, description, data = split_model(content)
    if what == "mix":  # the tensors of one model, described as the other one
        header, _, data = split_model(others[rng.integers(len(others))])
    if what in ("tensors", "both"):
        if rng.random() < 0.5:
            data = mutate(rng, data, [split_model(other)[2] for other in others])
        else:
            mutate_values(rng, header)
    if what in ("values", "both"):
        for _ in range(rng.choice([1, 1, 2, 5])):
            mutate_values(rng, description)
    if what == "text":
        texts = [json.dumps(split_model(other)[1]).encode() for other in others]
        text = mutate(rng, json.dumps(description).encode(), texts)
        description = text.decode(errors="replace")
    return join_model(header, description, data, mended=mended)


class Fuzzer:
    """Cases by their number; `folder` takes the files of the present one."""

    def __init__(self, seed, folder):
        self.seed, self.folder = seed, Path(folder)
        self.images = image_files()
        self.models = model_files()
        (self.folder / "model").mkdir(exist_ok=True)

    def case(self, number):
        """Write, read and judge one case; returns (what was tried, what came of it)."""
        rng = np.random.default_rng([self.seed, number])
        if number % 2 == 0:
            names = sorted(self.images)
            name = names[rng.integers(len(names))]
            content = mutate(rng, self.images[name], list(self.images.values()))
            if name.endswith("png") and rng.random() < 0.5:
                content = mend_png(content)
            path = self.folder / f"image.{name.partition('.')[2]}"
            path.write_bytes(content)
            value_range = (None, (0, 65535))[rng.integers(2)]
            return path.suffix[1:], self._read(path, value_range)
        content = mutate_model(rng, self.models[rng.integers(len(self.models))], self.models)
        (self.folder / "model" / MODEL).write_bytes(content)
        return "model", self._load()

    def _read(self, path, value_range):
        try:
            pixels = ImageSource([path], value_range=value_range).read(0)
        except DOCUMENTED as error:
            assert "X[0]" in str(error), f"does not name the image: {error}"
            return type(error).__name__
        assert pixels.dtype in (np.uint8, np.float32) and pixels.shape[2:] == (3,) and pixels.size
        assert pixels.dtype == np.uint8 or (pixels.min() >= 0 and pixels.max() <= 1)
        return "read"

    def _load(self):
        try:
            detector = HGADDetector.load(self.folder / "model", backbone=Halves())
        except DOCUMENTED as error:
            assert str(self.folder) in str(error), f"does not name the folder: {error}"
            return type(error).__name__
        assert detector.memory is None and len(detector.classes_) and detector.offset_ is not None
        return "read"


@contextmanager
def time_limit(seconds):
    """Raise Hang in the block after `seconds`; end the process if it does not even notice."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise Hang(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def fuzz(fuzzer, numbers, *, on_failure=None):
    """Run cases; returns ({kind: Counter of outcomes}, {number: exception})."""
    outcomes, failures = {}, {}
    for number in numbers:
        kind = "model" if number % 2 else "image"
        try:
            with time_limit(LIMIT), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind, outcome = fuzzer.case(number)
        except (Exception, Hang) as error:
            outcome, failures[number] = "FAILURE", error
            if on_failure is not None:
                on_failure(number, error)
        outcomes.setdefault(kind, Counter())[outcome] += 1
    return outcomes, failures


def limit_memory():
    """Let a case that asks for more than MEMORY fail with a MemoryError; returns whether it can."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        return False
    return True


def peak_memory():
    """Largest resident set so far, in MiB; nan where the system does not tell."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main():
    """Run the cases and print what came of them; the exit status is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=20_000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one alone and keep its files")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="skhgad-fuzz-")
    print(f"files of the present case: {folder}", flush=True)
    fuzzer = Fuzzer(arguments.seed, folder)
    limited = limit_memory()
    if arguments.case is not None:
        with time_limit(LIMIT):
            print(*fuzzer.case(arguments.case))
        return 0

    def tell(number, error):
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"case {number}: {type(error).__name__}: {str(error)[:300]} ({where.name}, "
            f"{os.path.basename(where.filename)}:{where.lineno})\n"
            f"  python -m benchmarks.fuzz --seed {arguments.seed} --case {number}",
            flush=True,
        )

    before, start = peak_memory(), time.perf_counter()
    outcomes, failures = fuzz(fuzzer, range(arguments.files), on_failure=tell)
    figures = {
        "files": arguments.files,
        "seed": arguments.seed,
        "failures": len(failures),
        "seconds": round(time.perf_counter() - start),
        "peak memory, MiB": round(peak_memory()),
        "before, MiB": round(before),
        "memory limited": limited,
        "outcomes": {kind: dict(counts.most_common()) for kind, counts in sorted(outcomes.items())},
    }
    shutil.rmtree(folder)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
