"""Warnings of `fit`, `add_class` and `update`: data that will hardly give what the user wants.

Each function warns at most once and says what was found and what to do. Only the first of several
processes should call them.
"""

import math
import re
import unicodedata

import numpy as np

from ..caller import warn_caller
from ..parameters import image_size
from ..scoring.calibration import FALSE_ALARM_RATE, samples_needed
from ..validation import listed
from .folds import HELD_OUT
from .odd_columns import marks_of_missing, running_numbers

# Spreads relative to the median. A feature with 100 times the others' spread already hides what
# happens in these. Small spreads alone are common in embeddings, whose units are the same.
_LARGE, _SMALL = 100, 1e-5
_ENLARGED = 4  # times in both directions
_SMALLEST_INPUT = 32  # pixels a side: the coarsest stride of a usual backbone
_TAKEN_FOR_ANOTHER = 0.8  # share of samples; of two products that look the same it is a half
_FEWEST_TAKEN = 3


def _plain(name):
    """Return the letters and digits of a name, in lower case and without accents."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", str(name))).casefold()


_MARK = re.compile(r"\s*-1(\.0*)?\s*")  # what becomes of -1 in texts and tables

# Plain words in English, German, French, Spanish, Italian, Dutch, Chinese and Japanese.
_DEFECT_NAMES = frozenset(map(_plain, """
    abnormal anomalies anomalous anomaly attack bad broken contaminated damaged defect defective
    defects dirty fail failed fault faulty flawed fraud malignant ng nogood nok nonconforming
    notgood notok outlier outliers reject rejected rejects sick
    ausschuss defekt defekte fehler fehlerhaft n.i.O. schlecht
    défaut défauts défectueux mauvais mauvaise
    defecto defectos defectuoso malo malos
    difetti difetto difettoso scarto
    afgekeurd fout slecht
    不良 不良品 不合格 不合格品 異常 异常 欠陥 缺陷
    """.split()))  # fmt: skip
_GOOD_NAMES = frozenset(map(_plain, """
    accepted benign clean conforming fine flawless good healthy inlier inliers normal normals ok
    okay pass passed
    gut i.O.
    bon bonne bons conforme
    bueno buenos
    buoni buono
    goed
    良品 合格 合格品 正常
    """.split()))  # fmt: skip
_ANSWERS = ({"0", "1"}, {"false", "true"}, {"no", "yes"}, {"negative", "positive"})


def _is_defect(name):
    """Whether a name, or the last word of one such as "bolt_ng", is that of defects."""
    last = re.split(r"[\W_]+", str(name))[-1]
    return not _DEFECT_NAMES.isdisjoint((_plain(name), _plain(last)))


def warn_of_labels(classes, *, marks_anomalies):
    """Warn where the classes look like good and defective, not like products.

    `classes` are as from `check_y`. `marks_anomalies` tells whether y has the label -1 as well; 0
    and 1, or "yes" and "no", are products then.
    """
    names = classes.tolist()
    marks = [name for name in names if isinstance(name, str) and _MARK.fullmatch(name)]
    if marks:
        warn_caller(
            f"y names the classes {marks}, taken for products whose samples are normal: "
            f"only -1 and '-1' mark known anomalies. If these do, pass "
            f"np.where(np.isin(y, {marks}), '-1', y)."
        )
    if {_plain(name) for name in names} in _ANSWERS:
        if not marks_anomalies:
            zero, one = map(repr, names)
            warn_caller(
                f"y holds {zero} and {one}, taken for two products, both normal. If "
                f"{one} marks defects, pass np.where(np.asarray(y) == {one}, -1, 1); if {zero} "
                f"does, pass np.where(np.asarray(y) == {zero}, -1, 1). If both are products, give "
                f"them names: np.where(np.asarray(y) == {one}, 'B', 'A')."
            )
        return
    defects = [name for name in names if _is_defect(name)]
    good = [name for name in names if _plain(name) in _GOOD_NAMES]
    if defects:
        warn_caller(
            f"y names the classes {defects}, taken for products whose samples are "
            f"normal. If they are defects, pass np.where(np.isin(y, {defects}), '-1', y): -1 marks "
            "known anomalies."
        )
    elif good and len(good) < len(names):
        others = [name for name in names if name not in good]
        warn_caller(
            f"y names the classes {listed(map(repr, others))} beside {good}, all of them "
            f"taken for products whose samples are normal. If only {good} are, pass "
            f"np.where(np.isin(y, {good}), y, '-1'): -1 marks known anomalies."
        )


def warn_of_far_cells(X, cells, names=None):
    """Name the cells, from `far_cells`, whose rows take no part in the fit.

    For X and names, see `warn_of_spreads`; the rows of the cells are those of X.
    """
    if not cells:
        return
    found = [f"X[{row}, {_name(column, names)}] = {X[row, column]:.6g}" for row, column in cells]
    warn_caller(
        f"{listed(found)}: more than 50 times as far from the median as any other normal sample of "
        "the class. Their rows take no part in the fit, as one would spoil means and covariances; "
        "they count as normal samples that calibrate the threshold. If they are codes for missing "
        "values or errors, remove or impute them, or give these rows the label -1; if they are "
        "right, use a transformation such as a logarithm."
    )


def warn_of_columns(X, codes, names=None):
    """Warn of columns of other units, and of those that hardly are measurements.

    Parameters as of `warn_of_spreads`.
    """
    warn_of_spreads(X, codes, names)
    warn_of_marks(marks_of_missing(X), len(X), names)
    warn_of_running_numbers(running_numbers(X), names)


def warn_of_marks(marks, n_samples, names=None):
    """Name the values, a list of Mark, that seem to stand for missing ones in columns of a table.

    `names` are those of the features.
    """
    if not marks:
        return
    found = [
        f"{_feature(column, names)} is {value:g} in {n_rows} of {n_samples} rows"
        for column, value, n_rows in marks
    ]
    warn_caller(
        f"{listed(found)}, far from all its other values, as marks of missing values are. It is "
        "taken for a measurement. If it is a mark, it hides what the others tell: where every "
        "tenth cell is one, broken relations are not found at all. Then put NaN in its place, and "
        "fill the gaps: make_pipeline(KNNImputer(), HGADDetector())."
    )


def warn_of_running_numbers(columns, names=None):
    """Name the columns that seem to number the rows; see `running_numbers`."""
    if not columns:
        return
    found = listed(_feature(column, names) for column in columns)
    warn_caller(
        f"{found} of X rises or falls from row to row by even steps, as a running number or a time "
        "does. Later rows lie outside of what it was, so that all of them may be flagged. Leave it "
        "out, unless it is a measurement."
    )


def warn_of_samples_apart(rows, n_normal):
    """Name the samples that `discover_classes` left out, by their rows (n,) in X."""
    if not len(rows):
        return
    warn_caller(
        f"{len(rows)} of {n_normal} normal samples take no part in the fit and its threshold: "
        f"{listed([f'X[{row}]' for row in rows])}. They are far from the classes discovered, or "
        "form a group too small for one, as defects among the normal samples do. If they are "
        "defects, give them the label -1; if they are normal, name the products in y."
    )


def warn_of_repeats(found, classes, method="fit"):
    """Warn of classes, a list of Repeats, whose samples look like repeats of the same parts.

    `method` of the estimator was given the samples.
    """
    if not found:
        return
    texts = [
        f"of {one.n_samples} normals of class {classes.tolist()[one.code]!r} "
        f"{100 * one.share:.0f} % are much nearer to one of the {one.width} before and after them, "
        f"in the order given, than to any other (by chance at most {100 * one.chance:.2g} %)"
        for one in found
    ]
    warn_caller(
        f"{listed(texts)}, as if parts were repeated: the false-alarm rate promised then does not "
        f"hold for new parts. Say which samples belong together with {method}(..., groups=), or "
        "--groups on the command line."
    )


def warn_of_copies(numbers, codes, classes, name):
    """Warn of classes with copies; `numbers` (n_samples,) from `copies_of_vectors`, or None.

    `name` names the sample in a row of X.
    """
    if numbers is None:
        return
    texts, again = [], numbers != np.arange(len(numbers))
    for code in np.unique(codes[again]).tolist():
        rows = np.flatnonzero(again & (codes == code))
        texts.append(
            f"{len(rows)} of {np.count_nonzero(codes == code)} normals of class "
            f"{classes.tolist()[code]!r} are copies of others, as {name(rows[0])} is of "
            f"{name(numbers[rows[0]])}"
        )
    warn_caller(
        f"{listed(texts)}. A sample and its copies count as one part, and one of them calibrates, "
        "because a model that has seen one knows the others. If they are independent samples that "
        "happen to be equal, give each a part of its own: groups=range(len(X))."
    )


def warn_of_wrong_names(found, X, rows, classes):
    """Name the samples, a list of WrongName, whose class in y seems wrong.

    `rows` are those in X, an ImageSource or ndarray, of the samples by their numbers.
    """
    if not found:
        return
    labels, texts = classes.tolist(), []
    for one in found:
        row = int(rows[one.number])
        name = f"X[{row}]" if isinstance(X, np.ndarray) else X.name(row)
        texts.append(f"{name}, {labels[one.code]!r} that looks like {labels[one.looks_like]!r}")
    samples = "1 normal sample" if len(found) == 1 else f"{len(found)} normal samples"
    warn_caller(
        f"y seems to name the wrong class of {samples}: {listed(texts)}. Models that had not seen "
        "them find them unusual for the class named and usual for the other one. Look at them, and "
        "correct y where it is wrong: what is named wrongly counts as normal for its class."
    )


def warn_of_small_classes(codes, rows):
    """Name the classes that `discover_classes` found and that may be a group of defects.

    `codes` are those of the samples `rows` (n,) of X.
    """
    sizes = np.bincount(codes)
    small = np.flatnonzero((sizes < np.median(sizes) / 2) & (sizes <= 0.15 * len(codes)))
    if len(small):
        found = [
            f"class {code} has {sizes[code]} of {len(codes)} samples, "
            + listed(f"X[{row}]" for row in rows[codes == code])
            for code in small.tolist()
        ]
        warn_caller(
            f"{listed(found)}: much fewer than other classes discovered, and taken for a product. "
            "If they are defects, give them the label -1; predict_class(X) tells which they are."
        )


def _feature(column, names):
    return f"feature {column}" if names is None else _name(column, names)


def _name(column, names):
    return column if names is None else repr(str(names[column]))


def warn_of_spreads(X, codes, names=None):
    """Warn where features have spreads of other orders of magnitude than the others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
        Normal samples.
    codes : ndarray of shape (n_samples,), int64
        Their classes. Spreads are standard deviations within classes.
    names : ndarray of shape (n_features,), default=None
        Names of the features.
    """
    spreads = _spreads_within_classes(X, codes)
    varying = np.flatnonzero(spreads > 1e-12 * np.abs(X).max(axis=0))
    if not len(varying):
        return
    typical = np.percentile(spreads[varying], 50, method="lower")
    with np.errstate(over="ignore"):
        relative = spreads[varying] / typical
    far = varying[(relative > _LARGE) | (relative < _SMALL)]
    if not len(far):
        return
    far = far[np.argsort(-spreads[far], kind="stable")]
    found = [f"{_feature(i, names)} has {spreads[i]:.3g}" for i in far]
    warn_caller(
        f"the features of X have very different units: their median standard deviation is "
        f"{typical:.3g}, but {listed(found)}. The detector hardly sees what happens in the "
        "smaller ones. Scale them first: make_pipeline(StandardScaler(), HGADDetector())."
    )


def _spreads_within_classes(X, codes):
    """Return the standard deviation (n_features,) of each feature within classes."""
    largest = np.abs(X).max(axis=0)
    units = np.where(largest > 0, largest, 1)  # the squares of tiny values would be 0
    squares = np.zeros(X.shape[1])
    for code in np.unique(codes):
        of_class = X[codes == code] / units
        squares += ((of_class - of_class.mean(axis=0)) ** 2).sum(axis=0)
    return units * np.sqrt(squares / len(X))


def warn_of_enlarged_images(source, rows, sizes, parameters):
    """Warn of images much smaller than `image_size`.

    Parameters
    ----------
    source : ImageSource
    rows : ndarray of shape (n,)
        Positions in it of the images that were read.
    sizes : ndarray of shape (n, 2)
        Their height and width in pixels.
    parameters : dict
        Of the detector.
    """
    target = image_size(parameters["image_size"])
    enlarged = np.flatnonzero((_ENLARGED * sizes < target).all(axis=1))
    if not len(enlarged):
        return
    smallest = enlarged[np.argmin(sizes[enlarged].prod(axis=1))]
    height, width = sizes[smallest].tolist()
    side = max(_SMALLEST_INPUT, _ENLARGED * max(height, width))
    warn_caller(
        f"{len(enlarged)} of {len(sizes)} images have sides under a quarter of image_size "
        f"({target[0]} x {target[1]}): {source.name(int(rows[smallest]))} has {height} x {width} "
        "pixels (height x width). They are enlarged, which adds no detail. Pass the images as "
        f"large as they were taken, or set image_size nearer to theirs, e.g. image_size={side}."
    )


def warn_of_anomalies_outside(names):
    """Warn of known anomalies, by name, whose masks mark nothing that a model sees."""
    warn_caller(
        f"{listed(names)}: known anomalies whose masks mark nothing inside the region of interest "
        "were left out. Correct mask or region, or pass None as mask where the defect is not "
        "marked."
    )


def warn_uncalibrated(codes, classes, calibrates, parts=None, *, knows_others=False):
    """Warn of classes that are too small to spare samples from training.

    `classes` holds the labels by code. `calibrates` tells which samples are left out of a training.
    `parts` tells that parts are counted, not samples; `knows_others` that there are other,
    calibrated classes.
    """
    missing = np.setdiff1d(codes, codes[calibrates])
    if not len(missing):
        return
    source = "training samples"
    if calibrates.any() or knows_others:
        source = "the other classes' held-out normals"
    samples = "samples" if parts is None else "parts"
    warn_caller(
        f"fewer than 5 normal {samples} of class {classes[missing].tolist()[:10]}: all were used "
        f"for training, and scores, offset_ and p-values of these classes rest on {source}."
    )


def warn_of_few_calibrating(counts, classes, parameters, n_groups):
    """Warn where too few normals calibrate the model to keep the promised rate of false alarms.

    `counts`, an ndarray of int, tells how many do of each of `classes`, and `n_groups` how many
    groups `folds.spare` made. Only ``contamination="auto"`` promises a rate.
    """
    if parameters["contamination"] != "auto":
        return
    needed, percent = samples_needed(FALSE_ALARM_RATE), f"{100 * FALSE_ALARM_RATE:g} %"
    names = [f"class {name!r} has" for name in classes.tolist()]
    where = "in every class"
    if not parameters["class_calibration"]:  # one threshold, the rate is promised of all together
        names, where, counts = ["all classes together have"], "in all", counts.sum(keepdims=True)
    few = [
        f"{name} {n} ({_expected(n)})"
        for name, n in zip(names, counts.tolist(), strict=True)
        if n < needed
    ]
    if not few:
        return
    fraction = parameters["validation_fraction"]
    if fraction == "auto" and n_groups == 1:
        fraction = HELD_OUT
    remedy = f"Give more normals {where}."
    if fraction == 0:
        remedy = "validation_fraction=0 holds none out: leave it at 'auto'."
    elif isinstance(fraction, float):
        remedy = (
            f"Give about {math.ceil(needed / fraction)} normals {where}, or let "
            f"validation_fraction='cross' judge all of them in place of {fraction:g}."
        )
    warn_caller(
        f"too few held-out normals to flag only about {percent} of the good samples, which takes "
        f"{needed} {where}: {listed(few)}. {remedy}"
    )


def warn_of_unused_loss(parameters, n_passes):
    """Warn where a loss of the user's was given and "auto" decided not to train."""
    if parameters["loss"] is not None and parameters["max_iter"] == "auto" and not n_passes:
        warn_caller(
            "loss was not used: max_iter='auto' does not train. Set max_iter to a number of passes."
        )


