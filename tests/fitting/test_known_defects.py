"""Known anomalies in fit: they correct the scores where that helps, and do no harm."""

import json
import pickle

import numpy as np
import pytest
import torch
from backbones import two_levels
from PIL import Image
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skhgad import HGADDetector
from skhgad.fitting import defect_directions
from skhgad.fitting.defect_odds import learn_odds
from skhgad.fitting.judged_samples import peaks
from skhgad.fitting.known_gain import measured_gain
from skhgad.fitting.known_masks import check_masks, marked_positions
from skhgad.scoring.known_anomalies import KnownAnomalies, known_anomalies_text

pytestmark = pytest.mark.usefixtures("one_thread")
N_FEATURES = 8
QUICK = {"random_state": 0, "n_components": 1}


def normals(seed, n, center=0):
    return np.random.default_rng(seed).normal(center, 1, (n, N_FEATURES))


def shifted(seed, n, center=0):
    """Anomalies that all lie in one direction, not far from the normals."""
    X = normals(seed, n, center)
    X[:, 0] += 2.5
    return X


@pytest.fixture(scope="module")
def data():
    X = np.concatenate([normals(0, 60), normals(1, 60, 9), shifted(2, 12)])
    return X, np.repeat(["bolt", "nut", "-1"], [60, 60, 12])


@pytest.fixture(scope="module")
def corrected(data):
    return HGADDetector(**QUICK).fit(*data)


@pytest.fixture(scope="module")
def ignoring(data):
    return HGADDetector(**QUICK, known_anomalies="ignore").fit(*data)


# ---------------------------------------------------------------- what is gained, and where


def test_anomalies_like_the_known_ones_are_found_better(corrected, ignoring):
    X, labels = np.concatenate([normals(3, 300), shifted(4, 300)]), np.repeat([1, 0], 300)
    before = roc_auc_score(labels, ignoring.score_samples(X))
    assert roc_auc_score(labels, corrected.score_samples(X)) > before + 0.03


def test_verdicts_say_what_is_kept_and_why(corrected, ignoring):
    bolt, nut = corrected.known_anomalies_
    assert (bolt.class_label, bolt.n_anomalies, bolt.is_kept) == ("bolt", 12, True)
    assert bolt.gain > bolt.standard_error > 0
    assert (nut.class_label, nut.n_anomalies, nut.is_kept) == ("nut", 0, False)
    assert np.isnan(nut.gain) and np.isnan(nut.standard_error)
    assert ignoring.known_anomalies_ is None


def test_thresholds_hold_for_fresh_normals_and_come_from_normals_alone(corrected):
    assert len(corrected.model_.calibration.scores) == 120
    flagged = corrected.predict(normals(5, 4000)) == -1
    assert 0.01 < flagged.mean() < 0.1  # of 60 calibrating normals a class; 0.05 is meant


@pytest.mark.parametrize("known", [shifted(2, 2), normals(7, 12, 9)], ids=["too few", "no gain"])
def test_without_a_gain_scores_are_those_of_ignore(data, known):
    X, y = data[0][:120], data[1][:120]
    X = np.concatenate([X, known])
    y = np.concatenate([y, ["-1"] * len(known)])
    detector = HGADDetector(**QUICK).fit(X, y)
    ignoring = HGADDetector(**QUICK, known_anomalies="ignore").fit(X, y)
    assert not any(verdict.is_kept for verdict in detector.known_anomalies_)
    assert not len(detector.model_.model.defect_terms)
    np.testing.assert_array_equal(detector.score_samples(X), ignoring.score_samples(X))
    assert detector.offset_ == ignoring.offset_


@pytest.mark.parametrize("given", [{"criterion": "entropy"}, {"map_normalization": "exponential"}])
def test_other_evidence_is_not_corrected(data, given):
    detector = HGADDetector(**QUICK, validation_fraction=0.2, **given).fit(*data)
    assert detector.known_anomalies_ is None


@pytest.mark.parametrize("fraction", [0.2, 0])
def test_normals_that_are_held_out_judge_as_well(data, fraction):
    detector = HGADDetector(**QUICK, validation_fraction=fraction).fit(*data)
    assert detector.known_anomalies_[0].is_kept


