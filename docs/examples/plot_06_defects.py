"""
Explaining and grouping defects
===============================

A flagged picture raises questions. Where is the defect, how large is it, and what makes the picture
anomalous? And after a week with a hundred alarms: how many kinds of defect are there? ``explain``
answers the first questions. ``embed_regions`` and ``group_defects`` answer the second, without
labels.
"""

# %%
# Gravel with three kinds of defect
# ---------------------------------
#
# The pictures are squares of the gravel that scikit-image ships, cut like a chessboard. The black
# squares are to learn from. On each white square we draw a scratch, a spot of paint or a hole. The
# detector is not told which.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, draw

from skhgad import HGADDetector
from skhgad.display import HeatScale, overlay

SIZE = 40


def chessboard(texture):
    """Cut a picture into squares; return the black ones and the white ones."""
    n = len(texture) // SIZE
    squares = texture[: n * SIZE, : n * SIZE].reshape(n, SIZE, n, SIZE).swapaxes(1, 2)
    is_white = np.indices((n, n)).sum(0) % 2 == 1
    return squares[~is_white], squares[is_white]


def damaged(image, kind, rng):
    """Draw a defect of one kind at a random place."""
    image, (row, column) = image.copy(), rng.integers(10, 30, 2)
    if kind == "scratch":
        for shift in range(2):
            image[draw.line(0, column + shift, SIZE - 1, row + shift)] = 235
    elif kind == "paint":
        image[draw.ellipse(row, column, *rng.integers(4, 8, 2))] = 150
    else:
        image[draw.disk((row, column), rng.integers(3, 6))] = 0
    return image


rng = np.random.default_rng(0)
learn, good = chessboard(data.gravel())
kinds = rng.permutation(np.resize(["scratch", "paint", "hole"], len(good)))
images = np.stack([damaged(image, kind, rng) for image, kind in zip(good, kinds, strict=True)])

detector = HGADDetector(image_size=128, random_state=0).fit(learn)
print(f"good squares flagged: {np.mean(detector.predict(good) == -1):.0%}")
print(f"damaged squares flagged: {np.mean(detector.predict(images) == -1):.0%}")

# %%
# Where and why
# -------------
#
# ``explain`` says for each picture where the anomaly map peaks and which regions lie above the
# threshold. It also names the evidence. *Level* is the level of the network's features whose own
# peak counts most: 0 and 1 see the picture at 85 pixels, 2 and 3 at 128, the second of each with
# more of the surroundings. *Term* says whether the features are
# unlikely for the product, or undecided between products; with one product it is the first.

explanations = detector.explain(images)
examples = [kinds.tolist().index(kind) for kind in ("scratch", "paint", "hole")]
for i in examples:
    told = explanations[i]
    print(f"{kinds[i]}:")
    print(f"  anomaly: {told.is_anomaly}, score {told.score:.1f}, p-value {told.p_value:.3f}")
    print(f"  peak at row, column {told.peak_position}, from level {told.level}, {told.term}")
    print(f"  {told.area:.0%} of the picture above the threshold, in regions with the boxes")
    print("  ", [region.box for region in told.regions])

# %%
# A region is more than a box: it has a mask, an area and an elongation. Here are the regions of
# these three pictures, with their boxes and a cross at the peak. Below, blue lies below the
# threshold, yellow to red above it.

figure, axes = plt.subplots(2, 3, figsize=(8, 5.6), layout="constrained")
maps, scale = detector.anomaly_maps(images[examples]), HeatScale.of(detector)
for i, anomaly_map, (picture, heat) in zip(examples, maps, axes.T, strict=True):
    told = explanations[i]
    picture.imshow(images[i], cmap="gray", vmin=0, vmax=255)
    heat.imshow(overlay(images[i], scale.heat(anomaly_map)))
    for region in told.regions:
        top, left, bottom, right = region.box
        picture.add_patch(
            plt.Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="tab:cyan"
            )
        )
    picture.plot(*told.peak_position[::-1], "+", color="tab:red", markersize=14, mew=2)
    picture.set_title(f"{kinds[i]}, {told.area:.0%} of the picture", fontsize=10)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# A region may be larger than its defect, like that of the scratch. A position of the network's
# features sees its surroundings, so a defect also makes its neighbourhood unusual.
#
# How many kinds of defect?
# -------------------------
#
# We take the region with the highest peak of every picture that has one. ``embed_regions``
# describes each by the network's features inside it. ``group_defects`` clusters these descriptions
# and chooses the number of groups itself. Only for the table we count the kinds that we have drawn.

from sklearn.metrics import adjusted_rand_score

from skhgad.regions import embed_regions, group_defects

regions = [told.regions[:1] for told in explanations]
has_region = np.array([len(found) > 0 for found in regions])
groups = group_defects(embed_regions(detector, images, regions))

drawn = kinds[has_region]
print(f"{len(groups)} regions, {groups.max() + 1} groups")
print("group   scratch   paint   hole")
for group in range(groups.max() + 1):
    counts = [np.sum(drawn[groups == group] == kind) for kind in ("scratch", "paint", "hole")]
    print(f"{group:5}{counts[0]:10}{counts[1]:8}{counts[2]:7}")
agreement = adjusted_rand_score(drawn, groups)
print(f"agreement with the kinds drawn (adjusted Rand index; 1 = perfect): {agreement:.2f}")

# %%
# The first pictures of each group. These kinds differ clearly. Real kinds may be harder to tell
# apart. The number of groups is then a proposal, which you can override with ``n_groups``.

figure, axes = plt.subplots(groups.max() + 1, 8, figsize=(10, 4.2), layout="constrained")
for group, row in enumerate(axes):
    members = np.flatnonzero(has_region)[groups == group]
    for ax, i in zip(row, members, strict=False):
        ax.imshow(images[i], cmap="gray", vmin=0, vmax=255)
    row[0].set_ylabel(f"group {group}")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
