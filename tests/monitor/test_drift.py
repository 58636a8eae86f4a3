"""DriftMonitor: the promise about false alarms, what it finds, its state and its picture."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest
from small_pictures import draw

from skhgad import HGADDetector
from skhgad.display import DriftDisplay
from skhgad.images.appearance import STATISTICS, appearance_of
from skhgad.monitor import DriftMonitor
from skhgad.monitor.martingale import BETS, DIRECTIONS, Martingale, factors
from skhgad.monitor.ranks import OnlineRanks

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector():
    """Two products of vectors."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (200, 4)), rng.normal(9, 1, (200, 4))])
    return HGADDetector(random_state=0).fit(X, ["bolt"] * 200 + ["nut"] * 200)


def normals(rng, n):
    """Normal samples of both products, in random order."""
    return rng.normal(size=(n, 4)) + 9 * rng.integers(0, 2, (n, 1))


# the parts


def test_online_p_values_are_uniform_and_independent_also_after_ties_and_thinning():
    rng = np.random.default_rng(0)
    ranks = OnlineRanks(rng.normal(size=10).round(1), limit=100)
    p = np.array([ranks.p_value(score, rng) for score in rng.normal(size=4000).round(1)])
    assert 50 <= len(ranks.scores) <= 100
    assert kstest(p, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.05
    # The fixed reference that this replaces is found out by a stream as long.
    fixed = np.searchsorted(np.sort(rng.normal(size=10)), rng.normal(size=4000)) / 10
    assert kstest(fixed, "uniform").pvalue < 1e-6


def test_a_low_score_has_a_low_p_value():
    ranks, rng = OnlineRanks([1.0, 2.0, 3.0], limit=100), np.random.default_rng(0)
    assert ranks.p_value(0.0, rng) < 1 / 4 and ranks.p_value(9.0, rng) > 4 / 5
    assert ranks.scores == [0.0, 1.0, 2.0, 3.0, 9.0]


@pytest.mark.parametrize("defects", ["low", "anywhere"])
def test_defects_win_nothing_where_they_may_lie(defects):
    """A step over uniform p-values and a share of defects at the most favourable place."""
    rate, fair = 0.05, factors(0.05, defects)
    worst = fair[0] if defects == "low" else fair.max(axis=0)
    mean = (1 - rate) * fair.mean(axis=0) + rate * worst
    assert 0.9 < mean.min() <= mean.max() <= 1


def test_every_bet_is_fair_and_bounded():
    assert BETS.mean(1) == pytest.approx(1) and BETS.min() > 0 and BETS.max() <= 4
    assert set(DIRECTIONS) == {"lower", "higher", "wider", "narrower"}


def test_the_capital_is_a_martingale_and_with_defects_never_more():
    """Its mean over one step: over uniform p-values, and with a share of them at 0."""
    p_values = (np.arange(20) + 0.5) / 20
    for rate in (0.0, 0.1):
        before = Martingale(rate)
        for p_value in (0.01, 0.3, 0.02):
            before.update(p_value)
        after = []
        for p_value in (*p_values, 0.0):
            martingale = Martingale(rate)
            martingale.restore(before.stakes, before.n_seen)
            after.append(martingale.update(p_value))
        mean = np.mean(after[:-1])
        if rate == 0:
            assert mean == pytest.approx(before.capital)
        assert (1 - rate) * mean + rate * after[-1] <= before.capital + 1e-12


@pytest.mark.once
def test_false_alarms_are_within_the_promise_also_with_defects():
    """100 streams of 400 at 5 %: 5 alarms are promised at most; 13 would be chance of 0.1 %."""
    rng, alarms = np.random.default_rng(0), {0.0: 0, 0.02: 0}
    for rate in alarms:
        for _ in range(100):
            ranks, martingale = OnlineRanks(rng.normal(size=40), 20_000), Martingale(0.03)
            scores = rng.normal(size=400) - 50 * (rng.random(400) < rate)
            capitals = [martingale.update(ranks.p_value(score, rng)) for score in scores]
            alarms[rate] += max(capitals) >= 20
    assert max(alarms.values()) < 13, alarms


# the monitor


def test_no_alarm_without_drift_and_one_of_each_kind(detector):
    rng = np.random.default_rng(1)
    monitor = DriftMonitor(detector).update(normals(rng, 600))
    assert monitor.alarm_ is None and monitor.n_seen_ == 600
    assert 0 < monitor.evidence_ < 100
    state = monitor.to_dict()
    lower = DriftMonitor.from_dict(state, detector).update(1.6 * normals(rng, 120))
    assert lower.alarm_.direction == "lower" and 600 < lower.alarm_.n_seen < 720
    assert lower.alarm_.evidence >= 100
    # All vectors near a center score higher than normal ones do: what blur does to pictures.
    center = 9.0 * rng.integers(0, 2, (120, 1)) + 0.3 * rng.normal(size=(120, 4))
    higher = DriftMonitor.from_dict(state, detector).update(center)
    assert higher.alarm_.direction == "higher" and higher.alarm_.product == "all products"


def test_a_drift_of_one_product_names_it(detector):
    rng = np.random.default_rng(2)
    X = normals(rng, 500)
    is_nut = X.mean(1) > 4
    X[is_nut] = 9 + 2.0 * (X[is_nut] - 9)
    alarm = DriftMonitor(detector).update(X).alarm_
    assert alarm.product == "nut" and alarm.direction == "lower"


def test_rare_defects_are_no_drift(detector):
    rng = np.random.default_rng(3)
    X = normals(rng, 1000)
    X[rng.random(1000) < 0.02] += 40
    assert DriftMonitor(detector).update(X).alarm_ is None
    assert DriftMonitor(detector).update(X[:50] + 40).alarm_ is not None  # nothing but defects


def test_a_restored_monitor_goes_on_as_if_never_interrupted(detector, tmp_path):
    rng = np.random.default_rng(4)
    X = np.concatenate([normals(rng, 150), 1.7 * normals(rng, 150)])
    whole, path = DriftMonitor(detector, burn_in=10).update(X), tmp_path / "drift.json"
    monitor = DriftMonitor(detector, burn_in=10)
    for first in range(0, 300, 50):
        monitor.update(X[first : first + 50])
        monitor.save(path)
        monitor = DriftMonitor.load(path, detector)
    assert monitor.to_dict() == whole.to_dict() and monitor.alarm_ == whole.alarm_ is not None
    assert np.array_equal(monitor.history_, whole.history_) and len(whole.history_) == 300
    X = np.random.default_rng(0).normal(size=(40, 4))
    other = HGADDetector(random_state=0).fit(X)
    with pytest.raises(ValueError, match="drift.json.*of another detector"):
        DriftMonitor.load(path, other)
    for text in ("{", "[]", json.dumps({**whole.to_dict(), "streams": None})):
        path.write_text(text)
        with pytest.raises(ValueError, match="cannot be used"):
            DriftMonitor.load(path, detector)


def _with(state, path, value):
    """Return a copy of a state with another value at a path such as ("streams", "score")."""
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return state


def test_a_damaged_state_is_refused_not_half_taken(detector, tmp_path):
    """Each of these was taken, or raised what no caller expects, and ended a server's thread."""
    state = DriftMonitor(detector).update_scores([0.0] * 3, ["bolt"] * 3).to_dict()
    score = ("streams", "score")
    for path, value in (
        (("every",), 0),
        (("every",), 1.5),
        (("history",), "abc"),
        (("history",), None),
        (("history",), [[1], [2, 3]]),
        (("n_seen",), "5"),
        (("n_unknown",), None),
        (("burnt",), ["a", "b"]),
        (("alarm",), ["x", None, 3, "y", "z"]),
        (("alarm",), "abcd"),
        (("generator", "state", "state"), -1),
        ((*score, "references", 0), [float("nan")]),
        ((*score, "references", 0), [10**400]),
        ((*score, "martingales", 0, "stakes"), [float("nan")] * len(BETS)),
        ((*score, "martingales", 0, "stakes"), [-1.0] * len(BETS)),
        ((*score, "martingales", 0, "stakes"), 5.0),
        ((*score, "martingales", 0, "n_seen"), -200),
    ):
        with pytest.raises(ValueError, match="the state is damaged"):
            DriftMonitor.from_dict(_with(state, path, value), detector)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json.*cannot be used"):
        DriftMonitor.load(tmp_path / "deep.json", detector)


def test_a_state_is_a_copy_and_numbers_of_numpy_can_be_saved(detector, tmp_path):
    monitor = DriftMonitor(
        detector,
        burn_in=np.int64(1),
        false_alarm_probability=np.float32(0.25),
        classes_given=np.bool_(True),
        random_state=np.int64(3),
    )
    state = monitor.to_dict()
    monitor.update_scores([0.0], ["bolt"])
    assert state["history"] == []
    DriftMonitor.from_dict(state, detector).update_scores([0.0], ["bolt"])
    assert state["history"] == []
    monitor.save(tmp_path / "drift.json")
    assert DriftMonitor.load(tmp_path / "drift.json", detector).to_dict() == monitor.to_dict()


def test_a_state_of_an_older_version_is_refused_by_name(detector, tmp_path):
    path = tmp_path / "drift.json"
    path.write_text(json.dumps({**DriftMonitor(detector).to_dict(), "version": 1}))
    with pytest.raises(ValueError, match="drift.json.*version 1.*begin with a new monitor"):
        DriftMonitor.load(path, detector)


# of pictures


def test_how_pictures_look_is_watched_beside_their_scores(small_detector, tmp_path):
    """The scores stay; the pictures get 10 % brighter, blurred, or flatter."""
    rng = np.random.default_rng(0)
    labels = rng.choice(["checker", "stripe"], 400)
    scores = rng.choice(small_detector.model_.calibration.scores, 400)
    kept = small_detector.model_.appearances
    looks = kept.x[rng.integers(0, len(kept.x), 400)]
    monitor = DriftMonitor(small_detector).update_scores(scores, labels, looks)
    assert monitor.alarm_ is None
    state = monitor.to_dict()
    for name, factor, direction in (
        ("brightness", 1.1, "higher"), ("contrast", 0.7, "lower"), ("sharpness", 0.7, "lower"),
    ):  # fmt: skip
        changed = looks.copy()
        changed[:, STATISTICS.index(name)] *= factor
        own = DriftMonitor.from_dict(state, small_detector)
        alarm = own.update_scores(scores, labels, changed).alarm_
        assert (alarm.statistic, alarm.direction) == (name, direction) and alarm.n_seen < 460
        assert alarm.text.startswith(f"the {name} of pictures of {alarm.product} is {direction}")
        parts = own.statistic_evidence_
        mean = np.mean([parts[part]["stripe"] for part in parts])
        assert own.product_evidence_["stripe"] == pytest.approx(mean)
    defects = looks.copy()
    defects[rng.random(400) < 0.02] = 9
    own = DriftMonitor.from_dict(state, small_detector).update_scores(scores, labels, defects)
    assert own.alarm_ is None
    # Half of them measured: the others are judged by their scores alone.
    looks[::2] = np.nan
    own = DriftMonitor.from_dict(state, small_detector).update_scores(scores, labels, looks)
    assert own.n_seen_ == 800 and own.alarm_ is None


def test_pictures_are_measured_as_they_are_scored(small_detector):
    rng = np.random.default_rng(0)
    pictures = [draw(rng, "stripe") for _ in range(6)]
    found = small_detector.inspect(pictures)
    looks = [appearance_of(picture) for picture in pictures]
    given = DriftMonitor(small_detector).update_scores(found.score, found.class_label, looks)
    measured = DriftMonitor(small_detector).update(pictures)
    assert measured.to_dict() == given.to_dict()
    assert all(part["stripe"] != 1 for part in measured.statistic_evidence_.values())


def test_a_model_without_appearances_compares_with_the_stream(small_detector):
    older = copy.copy(small_detector)
    older.model_ = replace(small_detector.model_, appearances=None)
    rng = np.random.default_rng(0)
    looks = rng.normal(1, 0.05, (300, 3))
    looks[200:, 0] *= 1.2
    scores = rng.choice(small_detector.model_.calibration.scores, 300)
    alarm = DriftMonitor(older).update_scores(scores, ["stripe"] * 300, looks).alarm_
    assert alarm.statistic == "brightness" and 200 < alarm.n_seen < 260


def test_burn_in_joins_the_reference_without_a_bet(detector):
    rng = np.random.default_rng(5)
    X = normals(rng, 1000)
    X += rng.normal(0, 0.8, X.shape)  # a little unlike the fit from the first day on
    assert DriftMonitor(detector).update(X).alarm_ is not None
    assert DriftMonitor(detector, burn_in=300).update(X).alarm_ is None


def test_scores_that_were_given_already_are_the_same(detector):
    X = normals(np.random.default_rng(6), 50)
    found = detector.inspect(X)
    monitor = DriftMonitor(detector).update_scores(found.score, found.class_label)
    assert monitor.to_dict() == DriftMonitor(detector).update(X).to_dict()
    monitor.update_scores([0.0], ["unknown"])
    assert (monitor.n_unknown_, monitor.n_seen_) == (1, 51)
    given = DriftMonitor(detector, classes_given=True)
    assert given.update(X, class_labels=found.class_label).n_seen_ == 50


def test_what_cannot_be_used_is_named(detector):
    monitor = DriftMonitor(detector)
    with pytest.raises(ValueError, match=r"scores\[1\] is not finite"):
        monitor.update_scores([0.0, np.nan], ["bolt", "bolt"])
    with pytest.raises(ValueError, match="of one length"):
        monitor.update_scores([0.0], ["bolt", "bolt"])
    assert monitor.n_seen_ == 0
    with pytest.raises(ValueError, match="class_labels are given"):
        monitor.update(np.zeros((1, 4)), class_labels=["bolt"])
    with pytest.raises(ValueError, match="fitted on vectors"):
        monitor.update_scores([0.0], ["bolt"], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        monitor.update_scores([0.0], ["bolt"], [[0, 0]])
    for wrong in ({"false_alarm_probability": 0}, {"defect_rate": 1.0}, {"burn_in": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DriftMonitor(detector, **wrong)
    for wrong in (2.5, float("nan"), "3"):
        with pytest.raises(TypeError, match="burn_in must be an int"):
            DriftMonitor(detector, burn_in=wrong)
    for wrong in (np.random.default_rng(0), 1.0, "3"):
        with pytest.raises(TypeError, match="random_state must be an int or None"):
            DriftMonitor(detector, random_state=wrong)
    with pytest.raises(ValueError, match="random_state must be at least 0"):
        DriftMonitor(detector, random_state=-1)


@pytest.mark.parametrize("change", ["update", "add_class", "forget"])
def test_a_detector_that_has_changed_needs_a_new_monitor(detector, tmp_path, change):
    X, changed = normals(np.random.default_rng(0), 20), copy.deepcopy(detector)
    monitor = DriftMonitor(changed).update(X)
    changed.set_threshold(false_alarm_rate=0.2)  # scores stay
    assert monitor.update(X).n_seen_ == 40
    if change == "forget":
        changed.forget("nut")
    else:
        getattr(changed, change)(X - 20, "bolt" if change == "update" else "washer")
    for call in (
        lambda: monitor.update(X),
        lambda: monitor.update_scores([0.0], ["bolt"]),
        lambda: monitor.save(tmp_path / "drift.json"),
    ):
        with pytest.raises(ValueError, match="detector has changed.*new monitor"):
            call()
    assert set(monitor.product_evidence_) == {"bolt", "nut", "all products"}
    assert monitor.n_seen_ == 40 and DriftMonitor(changed).update(X).n_seen_ == 20


def test_a_long_history_is_thinned(detector, monkeypatch):
    monkeypatch.setattr("skhgad.monitor.drift._LONGEST_HISTORY", 10)
    monitor = DriftMonitor(detector).update(normals(np.random.default_rng(0), 45))
    assert monitor.history_[:, 0].tolist() == [8, 16, 24, 32, 40]


def test_the_display_shows_evidence_limit_and_alarm(detector):
    rng = np.random.default_rng(1)
    monitor = DriftMonitor(detector).update(normals(rng, 50))
    display = DriftDisplay.from_monitor(monitor)
    assert display.alarm_line_ is None
    assert np.array_equal(display.line_.get_ydata(), monitor.history_[:, 1])
    assert display.limit_line_.get_ydata()[0] == pytest.approx(2)
    monitor.update(3 * normals(rng, 50))
    display = DriftDisplay.from_monitor(monitor, ax=display.ax_)
    assert display.alarm_line_.get_xdata()[0] == monitor.alarm_.n_seen