def test_a_gain_is_kept_above_its_standard_error():
    rng = np.random.default_rng(0)
    normal, defects = rng.normal(0, 1, 200), rng.normal(-1, 1, 20)
    better = measured_gain((normal, defects), (normal, defects - 1))
    assert better.is_kept and better.gain > better.standard_error > 0
    noise = measured_gain(
        (normal, defects), (normal, defects + 0.1 * rng.permutation([-1, 1] * 10))
    )
    assert not noise.is_kept and abs(noise.gain) < 0.05
    for nothing in (0, 1e-9):
        assert not measured_gain((normal, defects), (normal, defects - nothing)).is_kept


def test_an_unknown_choice_is_an_error(data):
    with pytest.raises(ValueError, match="known_anomalies must be one of"):
        HGADDetector(known_anomalies="use").fit(*data)


# ---------------------------------------------------------------- what stands on a fit


def test_the_correction_survives_saving_and_pickling(corrected, tmp_path):
    corrected.save(tmp_path / "model")
    X = np.concatenate([normals(3, 50), shifted(4, 50), normals(8, 50, 9)])
    for other in (HGADDetector.load(tmp_path / "model"), pickle.loads(pickle.dumps(corrected))):
        np.testing.assert_array_equal(other.score_samples(X), corrected.score_samples(X))
        assert repr(other.known_anomalies_) == repr(corrected.known_anomalies_)


def test_a_new_class_is_not_corrected_and_the_others_stay(corrected):
    before = corrected.score_samples(shifted(4, 50), class_labels=["bolt"] * 50)
    more = pickle.loads(pickle.dumps(corrected)).add_class(normals(9, 40, -9), "clip")
    after = more.score_samples(shifted(4, 50), class_labels=["bolt"] * 50)
    np.testing.assert_array_equal(after, before)
    code = more.classes_.tolist().index("clip")
    assert not more.model_.model.defect_terms[0].directions[code].any()
    assert np.isfinite(more.score_samples(normals(10, 20, -9))).all()


def test_explanations_name_known_anomalies(corrected):
    like_known, other = np.zeros((1, N_FEATURES)), np.zeros((1, N_FEATURES))
    like_known[0, 0], other[0, 1] = 3, -9
    terms = [corrected.explain(X)[0].term for X in (like_known, other)]
    assert terms == ["known anomalies", "likelihood"]


def test_text_says_what_was_decided():
    found = [
        KnownAnomalies("bolt", 12, 0.08, 0.02, True),
        KnownAnomalies("nut", 1, *[np.nan] * 2, False),
    ]
    kept, few = known_anomalies_text(found).split("\n")
    assert (
        kept.startswith("bolt: 12 known anomalies") and "+0.080" in kept and kept.endswith(": kept")
    )
    assert few == "nut: 1 known anomaly, too few to learn from"


def test_verbose_prints_the_decision(data, capsys):
    HGADDetector(**QUICK, verbose=1).fit(*data)
    assert "bolt: 12 known anomalies" in capsys.readouterr().out


def test_a_grid_search_chooses_whether_known_anomalies_count(data):
    def auroc(detector, X, y):
        return roc_auc_score(y != "-1", detector.score_samples(X))

    grid = {"known_anomalies": ["ignore", "auto"]}
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(HGADDetector(**QUICK), grid, scoring=auroc, cv=folds)
    search.fit(*data)
    assert search.best_params_ == {"known_anomalies": "auto"}


def test_masks_are_routed():
    with config_context(enable_metadata_routing=True):
        detector = HGADDetector().set_fit_request(masks=True)
        assert detector.get_metadata_routing().fit.requests["masks"] is True


# ---------------------------------------------------------------- images and masks


