"""
One folder of good pictures
===========================

The commonest case of all: you have a folder of pictures of good parts, and new pictures to judge.
There are no product names, no defects to learn from and no marked pixels. Fit the detector on the
folder. It then tells for each new picture whether it looks normal, how sure it is, and where the
anomaly lies.

The parts here are real solar cells, photographed while they glow (electroluminescence). The
pictures come from `elpv-dataset <https://pypi.org/project/elpv-dataset>`_. Their licence is
CC BY-NC-SA 4.0: no commercial use, and pictures made from them, such as those on this page, keep
the licence.
"""

# %%
# A folder of pictures
# --------------------
#
# To begin as you would, we write PNG files: 150 good cells into the folder ``good``, and 100 other
# cells, half of them defective, into the folder ``new``. We take cells of monocrystalline silicon
# on which the annotators of the data set were sure: probability of a defect 0 or 1.

import tempfile
from pathlib import Path

import numpy as np
from elpv_dataset.utils import load_dataset
from PIL import Image

images, defect_probability, silicon = load_dataset()
rng = np.random.default_rng(0)
good = rng.permutation(np.flatnonzero((silicon == "mono") & (defect_probability == 0)))
defective = rng.permutation(np.flatnonzero((silicon == "mono") & (defect_probability == 1)))
new = rng.permutation(np.concatenate([good[150:200], defective[:50]]))

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for name, chosen in {"good": good[:150], "new": new}.items():
    (folder / name).mkdir()
    for number, cell in enumerate(chosen):
        Image.fromarray(images[cell]).save(folder / name / f"{number:03}.png")

# %%
# Fit and judge
# -------------
#
# This is all you need for a folder of your own. ``image_size=128`` shows the backbone smaller
# pictures than the default of 384 does. That is faster, and small defects get harder to see.

from skhgad import HGADDetector

good_paths = sorted((folder / "good").glob("*.png"))
detector = HGADDetector(image_size=128, random_state=0).fit(good_paths)

new_paths = sorted((folder / "new").glob("*.png"))
found = detector.inspect(new_paths, maps=True)

for path, score, p_value, is_anomaly in zip(
    new_paths[:8], found.score, found.p_value, found.is_anomaly, strict=False
):
    verdict = "ANOMALY" if is_anomaly else "normal"
    print(f"{path.name}: {verdict:8} score {score:6.2f}, p-value {p_value:.3f}")

# %%
# The *score* is higher the more normal a cell looks; good cells lie around 0. The *verdict* is
# "anomaly" where the score is below ``offset_``, a threshold that the fit chose so that about 5 %
# of good cells are flagged. The *p-value* is the chance that a good cell scores this low. Each of
# the 150 good cells was judged by a model fitted without it to measure this, so no p-value can be
# smaller than 1 / 151.

print(f"threshold offset_: {detector.offset_:.2f}")
print(f"smallest p-value: {found.p_value.min():.3f} = 1 / {1 / found.p_value.min():.0f}")

# %%
# Where is the anomaly?
# ---------------------
#
# ``AnomalyMapDisplay`` draws a picture, its anomaly map, and the outline of the places above the
# threshold. Here is the flagged cell whose score lies in the middle of all flagged cells.

import matplotlib.pyplot as plt

from skhgad.display import AnomalyMapDisplay

flagged = np.flatnonzero(found.is_anomaly)
middle = flagged[np.argsort(found.score[flagged])[len(flagged) // 2]]
display = AnomalyMapDisplay.from_predictions(
    new_paths[middle], found.maps[middle], threshold=-detector.offset_
)
display.axes_[0].set_title(f"{new_paths[middle].name}, score {found.score[middle]:.1f}")
plt.show()

# %%
# How good are the verdicts?
# --------------------------
#
# For these pictures we know the truth, so we can count. Neither the fit nor the threshold has used
# it. One caution: cells of the same solar module may be in both folders, which makes the task a
# little easier than a new module would be.

from skhgad.display import HeatScale, ScoreDistributionDisplay, overlay
from skhgad.metrics import image_metrics

y = np.where(defect_probability[new] == 1, -1, 1)
figures = image_metrics(y, found.score, offset=detector.offset_).pooled
print(f"AUROC {figures.auroc:.3f}")
print(f"good cells flagged {figures.false_alarm_rate:.0%}")
print(f"defective cells missed {figures.miss_rate:.0%}")

display = ScoreDistributionDisplay.from_predictions(y, found.score, offset=detector.offset_)
display.ax_.set_yticks([])
plt.show()

# %%
# A picture of the clearest cases would flatter. So we show, from left to right, the defective cells
# that rank first, in the middle and last by their score, and then the good cell in the middle and
# the good cell that looks worst. ``overlay`` colours what an anomaly map finds: blue below the
# threshold, yellow to red above it. What looks normal stays grey.

by_score = np.argsort(found.score)
bad, fine = by_score[y[by_score] == -1], by_score[y[by_score] == 1]
shown = {
    "defect, clearest": bad[0],
    "defect, middle": bad[len(bad) // 2],
    "defect, least clear": bad[-1],
    "good, middle": fine[len(fine) // 2],
    "good, worst": fine[0],
}
scale = HeatScale.of(detector)
figure, axes = plt.subplots(2, len(shown), figsize=(11, 5), layout="constrained")
for (title, i), (picture, heat) in zip(shown.items(), axes.T, strict=True):
    picture.imshow(Image.open(new_paths[i]), cmap="gray", vmin=0, vmax=255)
    heat.imshow(overlay(np.asarray(Image.open(new_paths[i])), scale.heat(found.maps[i])))
    verdict = "ANOMALY" if found.is_anomaly[i] else "normal"
    picture.set_title(f"{title}\nverdict: {verdict}", fontsize=10)
    heat.set_title(f"score {found.score[i]:.1f}", fontsize=10)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Save the model for later. The folder holds numbers and text only, no code.

detector.save(folder / "model")
again = HGADDetector.load(folder / "model")
difference = np.abs(again.score_samples(new_paths[:10]) - found.score[:10]).max()
print(f"largest difference of scores after loading: {difference:.1e}")
temporary.cleanup()
