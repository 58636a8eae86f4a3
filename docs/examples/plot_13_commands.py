"""
The command line: from a folder to a report
===========================================

Everything here is done by commands, without a line of Python of your own: fit a model on a folder
of pictures, measure it, score new pictures, read why one is flagged, and hand the model over as a
file for machines without PyTorch.

The pictures are solar cells of `elpv-dataset <https://pypi.org/project/elpv-dataset>`_. Their
licence is CC BY-NC-SA 4.0: no commercial use, and pictures made from them, such as those on this
page, keep the licence.
"""

# %%
# A folder of pictures
# --------------------
#
# We write the folder that you would have: two products, ``mono`` and ``poly``, each with good
# pictures to learn from (``train/good``) and pictures to test (``test/good`` and
# ``test/defective``). New pictures of both lie in one folder, ``new``.

import os
import shlex
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from elpv_dataset.utils import load_dataset
from PIL import Image

from skhgad.command_line.main import main

images, defect_probability, silicon = load_dataset()
rng = np.random.default_rng(0)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def write(cells, *place):
    """Write some cells as PNG files into a folder."""
    (folder.joinpath(*place)).mkdir(parents=True, exist_ok=True)
    for cell in cells:
        Image.fromarray(images[cell]).save(folder.joinpath(*place, f"{cell:04}.png"))


for product in ("mono", "poly"):
    own = silicon == product
    good = rng.permutation(np.flatnonzero(own & (defect_probability == 0)))
    bad = rng.permutation(np.flatnonzero(own & (defect_probability == 1)))
    write(good[:60], "cells", product, "train", "good")
    write(good[60:90], "cells", product, "test", "good")
    write(bad[:30], "cells", product, "test", "defective")
    write([*good[90:93], *bad[30:32]], "new")

# %%
# On this page, a function runs each command as your terminal does, and prints the command first.


def run(command):
    """Run a command line of skhgad in the folder of the pictures."""
    print(f"$ {command}")
    before = os.getcwd()
    os.chdir(folder)
    try:
        status = main(shlex.split(command)[1:])
    finally:
        os.chdir(before)
    print(f"(exit status {status})")


# %%
# Fit
# ---
#
# ``--dry-run`` tells what is understood of the folder, and fits nothing. ``--fast`` and
# ``--image-size`` are for this page, which has to be built in seconds.

run("skhgad fit cells --dry-run")
run("skhgad fit cells --out model --fast --image-size 128")

# %%
# Measure
# -------
#
# ``evaluate`` judges the labelled test pictures.

run("skhgad evaluate model cells")

# %%
# Score
# -----
#
# ``score`` judges any pictures. It takes the product from the picture. ``--sheet`` draws the
# flagged ones, ``--csv`` and ``--jsonl`` write files for other programs.

run("skhgad score model new --csv verdicts.csv --jsonl verdicts.jsonl --sheet flagged.png")

fig, ax = plt.subplots(figsize=(8, 4))
ax.imshow(Image.open(folder / "flagged.png"))
ax.set_axis_off()
plt.show()

# %%
# ``--fail-on-anomaly`` makes the exit status 1 if a picture is flagged, for scripts. ``explain``
# says of a picture where it is unusual, and why. Here it explains a defective one.

defective = sorted((folder / "cells" / "mono" / "test" / "defective").iterdir())[2]
run(f"skhgad score model {defective.relative_to(folder)} --fail-on-anomaly")
run(f"skhgad explain model {defective.relative_to(folder)}")

# %%
# Report and export
# -----------------
#
# ``report`` writes one HTML page that needs no network. ``export`` writes one ONNX file, with all
# that scoring needs inside, and ``validate`` compares it with the model on your own pictures.

run("skhgad report model cells --out report")
run("skhgad export model model.onnx")
run("skhgad validate model model.onnx new")

temporary.cleanup()
