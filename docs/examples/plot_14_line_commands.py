"""
The command line: a model at work
=================================

The first day, a model is fitted. Then it works for months: pictures arrive, people correct it, a
new product comes, an old one goes. This example plays these months with commands.

The pictures are solar cells of `elpv-dataset <https://pypi.org/project/elpv-dataset>`_. Their
licence is CC BY-NC-SA 4.0: no commercial use, and pictures made from them keep the licence.
"""

# %%
# The first day
# -------------
#
# A flat folder of good pictures is one product. Here it holds cells of monocrystalline silicon.

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import requests
from elpv_dataset.utils import load_dataset
from PIL import Image

from skhgad.command_line.main import main

images, defect_probability, silicon = load_dataset()
rng = np.random.default_rng(0)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
good = {
    product: rng.permutation(np.flatnonzero((silicon == product) & (defect_probability == 0)))
    for product in ("mono", "poly")
}
bad = rng.permutation(np.flatnonzero((silicon == "mono") & (defect_probability == 1)))


def write(cells, place):
    """Write some cells as PNG files into a folder."""
    (folder / place).mkdir(exist_ok=True)
    for cell in cells:
        Image.fromarray(images[cell]).save(folder / place / f"{cell:04}.png")


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


write(good["mono"][:60], "mono")
run("skhgad fit mono --out model --fast --image-size 128")

# %%
# Pictures arrive
# ---------------
#
# ``watch`` scores each picture that appears in a folder, once, and appends a line to a log. Without
# ``--once`` it goes on for ever, and may be killed and started again at any moment.

write([*good["mono"][60:64], *bad[:2]], "arriving")
run("skhgad watch model arriving --log verdicts.jsonl --once --settle 0")
write(good["mono"][64:65], "arriving")
run("skhgad watch model arriving --log verdicts.jsonl --once --settle 0")

records = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
print(f"{len(records)} lines for 7 pictures; the keys of one: {', '.join(records[0])}")

# %%
# ``serve`` answers other programs over HTTP. It runs until it is stopped.

server = subprocess.Popen(
    [sys.executable, "-m", "skhgad", "serve", "model", "--port", "0"],
    cwd=folder,
    stdout=subprocess.PIPE,
    text=True,
)
address = server.stdout.readline().split()[-1]
with (folder / "arriving" / f"{bad[0]:04}.png").open("rb") as picture:
    answer = requests.post(f"{address}/score", files={"files": picture}, timeout=60)
server.terminate()
server.wait()
(verdict,) = answer.json()["images"]
print(verdict["verdict"], verdict["reason"], sep=": ")

# %%
# People correct the model
# ------------------------
#
# ``review`` writes a page with the doubtful pictures, on which people press *good* or *defect*.
# The page saves their decisions as a CSV file. ``fit --decisions`` learns from all of them, and
# ``update --decisions`` from the good pictures. ``update`` also takes a folder of good pictures. It
# needs neither the old pictures nor a new fit, and shows what changed.

run("skhgad review model arriving --out page --most 6")
write(good["mono"][65:95], "confirmed")
run("skhgad update model confirmed")

# %%
# Products come and go
# --------------------
#
# ``add-class`` teaches the model a new product from its good pictures, here polycrystalline cells.
# ``forget`` removes a product with all that the model knows of it.

write(good["poly"][:40], "poly")
run("skhgad add-class model poly --name poly")
write(good["poly"][40:43], "check")
run("skhgad score model check")
run("skhgad forget model poly --out model_of_mono")

temporary.cleanup()