def pictures(n, seed, *, spot=False):
    """Noise of 32 pixels; with a spot that is a little brighter at a random place, and its mask."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 15, (n, 32, 32, 3))
    masks = np.zeros((n, 32, 32), dtype=bool)
    for image, mask, (row, column) in zip(images, masks, rng.integers(0, 24, (n, 2)), strict=True):
        mask[row : row + 8, column : column + 8] = spot
        image[mask] += 22
    return np.clip(images, 0, 255).astype(np.uint8), masks


def fit_pictures(masks=None, **parameters):
    (normal, _), (known, marked) = pictures(40, 0), pictures(12, 1, spot=True)
    X, y = np.concatenate([normal, known]), np.repeat([0, -1], [40, 12])
    if masks == "given":
        masks = [None] * 40 + list(marked)
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, random_state=0, **parameters
    )
    return detector.fit(X, y, masks=masks)


@pytest.fixture(scope="module")
def of_pictures():
    return fit_pictures("given")


def test_known_defects_of_images_help_with_masks(of_pictures):
    X = np.concatenate([pictures(60, 2)[0], pictures(60, 3, spot=True)[0]])
    labels = np.repeat([1, 0], 60)
    before = roc_auc_score(labels, fit_pictures(known_anomalies="ignore").score_samples(X))
    assert roc_auc_score(labels, of_pictures.score_samples(X)) > before + 0.01
    assert of_pictures.known_anomalies_[0].is_kept


def test_masks_change_what_is_learned(of_pictures):
    (without,), (with_masks,) = fit_pictures().known_anomalies_, of_pictures.known_anomalies_
    assert without.gain < with_masks.gain


def test_maps_carry_the_correction(of_pictures):
    X = pictures(5, 3, spot=True)[0]
    maps = of_pictures.anomaly_maps(X)
    np.testing.assert_allclose(maps.max((1, 2)), -of_pictures.score_samples(X), rtol=0.2, atol=0.5)
    parts = of_pictures.level_maps(X)
    np.testing.assert_allclose(
        parts.combined().max((1, 2)), -of_pictures.score_samples(X), rtol=1e-4, atol=1e-4
    )


@pytest.mark.once
def test_an_exported_model_is_corrected(of_pictures, tmp_path):
    session = pytest.importorskip("onnxruntime").InferenceSession
    of_pictures.to_onnx(tmp_path / "model.onnx")
    X = pictures(6, 3, spot=True)[0]
    session = session(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    score, _, _ = session.run(None, {"image": X})
    np.testing.assert_allclose(score, of_pictures.score_samples(X), rtol=1e-3, atol=1e-3)


def test_marked_positions_are_those_that_masks_cover():
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 8:12] = True
    fine, coarse = marked_positions([mask, None], [(3, 4, 4), (5, 2, 2)])
    assert fine[0].nonzero().flatten().tolist() == [6] and fine[1].all()
    assert coarse[0].nonzero().flatten().tolist() == [1] and coarse[1].all()


def test_peaks_are_local_maxima_among_the_allowed():
    maps = torch.zeros(1, 16)
    maps[0, [0, 1, 10, 15]] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    assert peaks(maps, (4, 4))[0].tolist()[:2] == [0, 10]  # 1 is beside 0, 15 beside 10
    allowed = torch.zeros(1, 16, dtype=torch.bool)
    allowed[0, 15] = True
    assert peaks(maps, (4, 4), allowed)[0].tolist() == [15] * 3


def test_masks_may_be_files(tmp_path):
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "mask.png")
    (found,) = check_masks([None, tmp_path / "mask.png"], np.array([0, -1]), takes_images=True)
    np.testing.assert_array_equal(found, np.eye(4) == 1)
    assert check_masks([None, None], np.array([0, -1]), takes_images=True) is None


MARKED, EMPTY = np.ones((4, 4)), np.zeros((4, 4))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([None], "masks has 1 entries, X has 2 samples"),
        ([MARKED, MARKED], r"masks\[0\] marks pixels of a sample that y labels as normal"),
        ([None, EMPTY], r"masks\[1\] marks no pixel"),
        ([None, np.ones(4)], r"masks\[1\] must be None, a path, or an array"),
        ([None, MARKED * 0.5], r"masks\[1\] must be None, a path, or an array"),
        ([None, "nowhere.png"], r"masks\[1\]: mask nowhere.png cannot be read"),
    ],
)
def test_masks_that_cannot_be_used_are_errors(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, np.array([0, -1]), takes_images=True)


def test_masks_need_images_of_their_size(data):
    with pytest.raises(ValueError, match="masks mark pixels of images"):
        HGADDetector().fit(*data, masks=[None] * len(data[0]))
    with pytest.raises(TypeError, match="one mask for each sample"):
        HGADDetector().fit(*data, masks="mask.png")
    with pytest.raises(ValueError, match=r"masks\[40\] has \(height, width\) \(4, 4\), its image"):
        fit_pictures([None] * 40 + [MARKED] * 12)


# ---------------------------------------------------------------- files of strangers


@pytest.mark.parametrize("part", ["directions", "offsets"])
@pytest.mark.parametrize("harm", ["shape", "value", "absence"])
def test_terms_that_do_not_fit_are_refused(corrected, part, harm):
    from skhgad.storage.detector_state import pack, unpack

    tensors, description = pack(corrected)
    name = f"model.defect_terms.0.{part}"
    if harm == "shape":
        tensors[name] = tensors[name][:1].clone()
    elif harm == "value":
        tensors[name] = torch.full_like(tensors[name], torch.inf)
    else:
        del tensors[name]
    with pytest.raises(ValueError, match=f"defect_terms.0.{part}"):
        unpack(HGADDetector, tensors, json.loads(json.dumps(description)), None)


@pytest.mark.parametrize("verdict", [["cog", 3, 0.1, 0.1, True], ["nut", -1, 0.1, 0.1, True]])
def test_verdicts_that_cannot_be_are_refused(corrected, verdict):
    from skhgad.storage.detector_state import pack, unpack

    tensors, description = pack(corrected)
    description["fitted"]["known_anomalies"] = [verdict]
    with pytest.raises(ValueError, match="known_anomalies"):
        unpack(HGADDetector, tensors, description, None)


def test_models_of_older_versions_know_nothing_of_them(ignoring):
    from skhgad.storage.detector_state import pack, unpack

    tensors, description = pack(ignoring)
    del description["fitted"]["known_anomalies"], description["parameters"]["known_anomalies"]
    assert unpack(HGADDetector, tensors, description, None).known_anomalies_ is None


# ---------------------------------------------------------------- feature vectors


def leaning(seed, n):
    """Anomalies of one class: two features lie higher, and half of them look normal."""
    X = normals(seed, n)
    X[:, :2] += 2, 1
    return X


@pytest.mark.parametrize("fraction", [0.2, "cross"])
def test_known_anomalies_of_a_table_teach_nearly_as_much_as_a_classifier(fraction):
    X, y = np.concatenate([normals(0, 300), leaning(1, 12)]), np.repeat([1, -1], [300, 12])
    settings = {"random_state": 0, "validation_fraction": fraction}
    auto = HGADDetector(**settings).fit(X, y)
    ignoring = HGADDetector(**settings, known_anomalies="ignore").fit(X, y)
    classifier = LogisticRegression(class_weight="balanced").fit(X, y)

    fresh, labels = np.concatenate([normals(2, 600), leaning(3, 600)]), np.repeat([1, 0], 600)
    before, after = (roc_auc_score(labels, d.score_samples(fresh)) for d in (ignoring, auto))
    assert after > before + 0.09
    assert after > roc_auc_score(labels, classifier.decision_function(fresh)) - 0.05

    fresh[600:] = normals(3, 600)
    fresh[600:, 5] -= 3.5  # a type that nobody has seen, which the classifier takes for normal
    assert roc_auc_score(labels, classifier.decision_function(fresh)) < 0.6
    assert roc_auc_score(labels, auto.score_samples(fresh)) > 0.8


def test_what_known_anomalies_add_was_learned_from_the_other_samples():
    vectors = [torch.from_numpy(v) for v in (normals(0, 40), leaning(1, 10))]
    folds = [np.arange(len(v)) % 5 for v in vectors]
    settings = {"teachers": vectors[0][:0], "unit": 1.0, "shrinkage": 0.0}
    before = learn_odds(normals=(vectors[0], folds[0]), defects=(vectors[1], folds[1]), **settings)
    moved = vectors[1].clone()
    moved[folds[1] == 2] = 30.0
    after = learn_odds(normals=(vectors[0], folds[0]), defects=(moved, folds[1]), **settings)
    assert torch.linalg.norm(after.direction - before.direction) > 0.01
    # Up to the scale, which all normals share: the order of fold 2 is as before.
    own = [odds.of_normals[folds[0] == 2] for odds in (before, after)]
    both = (own[0] > 0) & (own[1] > 0)
    assert both.sum() > 1
    assert torch.equal(own[0][both].argsort(), own[1][both].argsort())


def test_odds_have_the_unit_of_the_likelihood_ratios():
    vectors = [torch.from_numpy(v) for v in (normals(0, 400), leaning(1, 20))]
    folds = [np.arange(len(v)) % 5 for v in vectors]
    for teachers in (vectors[0][:0], torch.from_numpy(normals(2, 300))):
        odds = learn_odds(teachers, *zip(vectors, folds, strict=True), 3.0)
        above = odds.of_normals[odds.of_normals > 0]
        assert 0.45 < len(above) / 400 < 0.55  # from the median on
        assert float(above.mean()) == pytest.approx(3.0)
        fresh = torch.from_numpy(normals(3, 4000)) @ odds.direction + odds.offset
        assert float(fresh[fresh > 0].mean()) == pytest.approx(3.0, rel=0.2)


def test_no_other_sample_of_a_part_teaches_what_judges_it(monkeypatch):
    """Neither of normals, by those that do not calibrate or by other folds, nor of defects."""
    parts, calls = np.repeat(np.arange(30), 3), []

    def learn(teachers, normals, defects, **settings):
        calls.append((teachers, normals, defects))
        return learn_odds(teachers, normals, defects, **settings)

    monkeypatch.setattr(defect_directions, "learn_odds", learn)
    X = np.concatenate([normals(0, 60), leaning(1, 30)])
    y = np.repeat([1, -1], [60, 30])
    for fraction in ("cross", 0.3):
        HGADDetector(**QUICK, validation_fraction=fraction).fit(X, y, groups=parts)
    for (teachers, of_normals, of_defects), n_teachers in zip(calls, (0, 42), strict=True):
        assert len(teachers) == n_teachers
        assert len(of_normals[0]) == 20 - n_teachers // 3  # one of each part
        folds = of_defects[1].reshape(10, 3)
        assert (folds == folds[:, :1]).all()
        assert sorted(folds[:, 0]) == list(range(10))


@pytest.mark.parametrize("n", [36, 130])
def test_known_anomalies_of_a_wide_table_do_not_flag_fresh_normals(n):
    """What the axes of n vectors leave out is 0 of these, and of no others."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, 300)) * np.linspace(1, 0.1, 40)[:, None]

    def drawn(n, shift=0.0):
        factors = rng.normal(size=(n, 40))
        factors[:, 0] += shift
        return factors @ mixing + 0.3 * rng.normal(size=(n, 300))

    X, y = np.concatenate([drawn(n), drawn(10, 2.5)]), np.repeat([1, -1], [n, 10])
    detector = HGADDetector(random_state=0).fit(X, y)
    assert detector.known_anomalies_[0].is_kept
    assert (detector.predict(drawn(1000)) == -1).mean() < 0.15
    ignoring = HGADDetector(random_state=0, known_anomalies="ignore").fit(X, y)
    fresh, labels = np.concatenate([drawn(300), drawn(300, 2.5)]), np.repeat([1, 0], 300)
    before, after = (roc_auc_score(labels, d.score_samples(fresh)) for d in (ignoring, detector))
    assert after > before + 0.05


def test_vectors_that_whiten_themselves_are_taken_for_fresh_ones():
    """In the space that 16 vectors whiten, fresh ones lie farther out."""
    nothing, found = torch.empty(0, N_FEATURES, dtype=torch.float64), []
    for seed in range(40):
        x, fresh, defects = normals(seed, 16), normals(seed + 100, 400), leaning(seed, 8)
        root = torch.linalg.cholesky(torch.from_numpy(np.cov(x.T, ddof=0)))
        x, fresh, defects = (
            torch.linalg.solve_triangular(root, torch.from_numpy(v - x.mean(0)).T, upper=False).T
            for v in (x, fresh, defects)
        )
        folds = [np.arange(len(v)) % 8 for v in (x, defects)]
        odds = learn_odds(nothing, (x, folds[0]), (defects, folds[1]), 1.0, shrinkage=0.0)
        values = fresh @ odds.direction + odds.offset
        found.append(float(values[values > 0].mean()))
    assert 0.8 < np.median(found) < 1.2
