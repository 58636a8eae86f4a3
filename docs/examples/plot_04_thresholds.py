"""
Thresholds and p-values
=======================

A score says which of two samples is less normal. To raise an alarm you need more: a threshold, and
an idea of how often it will be wrong. ``HGADDetector`` answers with two things that need good
samples only. ``offset_`` is a threshold for a chosen rate of false alarms. ``p_values`` gives the
chance that a good sample scores as low as this one.

This example shows what both promise, and how many good samples the promise costs.
"""

# %%
# Ten products
# ------------
#
# The data are scikit-learn's handwritten digits: 64 numbers for each, and ten classes that we take
# for products. Most of them are for the fit; 500 fresh ones are for counting false alarms. As
# anomalies we join the upper half of one digit to the lower half of a digit of another class.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skhgad import HGADDetector

X, digit = load_digits(return_X_y=True)
X_train, fresh, digit_train, digit_fresh = train_test_split(
    X, digit, test_size=500, stratify=digit, random_state=0
)
lower = np.array([fresh[digit_fresh == (k + 1) % 10][i % 40] for i, k in enumerate(digit_fresh)])
mixed = np.hstack([fresh[:, :32], lower[:, 32:]])

detector = HGADDetector(random_state=0).fit(X_train, digit_train)
fresh_scores, mixed_scores = detector.score_samples(fresh), detector.score_samples(mixed)

# %%
# The threshold
# -------------
#
# The model is not fitted to a fifth of the good samples, which it judges (``validation_fraction``;
# of smaller products every sample is judged by a model that has not seen it). ``offset_`` is chosen
# so that about 5 % of samples like them are flagged. Scores under a model that learned from the
# very samples would be too optimistic, because a model fits those better than others.

print(f"offset_ = {detector.offset_:.2f}")
print(f"fresh digits flagged: {np.mean(fresh_scores < detector.offset_):.1%}")
print(f"mixed digits flagged: {np.mean(mixed_scores < detector.offset_):.1%}")

# %%
# ``set_threshold`` moves the threshold to another rate without a new fit. A low rate of false
# alarms costs missed anomalies, and no threshold avoids that.

rates = np.array([0.3, 0.2, 0.1, 0.05, 0.02, 0.01])
offsets = [detector.set_threshold(false_alarm_rate=rate).offset_ for rate in rates]
false_alarms = np.array([np.mean(fresh_scores < offset) for offset in offsets])
missed = np.array([np.mean(mixed_scores >= offset) for offset in offsets])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
bins = np.linspace(-12, 2, 57)
left.hist(fresh_scores.clip(-12), bins, alpha=0.6, density=True, label="fresh digits")
left.hist(mixed_scores.clip(-12), bins, alpha=0.6, density=True, label="mixed digits")
for rate in (0.1, 0.05, 0.01):
    offset = offsets[rates.tolist().index(rate)]
    left.axvline(offset, color="black", linestyle=":")
    left.text(offset, left.get_ylim()[1], f"{rate:.0%}", ha="center", va="bottom")
left.set(xlabel="score (-12 = that or lower)", ylabel="density")
left.legend(loc="upper left", bbox_to_anchor=(0.06, 1))
right.plot(100 * rates, 100 * false_alarms, "o-", label="fresh digits flagged")
right.plot(100 * rates, 100 * missed, "s-", label="mixed digits missed")
right.plot(100 * rates, 100 * rates, "k:", label="as asked for")
right.set(xscale="log", xlabel="false_alarm_rate asked for (%)", ylabel="share (%)")
right.set_xticks([1, 2, 5, 10, 20, 30], ["1", "2", "5", "10", "20", "30"])
right.minorticks_off()
right.legend()
plt.show()

# %%
# How rare is a good sample that scores this low?
# -----------------------------------------------
#
# A p-value of 0.02 means: of good samples, about 2 % score this low. If that holds, the p-values of
# fresh good samples are spread evenly between 0 and 1, and the blue line below follows the
# diagonal. Those of anomalies crowd near 0.

p_fresh, p_mixed = detector.p_values(fresh), detector.p_values(mixed)

figure, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
ax.ecdf(p_fresh, label="fresh digits")
ax.ecdf(p_mixed, label="mixed digits")
ax.plot([0, 1], [0, 1], "k:", label="evenly spread")
ax.set(xlabel="p-value", ylabel="share of samples up to it")
ax.legend(loc="lower right")
plt.show()

# %%
# Too few good samples limit the promise
# --------------------------------------
#
# The p-values compare a sample with the good samples of its class, each judged by a model that did
# not learn from it. With n of them the smallest p-value is 1 / (n + 1). The threshold pools all
# classes, yet it is limited as well: to promise a rate r it needs at least 1 / r - 1 of them. Ask
# for less and it warns.

import warnings

print(f"smallest p-value here: {p_mixed.min():.3f} = 1 / {1 / p_mixed.min():.0f}")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    detector.set_threshold(false_alarm_rate=0.0005)
print(caught[0].message)

# %%
# Few good samples also make the rate uncertain: 5 % is the average over all the samples that could
# have judged it, and a single threshold has more or less. To see how much, we fit many detectors,
# here with a fifth of the samples kept aside in place of five models. Fresh samples must not run
# out, so these are drawn from a normal distribution, for which one Gaussian is the right model
# (``n_components=1``). Every point below is one detector, and its rate is measured on 20,000 fresh
# samples.

rng = np.random.default_rng(0)
fresh = rng.normal(size=(20_000, 5))
kept_aside, flagged = [20, 50, 100, 200, 500], []
for n in kept_aside:
    detectors = [
        HGADDetector(n_components=1, validation_fraction=0.2, random_state=i).fit(
            rng.normal(size=(5 * n, 5))
        )
        for i in range(30)
    ]
    flagged.append([np.mean(detector.predict(fresh) == -1) for detector in detectors])
    low, high = np.percentile(flagged[-1], [5, 95])
    print(
        f"{n:3} good samples kept aside: {np.mean(flagged[-1]):.1%} flagged on average, "
        f"nine of ten detectors between {low:.1%} and {high:.1%}"
    )

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for place, shares in enumerate(flagged):
    ax.plot(place + rng.uniform(-0.2, 0.2, len(shares)), 100 * np.array(shares), "o", alpha=0.5)
ax.axhline(5, color="black", linestyle=":", label="5 %, as promised on average")
ax.set_xticks(range(len(kept_aside)), kept_aside)
ax.set(xlabel="good samples kept aside", ylabel="fresh good samples flagged (%)", ylim=(0, None))
ax.legend()
plt.show()
