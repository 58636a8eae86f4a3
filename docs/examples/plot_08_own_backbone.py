"""
Your own backbone
=================

The detector looks at pictures through a *backbone*: a network that turns a picture into maps of
features. The default was trained on ImageNet photographs. You may pass any ``torch.nn.Module``
instead that returns a list of maps: a network you have trained on your own pictures, or, as here,
filters that you understand.
"""

# %%
# A bank of Gabor filters
# -----------------------
#
# A Gabor filter answers to lines of one direction and one width. Filters like it are an old tool
# for surfaces. They need no training and no downloaded weights, and they may suit solar cells,
# because a crack is a line.
#
# What the detector gives: pixels as a float32 tensor of shape (n, 3, height, width). They are
# normalised with ImageNet's mean and standard deviation, as most pretrained networks expect, so
# that black is about -2 and white about 2.4. What the module returns: a list of maps, each of
# shape (n, channels, map height, map width), from fine to coarse. A single map, tokens, a dict
# and the outputs of transformers are understood, too. ``fit`` never trains the module.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from elpv_dataset.utils import load_dataset
from sklearn.metrics import RocCurveDisplay
from torch import nn
from torch.nn import functional as F

from skhgad import HGADDetector
from skhgad.display import HeatScale, overlay
from skhgad.metrics import image_metrics


class GaborBank(nn.Module):
    """Strength of lines in several directions, on three scales.

    Parameters
    ----------
    n_directions : int
    """

    def __init__(self, n_directions=6):
        super().__init__()
        rows, columns = torch.meshgrid(*[torch.arange(-7.0, 8.0)] * 2, indexing="ij")
        bell = torch.exp(-(rows**2 + columns**2) / (2 * 2.5**2))
        kernels = []
        for angle in torch.arange(n_directions) * torch.pi / n_directions:
            phase = 2 * torch.pi / 5 * (columns * angle.cos() + rows * angle.sin())
            for wave in (phase.cos(), phase.sin()):  # lines five pixels apart
                # No answer to a plain surface, and the same strength for all filters.
                kernel = bell * (wave - (bell * wave).sum() / bell.sum())
                kernels.append(kernel / kernel.norm())
        self.register_buffer("kernels", torch.stack(kernels)[:, None])

    def forward(self, x):
        grey = x.mean(1, keepdim=True)
        maps = []
        for _ in range(3):
            edge = self.kernels.shape[-1] // 2
            answers = F.conv2d(F.pad(grey, [edge] * 4, mode="reflect"), self.kernels)
            strength = (answers[:, ::2] ** 2 + answers[:, 1::2] ** 2).sqrt()
            maps.append(F.avg_pool2d(torch.cat([strength, grey], 1), 4))
            grey = F.avg_pool2d(grey, 2)  # the same filters then see lines twice as wide
        return maps


bank = GaborBank()
print("pixels of shape (1, 3, 128, 128) become maps of the shapes")
print([tuple(answer.shape) for answer in bank(torch.zeros(1, 3, 128, 128))])

# %%
# Solar cells
# -----------
#
# The pictures are cells of monocrystalline silicon from `elpv-dataset
# <https://pypi.org/project/elpv-dataset>`_ (licence CC BY-NC-SA 4.0, which also holds for the
# pictures of them on this page): 150 good cells to learn from, 50 good and 50 defective ones to
# judge.

images, defect_probability, silicon = load_dataset()
rng = np.random.default_rng(0)
good = rng.permutation(np.flatnonzero((silicon == "mono") & (defect_probability == 0)))
defective = rng.permutation(np.flatnonzero((silicon == "mono") & (defect_probability == 1)))
learn, test = images[good[:150]], images[np.concatenate([good[150:200], defective[:50]])]
y = np.repeat([1, -1], 50)

# %%
# The filters, and what they answer to a cell with cracks on the second of the three scales. The
# wires are horizontal, so they answer most at 90 degrees. The cracks are faint lines in the
# directions in which they run. The pictures show square roots, which the detector takes as well
# (``feature_power``).

cell = torch.from_numpy(test[51] / 255).float()
pixels = F.interpolate((cell.expand(1, 3, -1, -1) - 0.45) / 0.225, 256, mode="area")
answers = bank(pixels)[1][0, :6].sqrt()
figure, axes = plt.subplots(2, 7, figsize=(11, 3.5), layout="constrained")
axes[0, 0].set_axis_off()
axes[1, 0].imshow(cell, cmap="gray", vmin=0, vmax=1)
axes[1, 0].set_title("cell", fontsize=10)
for k in range(6):
    axes[0, k + 1].imshow(bank.kernels[2 * k, 0], cmap="gray")
    axes[0, k + 1].set_title(f"{30 * k} degrees", fontsize=10)
    axes[1, k + 1].imshow(answers[k], cmap="inferno", vmin=0, vmax=float(answers.max()))
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Two backbones, one detector
# ---------------------------
#
# The module takes the place of the backbone's name. All of its maps are used, unless
# ``out_indices`` picks some of them. Everything else stays: the threshold, the p-values, the maps.

detectors = {
    "Gabor filters": HGADDetector(bank, image_size=128, random_state=0),
    "default backbone": HGADDetector(image_size=128, random_state=0),
}
found = {}
for name, detector in detectors.items():
    found[name] = detector.fit(learn).inspect(test, maps=True)
    figures = image_metrics(y, found[name].score, offset=detector.offset_).pooled
    print(
        f"{name:17} AUROC {figures.auroc:.3f}, false alarms {figures.false_alarm_rate:.0%}, "
        f"missed {figures.miss_rate:.0%}"
    )

# %%
# The default is better at telling defective cells from good ones. It knows more than lines, and not
# every defect is a line. Own filters are of use where no foreign network may be taken over, or
# where each feature must be explained. A network that you have trained on pictures like yours is
# passed in the same way.

figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
for name, result in found.items():
    RocCurveDisplay.from_predictions(y == -1, -result.score, name=name, ax=ax)
ax.set(xlabel="share of good cells flagged", ylabel="share of defective cells found")
plt.show()

# %%
# The first six defective cells, not chosen, and what the two detectors see in them. Blue lies below
# the threshold, yellow to red above it; what looks normal stays grey. The filters see less of the
# surroundings, so their maps follow the cracks more closely.

figure, axes = plt.subplots(3, 6, figsize=(10, 5.4), layout="constrained")
for column, i in zip(axes.T, range(50, 56), strict=True):
    column[0].imshow(test[i], cmap="gray", vmin=0, vmax=255)
    for ax, name in zip(column[1:], found, strict=True):
        scale = HeatScale.of(detectors[name])
        ax.imshow(overlay(test[i], scale.heat(found[name].maps[i])))
        ax.set_title(f"score {found[name].score[i]:.1f}", fontsize=10)
for ax, label in zip(axes[:, 0], ("cell", *found), strict=True):
    ax.set_ylabel(label)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Saving works as always. The saved folder holds the weights of a module but not its code, so give
# ``load`` a module of the same kind.

with tempfile.TemporaryDirectory() as folder:
    detectors["Gabor filters"].save(folder)
    again = HGADDetector.load(folder, backbone=GaborBank())
difference = np.abs(again.score_samples(test) - found["Gabor filters"].score).max()
print(f"largest difference of scores after loading: {difference:.1e}")
