"""
Four products, one model
========================

An inspection line often carries several products. The usual answer is one detector for each of
them, to be trained, stored and kept up to date separately. ``HGADDetector`` learns all products at
once: it gets good pictures and the name of the product that each of them shows. A new picture
comes without a name.

The four products here are textures that scikit-image ships: brick, grass, gravel and stained
tissue under a microscope. We draw the damage ourselves.
"""

# %%
# The pictures
# ------------
#
# Each texture is one large picture. We cut it into squares, like a chessboard. The fit gets the
# black squares. Of the white squares half stay good and half are damaged; these are the test. No
# two squares overlap, so no test pixel has been seen before.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, draw

SIZE = 40
TEXTURES = {
    "brick": data.brick(),
    "grass": data.grass(),
    "gravel": data.gravel(),
    "tissue": data.immunohistochemistry(),
}


def chessboard(texture):
    """Cut a picture into squares; return the black ones and the white ones."""
    black, white = [], []
    for row in range(len(texture) // SIZE):
        for column in range(len(texture) // SIZE):
            top, left = row * SIZE, column * SIZE
            squares = white if (row + column) % 2 else black
            squares.append(texture[top : top + SIZE, left : left + SIZE])
    return black, white


def scratch(image, rng):
    """Draw a bright line from the upper to the lower edge."""
    damaged = image.copy()
    top, bottom = rng.integers(5, SIZE - 5, 2)
    for shift in range(2):
        damaged[draw.line(0, top + shift, SIZE - 1, bottom + shift)] = 235
    return damaged


def spot(image, rng):
    """Cover an ellipse with grey paint."""
    damaged = image.copy()
    damaged[draw.ellipse(*rng.integers(10, 30, 2), *rng.integers(4, 8, 2))] = 110
    return damaged


rng = np.random.default_rng(0)
train, train_product = [], []
test, test_product, test_kind = [], [], []
for name, texture in TEXTURES.items():
    black, white = chessboard(texture)
    train += black
    train_product += [name] * len(black)
    for number, place in enumerate(rng.permutation(len(white))):
        kind = ("good", "scratch", "good", "spot")[number % 4]
        image = white[place]
        if kind != "good":
            image = scratch(image, rng) if kind == "scratch" else spot(image, rng)
        test.append(image)
        test_product.append(name)
        test_kind.append(kind)
train_product, test_product, test_kind = map(np.array, (train_product, test_product, test_kind))
test_y = np.where(test_kind == "good", 1, -1)
print(f"{len(train)} good squares to learn from, {len(test)} other squares to judge")

# %%
# One fit
# -------
#
# ``y`` holds the product names. Grey and colour pictures may be mixed: grey ones become RGB. The
# squares are enlarged to ``image_size``, here 128 pixels instead of the default of 384.
#
# All 72 squares of a product are learned from, and all set the threshold: five more models, each
# without a fifth of them, judge the squares that they have not seen.

from skhgad import HGADDetector

detector = HGADDetector(image_size=128, random_state=0).fit(train, train_product)
print("products:", detector.classes_)

# %%
# One call judges pictures of all products. We do not tell the detector which product each shows.

found = detector.inspect(test, maps=True)
right = found.class_label == test_product
print(f"product recognised in {right.sum()} of {len(right)} squares")

# %%
# One threshold for all products
# ------------------------------
#
# The scores of all products are on one scale: for each of them, 0 is the median of good pictures.
# One threshold can therefore serve all products. The fit chose it from good pictures alone.

from skhgad.display import HeatScale, ScoreDistributionDisplay, overlay

ScoreDistributionDisplay.from_predictions(
    test_y, found.score, test_product, offset=detector.offset_
)
plt.show()

# %%
# What do we pay for having one model? For comparison we fit four detectors, one for each product,
# and tell each square's product. *AUROC* is the chance that a damaged square scores lower than a
# good one. *Mean* averages over products, so each may have its own threshold. *Pooled* takes one
# threshold for all.

from skhgad.metrics import image_metrics

own_scores = np.empty(len(test))
for name in TEXTURES:
    learn, judge = np.flatnonzero(train_product == name), np.flatnonzero(test_product == name)
    own = HGADDetector(image_size=128, random_state=0).fit([train[i] for i in learn])
    own_scores[judge] = own.score_samples([test[i] for i in judge])

figures = image_metrics(test_y, found.score, test_product, offset=detector.offset_)
own_figures = image_metrics(test_y, own_scores, test_product)
rows = {**figures.per_class, "mean": figures.mean, "pooled": figures.pooled}
own_rows = {**own_figures.per_class, "mean": own_figures.mean, "pooled": own_figures.pooled}

print("         one model                        four models")
print("         AUROC   false alarms   missed    AUROC")
for name, row in rows.items():
    print(
        f"{name:8} {row.auroc:.3f} {row.false_alarm_rate:10.0%} {row.miss_rate:11.0%}"
        f" {own_rows[name].auroc:11.3f}"
    )

# %%
# One model for four products is here about as good as four models, and a new picture may come
# without its product's name.
#
# Where is the damage?
# --------------------
#
# For every product the first good square, the first with a scratch and the first with a spot. In
# the maps, blue lies below the threshold, yellow to red above it; what looks normal stays grey. A
# spot whose grey is that of the product may be missed.

scale = HeatScale.of(detector)
figure, axes = plt.subplots(4, 6, figsize=(10, 7.4), layout="constrained")
for row, name in zip(axes, TEXTURES, strict=True):
    kinds = test_kind[test_product == name].tolist()
    start = np.argmax(test_product == name)
    first = [start + kinds.index(kind) for kind in ("good", "scratch", "spot")]
    for i, picture, heat in zip(first, row[::2], row[1::2], strict=True):
        picture.imshow(test[i], cmap="gray", vmin=0, vmax=255)
        heat.imshow(overlay(test[i], scale.heat(found.maps[i])))
        verdict = "ANOMALY" if found.is_anomaly[i] else "normal"
        picture.set_title(f"{found.class_label[i]}: {verdict}", fontsize=10)
        heat.set_title(f"score {found.score[i]:.1f}", fontsize=10)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
