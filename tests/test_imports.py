"""What is imported with the parts of the package: a new process should answer soon."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from skhgad import HGADDetector

# Slow to import, and of no use to fit or score with the default backbone.
UNNEEDED = (
    "matplotlib", "onnx", "sklearn.cluster", "sklearn.decomposition", "sklearn.metrics", "sympy",
    "timm", "torch._dynamo", "torch._inductor", "torch.onnx", "torchvision",
)  # fmt: skip


def imported(code, names, folder):
    """Return those of `names` that code imports, in a process of its own.

    In another folder, because Python would prefer a source tree in this one to what is installed.
    """
    code = f"import sys\n{code}\nprint('imported', [m for m in {names!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("imported ")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["datasets", "images", "metrics", "regions"])
def test_modules_that_need_no_torch_do_not_import_it(module, tmp_path):
    assert imported(f"import skhgad.{module}", ("torch", "timm"), tmp_path) == "[]"


def test_the_package_alone_imports_nothing_slow(tmp_path):
    names = ("numpy", "scipy", "sklearn", "torch", "timm", "PIL")
    assert imported("import skhgad", names, tmp_path) == "[]"


@pytest.mark.slow
def test_the_detector_imports_only_what_it_needs(tmp_path):
    assert imported("from skhgad import HGADDetector", UNNEEDED, tmp_path) == "[]"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)


@pytest.mark.slow
def test_fit_with_the_default_backbone_imports_only_what_it_needs(tmp_path, images):
    np.save(tmp_path / "images.npy", images)
    code = (
        "import numpy as np; from skhgad import HGADDetector\n"
        "HGADDetector(image_size=64, max_iter=0, n_blocks=0).fit(np.load('images.npy'))"
    )
    assert imported(code, ("timm", "torchvision"), tmp_path) == "[]"


@pytest.mark.slow
def test_scoring_from_the_command_line_imports_only_what_it_needs(tmp_path, images):
    HGADDetector(image_size=64, max_iter=0, n_blocks=0).fit(images).save(tmp_path / "model")
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    code = "from skhgad.command_line.main import main; main(['score', 'model', 'image.png'])"
    assert imported(code, UNNEEDED, tmp_path) == "[]"
