"""Seconds of a new process: importing the package, scoring one image from the command line.

Every command runs in a process of its own, all of them in turn, `--repeats` times. Beside the
seconds stand the ratios to importing torch in the same turn. The bare side imports torch and timm
and passes one image through the default backbone.

    python -m benchmarks.cold_start
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from skhgad import HGADDetector

TORCH, BARE, SCORE = "import torch", "torch, timm, bare backbone", "skhgad score MODEL IMAGE"
TARGET = 1.25  # of SCORE over BARE
_BARE = """
import timm, torch
from skhgad.features.checkpoints import embedded_state_dict
weights = {"state_dict": embedded_state_dict()}
model = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4),
                          pretrained=True, pretrained_cfg_overlay=weights).eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, 256, 256))
"""


def commands(folder):
    """Arguments of Python of each side, by name; the model and the image are put into `folder`."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 256, 256, 3), dtype=np.uint8)
    HGADDetector(max_iter=0, random_state=0).fit(pixels).save(folder / "model")
    Image.fromarray(pixels[0]).save(folder / "image.png")
    return {
        TORCH: ["-c", "import torch"],
        "import torch, timm": ["-c", "import torch, timm"],
        BARE: ["-c", _BARE],
        "import skhgad": ["-c", "import skhgad"],
        "from skhgad import HGADDetector": ["-c", "from skhgad import HGADDetector"],
        SCORE: ["-m", "skhgad", "score", str(folder / "model"), str(folder / "image.png")],
    }


def measure(sides, repeats):
    """Seconds of every side, a list of `repeats` each; one run before is not counted."""
    seconds = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, arguments in sides.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, name, yardstick):
    """Median over the turns of a side's seconds over those of another."""
    pairs = zip(seconds[name], seconds[yardstick], strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def table(seconds):
    """Markdown table of medians, and a line that says whether the target is met."""
    lines = ["| in a new process | s | ratio to importing torch |", "| --- | ---: | ---: |"]
    for name, values in seconds.items():
        lines.append(
            f"| {name} | {statistics.median(values):.2f} | {ratio(seconds, name, TORCH):.2f} |"
        )
    found = ratio(seconds, SCORE, BARE)
    verdict = "met" if found <= TARGET else "NOT met"
    lines += ["", f"{SCORE} over {BARE}: {found:.2f}, target <= {TARGET}: {verdict}."]
    return "\n".join(lines)


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(commands(Path(folder)), options.repeats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