def _expected(n_held_out):
    """Say how many good samples are flagged below the lowest of so many held-out ones."""
    if n_held_out == 0:
        return "most of its good samples may be flagged"
    return f"expect about {100 / (n_held_out + 1):.2g} % to be flagged"


def warn_of_known_samples(name, n_known, n_samples):
    """Warn that new samples, such as one of this name, are left out."""
    warn_caller(
        f"{n_known} of {n_samples} samples, such as {name}, are left out: the model knows "
        "them, or they are given twice."
    )


def warn_of_another_product(codes, inferred, classes):
    """Warn if nearly all new normals of a class are taken for another one.

    `codes` are those given, `inferred` those by models that had not seen the samples.
    """
    for code in np.unique(codes).tolist():
        taken_for = inferred[codes == code]
        other = np.bincount(taken_for[taken_for != code], minlength=len(classes))
        n_other = int(other.max())
        if n_other >= max(_FEWEST_TAKEN, _TAKEN_FOR_ANOTHER * len(taken_for)):
            warn_caller(
                f"{n_other} of {len(taken_for)} new normal samples of class "
                f"{classes.tolist()[code]!r} are taken for class "
                f"{classes.tolist()[int(other.argmax())]!r}. If they are of that class, go back to "
                "the model before and update that one."
            )
