"""Kill `skhgad watch` at random moments, again and again: is every file in the log once?

python -m benchmarks.watch_kill --files 400 --kills 20
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from skhgad import HGADDetector


def main(argv=None):
    """Run; the exit status is 1 if a file is missing or there twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch_kill", description=__doc__)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of work before a kill")
    args = parser.parse_args(argv)
    rng, dice = np.random.default_rng(0), random.Random(0)
    with tempfile.TemporaryDirectory() as root:
        folder, log, model = Path(root, "in"), Path(root, "log.jsonl"), Path(root, "model")
        folder.mkdir()
        images = rng.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        HGADDetector(image_size=32, image_scales=(1,), random_state=0).fit(images).save(model)
        Image.fromarray(images[0]).save(Path(root, "a.png"))
        command = [sys.executable, "-m", "skhgad", "watch", model, folder, "--log", log]
        command += ["--settle", "0", "--interval", "0.01"]
        torn = 0
        for number in range(args.kills):
            for index in range(
                number * args.files // args.kills, (number + 1) * args.files // args.kills
            ):
                shutil.copy(Path(root, "a.png"), folder / f"{index:05}.png")
            size = log.stat().st_size if log.exists() else 0
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
            while process.poll() is None and (log.stat().st_size if log.exists() else 0) == size:
                time.sleep(0.001)
            time.sleep(args.longest * dice.random() ** 3)
            process.kill()
            process.wait()
            torn += not log.read_bytes().endswith(b"\n")
        subprocess.run(list(map(str, [*command, "--once"])), check=True, stdout=subprocess.DEVNULL)
        names = Counter(json.loads(line)["file"] for line in log.read_text().splitlines())
    twice = sum(n > 1 for n in names.values())
    missing = args.files - len(names)
    print(
        f"{args.files} files, {args.kills} kills, {torn} torn lines: {missing} missing, "
        f"{twice} twice"
    )
    return int(bool(missing or twice))


if __name__ == "__main__":
    sys.exit(main())
