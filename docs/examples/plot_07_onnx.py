"""
ONNX: inspection without torch
==============================

A detector is often trained on one computer and used on another, such as a small one at the line.
``to_onnx`` writes everything from the picture to the score into one file. To run it you need
onnxruntime and numpy, and neither torch nor skhgad.
"""

# %%
# Fit and export
# --------------
#
# The pictures are squares of the brick and the gravel that scikit-image ships, cut like a
# chessboard: black squares to learn from, white ones to judge. Half of the white squares get a spot
# of paint.

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, draw

from skhgad import HGADDetector
from skhgad.display import HeatScale, overlay

SIZE = 48


def chessboard(texture):
    """Cut a picture into squares; return the black ones and half of the white ones."""
    n = len(texture) // SIZE
    squares = texture[: n * SIZE, : n * SIZE].reshape(n, SIZE, n, SIZE).swapaxes(1, 2)
    is_white = np.indices((n, n)).sum(0) % 2 == 1
    return squares[~is_white], squares[is_white][::2]


brick, new_brick = chessboard(data.brick())
gravel, new_gravel = chessboard(data.gravel())
# fit warns: it holds 10 squares of each product back, too few to promise 5 % false alarms.
detector = HGADDetector(image_size=128, random_state=0).fit(
    np.concatenate([brick, gravel]), ["brick"] * len(brick) + ["gravel"] * len(gravel)
)

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
start = time.perf_counter()
detector.to_onnx(folder / "model.onnx")
size = (folder / "model.onnx").stat().st_size / 2**20
print(f"one file of {size:.1f} MB, written in {time.perf_counter() - start:.1f} s")

# %%
# The input is RGB pictures as numbers from 0 to 255, of any height and width. The file resizes them
# itself.

images = np.concatenate([new_brick, new_gravel])
images[(slice(1, None, 2), *draw.disk((20, 28), 6))] = 140
images = np.stack([images] * 3, axis=-1)
np.save(folder / "images.npy", images)
print(images.shape, images.dtype)

# %%
# On the other computer
# ---------------------
#
# This is the whole program for the other computer. We run it in a process of its own. At the end it
# checks that neither torch nor skhgad was imported.

program = """
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
told = session.get_modelmeta().custom_metadata_map
classes, offset = np.array(json.loads(told["classes"])), float(told["offset"])

score, class_index, anomaly_map = session.run(None, {"image": np.load("images.npy")})
for i in range(4):
    verdict = "ANOMALY" if score[i] < offset else "normal"
    print(f"picture {i}: {classes[class_index[i]]}, {verdict}, score {score[i]:.2f}")

np.savez("answers.npz", score=score, product=classes[class_index], anomaly_map=anomaly_map)
assert not {"torch", "skhgad"} & set(sys.modules)
print("torch imported:", "torch" in sys.modules)
"""

finished = subprocess.run(
    [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
)
print(finished.stdout)

# %%
# The same answers
# ----------------
#
# The two differ by rounding, because both compute with 32-bit numbers in a different order.

answers = np.load(folder / "answers.npz")
score = detector.score_samples(images)
maps = detector.anomaly_maps(images)
print(f"scores range from {score.min():.1f} to {score.max():.1f}")
print(f"largest difference of scores: {np.abs(answers['score'] - score).max():.1e}")
print(f"largest difference in maps: {np.abs(answers['anomaly_map'] - maps).max():.1e}")
print("same products:", np.array_equal(answers["product"], detector.predict_class(images)))

figure = plt.figure(figsize=(10, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.3])
ax = left.subplots()
spotted = np.arange(len(images)) % 2 == 1
ax.scatter(score[~spotted], answers["score"][~spotted], marker="o", alpha=0.6, label="good")
ax.scatter(score[spotted], answers["score"][spotted], marker="^", alpha=0.6, label="with a spot")
ax.axline((0, 0), slope=1, color="black", linestyle=":", label="equal")
ax.set(xlabel="score from HGADDetector", ylabel="score from onnxruntime")
ax.legend()
axes, scale = right.subplots(2, 3), HeatScale.of(detector)
right.suptitle("Pictures and the maps that onnxruntime gives")
for i, (picture, heat) in zip([0, 1, -1], axes.T, strict=True):
    picture.imshow(images[i])
    picture.set_title(f"{answers['product'][i]}, {answers['score'][i]:.1f}", fontsize=10)
    heat.imshow(overlay(images[i], scale.heat(answers["anomaly_map"][i])))
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
temporary.cleanup()

# %%
# The file infers the product of each picture. P-values, ``unknown_rate`` and products given by
# ``class_labels`` stay with the detector. A detector of tables is exported in the same way; its
# input is called "features".
