"""
Is something simpler enough?
============================

Before you adopt a method, compare it with a simple one. The distance to the nearest good sample is
such a method: nothing to train, one line of scikit-learn, and often hard to beat. Here both judge
the same samples, and we report wherever each of them is better.
"""

# %%
# Six kinds of anomaly
# --------------------
#
# The data are scikit-learn's handwritten digits, 64 numbers from 0 to 16 for each. The digits 0 to
# 7 are eight products. The methods learn 60 % of them. The rest are fresh good samples, and from
# each of these we make an anomaly of every kind but the last: the digits 8 and 9, which are real
# samples that no method has seen. Not every anomaly can be found: a bright pixel may fall on ink,
# and a 0 looks the same upside down.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from skhgad import HGADDetector

images, digit = load_digits().images, load_digits().target
new_product = images[digit >= 8]
train, fresh, train_digit, fresh_digit = train_test_split(
    images[digit < 8],
    digit[digit < 8],
    test_size=0.4,
    stratify=digit[digit < 8],
    random_state=0,
)
rng = np.random.default_rng(0)
others = [rng.choice(fresh[fresh_digit != k]) for k in fresh_digit]
rows, n = np.arange(8), len(fresh)
bright_pixel, dead_row = fresh.copy(), fresh.copy()
bright_pixel[np.arange(n), rng.integers(0, 8, n), rng.integers(0, 8, n)] = 16
dead_row[np.arange(n), rng.integers(1, 7, n)] = 0
anomalies = {
    "one bright pixel": bright_pixel,
    "a dead row": dead_row,
    "upside down": fresh[:, ::-1],
    "half of another digit": np.where(rows[:, None] < 4, fresh, others),
    "mean of two digits": (fresh + others) / 2,
    "a new product": new_product,
}

figure, axes = plt.subplots(1, 7, figsize=(11, 2), layout="constrained")
for ax, (name, samples) in zip(axes, {"good": fresh, **anomalies}.items(), strict=True):
    ax.imshow(samples[6], cmap="gray_r", vmin=0, vmax=16)
    ax.set_title(name, fontsize=9)
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Three methods
# -------------
#
# All of them get the same training samples, and all are left as they come, because tuning on the
# test would prove nothing. The detector is told the products of its training samples; the other two
# have no use for them. Nobody is told the product of a test sample.


def as_table(samples):
    """Flatten pictures of 8 by 8 pixels to rows of 64 numbers."""
    return np.asarray(samples).reshape(len(samples), -1)


X = as_table(train)
detector = HGADDetector(random_state=0).fit(X, train_digit)
neighbours = NearestNeighbors(n_neighbors=1).fit(X)
factor = LocalOutlierFactor(novelty=True).fit(X)

scorers = {
    "HGADDetector": detector.score_samples,
    "nearest neighbour": lambda samples: -neighbours.kneighbors(samples)[0][:, 0],
    "local outlier factor": factor.score_samples,
}

results = {}
for method, scorer in scorers.items():
    normal = scorer(as_table(fresh))
    results[method] = [
        roc_auc_score(
            np.repeat([1, 0], [n, len(samples)]), np.append(normal, scorer(as_table(samples)))
        )
        for samples in anomalies.values()
    ]

print(f"{'AUROC':24}" + "".join(f"{method:>22}" for method in results))
for name, *row in zip(anomalies, *results.values(), strict=True):
    print(f"{name:24}" + "".join(f"{auroc:22.3f}" for auroc in row))
print(f"{'mean':24}" + "".join(f"{np.mean(row):22.3f}" for row in results.values()))

# %%
# AUROC is the chance that an anomaly scores lower than a good sample, whatever their products.

figure, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
places = np.arange(len(anomalies))
for shift, (method, row) in zip((-0.25, 0, 0.25), results.items(), strict=True):
    ax.barh(places + shift, row, height=0.25, label=method)
ax.set_yticks(places, anomalies)
ax.invert_yaxis()
ax.set(xlim=(0.5, 1), xlabel="AUROC (0.5 = chance)")
ax.legend(loc="upper center", bbox_to_anchor=(0.4, 1.13), ncols=3, frameon=False)
plt.show()

# %%
# What follows
# ------------
#
# On these tables the nearest neighbour is about as good, better at some kinds of anomaly and worse
# at others, and differences of a hundredth may be chance. If a ranking is all you need, take it. It
# keeps all training samples, though, and its distance is only a number. The detector also says
# which product a sample is, how rare such a score is among good samples, and from where to raise an
# alarm:

found = detector.inspect(as_table(fresh))
print(f"product recognised: {np.mean(found.class_label == fresh_digit):.1%}")
print(f"good samples flagged, 5 % intended: {found.is_anomaly.mean():.1%}")

# %%
# For pictures the comparison is another one, because the detector then judges maps of features. The
# :doc:`benchmarks </benchmarks>` compare it with nearest neighbours there (PatchCore).
