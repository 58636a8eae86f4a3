"""
Tables: a pipeline with a grid search
=====================================

The detector takes tables of measurements as well as pictures, and it is an ordinary scikit-learn
estimator. So it goes into a pipeline behind a scaler, and ``GridSearchCV`` chooses its parameters.

The table here is scikit-learn's wine data: 13 measurements of 178 wines from three cultivars. We
play a laboratory that knows two cultivars and must notice wine of the third.
"""

# %%
# Normal and anomalous rows
# -------------------------
#
# ``y`` is +1 for normal rows and -1 for known anomalies, as everywhere in scikit-learn. The
# detector leaves the rows labelled -1 out of its fit. They serve to choose parameters and to test.
# Half of the rows is put aside for the test.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

X, cultivar = load_wine(return_X_y=True)


def split(foreign):
    """Call one cultivar anomalous and put half of the rows aside."""
    y = np.where(cultivar == foreign, -1, 1)
    return train_test_split(X, y, test_size=0.5, stratify=cultivar, random_state=0)


X_train, X_test, y_train, y_test = split(foreign=1)
print(f"to learn: {(y_train == 1).sum()} normal rows and {(y_train == -1).sum()} anomalies")
print(f"to test: {(y_test == 1).sum()} normal rows and {(y_test == -1).sum()} anomalies")

# %%
# A pipeline and a search
# -----------------------
#
# Alcohol is measured in per cent and proline in milligrams, so a scaler should come first. The
# search checks that: it tries ``StandardScaler`` and no scaler ("passthrough"). It also tries three
# values of ``whitening_shrinkage``. It says how strongly the covariance of the measurements is
# drawn towards that of independent measurements of equal spread.
#
# ``scoring="roc_auc"`` judges each candidate by how well it separates the normal rows from the
# anomalies of the part that it has not learned from. The folds must be shuffled or stratified, so
# that each holds both kinds. Here anomalies only judge: ``known_anomalies="ignore"`` keeps them out
# of the fit, which else would learn from them, too.
#
# ``fit`` warns of measurements in very different units, and of thresholds that rest on few normal
# rows. Both are on purpose here, and a search would say so at every fit, so we silence them.

import warnings

from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector

warnings.filterwarnings("ignore", message="the features of X have very different units")
warnings.filterwarnings("ignore", message="too few held-out normals")

search = GridSearchCV(
    Pipeline(
        [
            ("scaler", StandardScaler()),
            ("detector", HGADDetector(known_anomalies="ignore", random_state=0)),
        ]
    ),
    {
        "scaler": [StandardScaler(), "passthrough"],
        "detector__whitening_shrinkage": [0.1, 0.5, 0.9],
    },
    scoring="roc_auc",
    cv=StratifiedKFold(5, shuffle=True, random_state=0),
)
search.fit(X_train, y_train)
print("chosen:", search.best_params_)
print(f"AUROC in cross-validation {search.best_score_:.3f}")
print(f"AUROC on the rows put aside {search.score(X_test, y_test):.3f}")

# %%
# Every bar is the mean of five folds; the thin line is their standard deviation. Differences that
# are smaller than that may be chance.

results = search.cv_results_
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
names = [
    f"{'no scaler' if row['scaler'] == 'passthrough' else 'StandardScaler'}, "
    f"shrinkage {row['detector__whitening_shrinkage']}"
    for row in results["params"]
]
ax.barh(names, results["mean_test_score"], xerr=results["std_test_score"], color="tab:blue")
ax.set(xlabel="AUROC (0.5 = chance)", title="Grid search, five folds", xlim=(0.5, 1.03))
ax.invert_yaxis()
plt.show()

# %%
# The scores of the rows put aside
# --------------------------------
#
# The fitted search is a detector. ``offset_``, its threshold, was set without any anomaly. It rests
# on few normal rows, each judged by a model that did not see it, so it is uncertain; the example on
# thresholds shows how uncertain.

from skhgad.display import ScoreDistributionDisplay

detector = search.best_estimator_[-1]
verdict = search.predict(X_test)
print(f"normal rows flagged: {np.mean(verdict[y_test == 1] == -1):.0%}")
print(f"anomalies found: {np.mean(verdict[y_test == -1] == -1):.0%}")

display = ScoreDistributionDisplay.from_predictions(
    y_test, search.score_samples(X_test), offset=detector.offset_
)
display.ax_.set_yticks([])
plt.show()

# %%
# Was that luck?
# --------------
#
# We chose which cultivar is foreign. Here each of the three takes the part, with the settings that
# the search has chosen, beside an isolation forest, which is learned from the same normal rows.

from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

ours, forests = [], []
for foreign in range(3):
    X_train, X_test, y_train, y_test = split(foreign)
    chosen = clone(search.best_estimator_).fit(X_train, y_train)
    ours.append(roc_auc_score(y_test, chosen.score_samples(X_test)))
    forest = IsolationForest(random_state=0).fit(X_train[y_train == 1])
    forests.append(roc_auc_score(y_test, forest.decision_function(X_test)))
    print(f"cultivar {foreign} foreign: {ours[-1]:.3f}, isolation forest {forests[-1]:.3f}")
print(f"mean {np.mean(ours):.3f}, isolation forest {np.mean(forests):.3f}")

# %%
# A search without known anomalies
# --------------------------------
#
# Without ``scoring``, the search uses the detector's own ``score``: the mean score of normal rows.
# It needs no anomaly, but it cannot notice a detector that misses anomalies. Where a few anomalies
# are known, ``scoring="roc_auc"`` is the better judge.
