"""
Looking inside: training, latent space and scores
=================================================

``skhgad.display`` holds four pictures of a fitted detector, in the manner of scikit-learn's
displays. ``from_estimator`` computes and draws. Two of them look inside: how the training went, and
where the products lie in the space in which the detector judges them.

The data are scikit-learn's handwritten digits, 64 numbers for each. Every digit is a product. To
make anomalies, we join the upper half of one digit to the lower half of a digit of another class.
"""

# sphinx_gallery_thumbnail_number = 3

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skhgad import HGADDetector

digits = load_digits()
names = np.array([f"digit {k}" for k in range(10)])
X_train, fresh, k_train, k_fresh = train_test_split(
    digits.data, digits.target, test_size=500, stratify=digits.target, random_state=0
)
lower = np.array([fresh[k_fresh == (k + 1) % 10][i % 40] for i, k in enumerate(k_fresh)])
mixed = np.hstack([fresh[:, :32], lower[:, 32:]])

figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for row, title, samples in zip(axes, ("fresh", "mixed"), (fresh, mixed), strict=True):
    for ax, sample in zip(row, samples, strict=False):
        ax.imshow(sample.reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(title)
plt.show()

# %%
# How did the training go?
# ------------------------
#
# ``TrainingCurveDisplay`` draws ``history_``: the loss and its terms in each pass over the training
# data. Some terms join in the third pass here, so their curves start there and the loss jumps.
# Later the loss falls, while single terms may rise, because only their weighted sum is minimised. A
# loss that still falls at the end asks for a larger ``max_iter``. We take more passes than the
# default does, for a longer curve.

from skhgad.display import LatentSpaceDisplay, ScoreDistributionDisplay, TrainingCurveDisplay

detector = HGADDetector(max_iter=20, random_state=0).fit(X_train, names[k_train])
TrainingCurveDisplay.from_estimator(detector)
plt.show()

# %%
# Where do the products lie?
# --------------------------
#
# The detector maps every sample to a *latent space*, in which each product is a normal distribution
# with several centers. ``LatentSpaceDisplay`` shows the two directions of that space in which
# samples and centers differ most. Fresh digits lie around the means of their products. Mixed digits
# are drawn hollow. They do not stand apart here: two directions out of 64 show only a small part of
# the distances, and the axes say how small. The scores below use all directions.

samples = np.concatenate([fresh[:200], mixed[:60]])
LatentSpaceDisplay.from_estimator(detector, samples, y=np.repeat([1, -1], [200, 60]))
plt.show()

# %%
# What do the scores say?
# -----------------------
#
# ``ScoreDistributionDisplay`` has a row for each product. We pass the labels of the upper half, so
# that mixed digits stand in the row of that half. The scores themselves are computed with the
# product inferred.

scores = detector.score_samples(np.concatenate([fresh, mixed]))
ScoreDistributionDisplay.from_predictions(
    np.repeat([1, -1], 500), scores, np.tile(names[k_fresh], 2), offset=detector.offset_
)
plt.show()
print(f"fresh digits flagged: {np.mean(scores[:500] < detector.offset_):.0%}")
print(f"mixed digits flagged: {np.mean(scores[500:] < detector.offset_):.0%}")

# %%
# The fourth display, ``AnomalyMapDisplay``, needs pictures; the first example shows it.
