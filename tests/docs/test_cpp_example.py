"""The C++ example: it says what the detector says."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import draw

SOURCE = Path(__file__).parents[2] / "docs" / "cpp" / "inspect_picture.cpp"
HEADER = "onnxruntime_cxx_api.h"
VARIABLE = "ONNXRUNTIME_INCLUDE_DIR"


def header_folder():
    """Return where onnxruntime's C++ header lies, or None."""
    usual = [Path(root, "include") for root in ("/usr", "/usr/local", "/opt/onnxruntime")]
    places = [Path(os.environ[VARIABLE])] if VARIABLE in os.environ else []
    places += [place for root in usual for place in (root, root / "onnxruntime")]
    return next((place for place in places if (place / HEADER).is_file()), None)


def library(headers):
    """Return the shared library: beside the headers, or that of the Python package."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folders = [headers.parent / "lib", Path(onnxruntime.__file__).parent / "capi"]
    return next((f for folder in folders for f in sorted(folder.glob("libonnxruntime.so*"))), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example, compiled."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler: install g++ or clang++")
    headers = header_folder()
    if headers is None:
        pytest.skip(
            f"{HEADER} was not found, and the Python package has none: install libonnxruntime-dev, "
            f"or unpack a release of onnxruntime and let {VARIABLE} name its folder include"
        )
    shared = library(headers)
    if shared is None:
        pytest.skip("the shared library of onnxruntime was not found beside its headers")
    folder = tmp_path_factory.mktemp("cpp")
    # The Python package has the library under its full version alone; the loader looks for ".so.1".
    (folder / "libonnxruntime.so.1").symlink_to(shared)
    command = [compiler, "-std=c++17", SOURCE, "-I", headers, shared, f"-Wl,-rpath,{folder}"]
    subprocess.run([*map(str, command), "-o", str(folder / "inspect")], check=True, timeout=300)
    return folder / "inspect"


@pytest.mark.once
def test_the_program_says_what_the_detector_says(program, small_detector, tmp_path):
    small_detector.to_onnx(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    pictures = [draw(rng, "stripe"), draw(rng, "checker", defect=True)]
    found = small_detector.inspect(pictures)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.ppm")
        command = [program, tmp_path / "model.onnx", tmp_path / f"{i}.ppm"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        score, product, verdict = done.stdout.rstrip("\n").split("\t")
        assert float(score) == pytest.approx(found.score[i], rel=1e-3, abs=1e-3)
        assert product == found.class_label[i]
        assert verdict == ("anomaly" if found.is_anomaly[i] else "normal")
    Image.fromarray(pictures[0][..., 0]).save(tmp_path / "grey.ppm", format="PPM")
    command[2] = tmp_path / "grey.ppm"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "is no binary PPM (P6)" in done.stderr
