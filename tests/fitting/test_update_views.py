"""`update`, `add_class` and `forget` on parts of pictures: regions of interest, padding, tiles."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from test_views import MASK, Stages, noise_outside, products, small

from skhgad import HGADDetector
from skhgad.fitting.map_constants import fit_normalizers
from skhgad.fitting.recalibrate import recalibrate
from skhgad.scoring.defect_terms import DefectTerm
from skhgad.scoring.views import judged_pictures
from skhgad.validation import check_scored_X

WIDE = (36, 52)
KINDS = {
    "region": ({}, {"roi": MASK}, (32, 32)),
    "padding": ({"resize": "pad"}, {}, WIDE),
    "tiles": ({"tile_size": 32}, {}, WIDE),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, one_thread):
    """Parameters of a detector and of its fit, size of pictures, and the fitted detector."""
    parameters, of_fit, size = KINDS[request.param]
    return parameters, of_fit, size, small(**parameters).fit(*products(24, 0, size), **of_fit)


@pytest.mark.once
def test_more_normals_come_near_a_fit_on_everything(kind):
    parameters, of_fit, size, fitted = kind
    more, labels = products(24, 7, size)
    detector = copy.deepcopy(fitted).update(more, labels)
    X, y = products(24, 0, size)
    whole = small(**parameters).fit(np.concatenate([X, more]), [*y, *labels], **of_fit)
    pairs = zip(detector.model_.model.levels, whole.model_.model.levels, strict=True)
    for level, of_whole in pairs:  # positions inside alone
        assert level.densities.n_vectors.tolist() == of_whole.densities.n_vectors.tolist()
    assert len(detector.model_.calibration.codes) == len(whole.model_.calibration.codes)
    fresh, names = products(20, 3, size)
    fresh[::4, 16:20, 14:18] += 20
    known, updated, expected = (
        d.score_samples(fresh, class_labels=names) for d in (fitted, detector, whole)
    )
    gap, gap_before = (1 - np.corrcoef(scores, expected)[0, 1] for scores in (updated, known))
    assert gap < 0.9 * gap_before


@pytest.mark.once
def test_other_classes_keep_their_scores_exactly(kind):
    _, _, size, fitted = kind
    more, labels = products(16, 7, size)
    detector = copy.deepcopy(fitted).update(more[labels == "checks"], "checks")
    X, names = products(8, 3, size)
    before, after = (d.score_samples(X, class_labels=names) for d in (fitted, detector))
    is_other = names == "stripes"
    np.testing.assert_array_equal(after[is_other], before[is_other])
    assert (after[~is_other] != before[~is_other]).all()


@pytest.mark.once
def test_constants_are_those_of_all_pictures_together(kind):
    _, _, size, fitted = kind
    parts = []
    for seed in (0, 7):
        X, _ = products(14, seed, size)
        X = check_scored_X(X, fitted, takes_images=True)
        reader = fitted.feature_reader()
        views, _ = fitted.model_.seen(reader, X)
        with torch.inference_mode():
            parts.append([e for e, _ in judged_pictures(fitted.model_.model, reader, views)])
    whole, counted = (copy.deepcopy(fitted.model_.model) for _ in range(2))
    every = torch.arange(2)
    fit_normalizers(whole, parts[0] + parts[1], chosen=every)
    fit_normalizers(counted, parts[0], chosen=every)
    codes = torch.cat([e.codes for e in parts[0]]).numpy()
    before = fitted.model_.calibration
    before = type(before)(*(values[: len(codes)] for values in before))._replace(codes=codes)
    recalibrate(counted, [(e, e) for e in parts[1]], before, np.arange(2), True)
    # Tiles are laid over a map of the picture, from which their values do not follow exactly.
    rtol = 0.03 if views.is_tiled else 1e-4
    for name in ("likelihood_location", "likelihood_scale", "likelihood_profile_0"):
        found, expected = getattr(counted, name), getattr(whole, name)
        largest = float(expected.abs().max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * largest, err_msg=name)


@pytest.mark.once
def test_a_new_class_counts_what_lies_inside(kind):
    parameters, of_fit, size, fitted = kind
    X, y = products(24, 0, size)
    new = 255 - products(12, 4, size)[0][::2]
    detector = copy.deepcopy(fitted).add_class(new, "dark")
    whole = small(**parameters).fit(np.concatenate([X, new]), [*y, *["dark"] * 6], **of_fit)
    assert detector.classes_.tolist() == whole.classes_.tolist() == ["checks", "dark", "stripes"]
    pairs = zip(detector.model_.model.levels, whole.model_.model.levels, strict=True)
    for level, of_whole in pairs:
        assert level.densities.n_vectors.tolist() == of_whole.densities.n_vectors.tolist()
        assert level.densities.own_backgrounds.tolist() == [0, 1, 0]
    fresh = 255 - products(20, 3, size)[0]
    fresh[::4, 16:20, 14:18] -= 20
    scores = [d.score_samples(fresh, class_labels=["dark"] * 20) for d in (detector, whole)]
    assert np.corrcoef(*scores)[0, 1] > 0.97


@pytest.mark.once
def test_nothing_outside_a_region_is_learnt(one_thread):
    fitted = small().fit(*products(24), roi=MASK)
    more, labels = products(12, 7)
    X, _ = products(6, 3)
    for mask in (None, MASK.T):
        roi = MASK if mask is None else mask
        a, b = (
            copy.deepcopy(fitted).update(pixels, labels, roi=mask)
            for pixels in (more, noise_outside(more, roi))
        )
        np.testing.assert_array_equal(a.score_samples(X), b.score_samples(X))
        assert a.offset_ == b.offset_
        np.testing.assert_array_equal(a.model_.roi.masks[0], MASK)  # that of the fit stays
    with pytest.raises(ValueError, match="no product class"):
        copy.deepcopy(fitted).update(more, labels, roi={"clip": MASK})


@pytest.mark.once
def test_a_mask_leaves_with_its_product(one_thread):
    X, y = products(20)
    detector = small().fit(X, y, roi={"checks": MASK, "stripes": MASK.T})
    fresh, names = products(8, 3)
    mine = names == "stripes"
    before = detector.score_samples(fresh[mine], class_labels=names[mine])
    detector.update(fresh[~mine], "checks").forget("checks")
    roi = detector.model_.roi
    assert (roi.of_class, len(roi.masks), len(roi.names)) == ((0,), 1, 1)
    np.testing.assert_array_equal(roi.masks[0], MASK.T)
    np.testing.assert_array_equal(detector.score_samples(fresh[mine]), before)
    whole = small().fit(X, y, roi={"checks": MASK}).forget("checks")
    assert whole.model_.roi is None
    assert np.isfinite(whole.score_samples(fresh)).all()


@pytest.mark.once
def test_an_updated_model_is_saved_with_its_region(kind, tmp_path):
    _, _, size, fitted = kind
    detector = copy.deepcopy(fitted).update(*products(8, 7, size))
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model", backbone=Stages())
    X, _ = products(6, 3, size)
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))


@pytest.mark.once
def test_an_updated_model_with_a_new_class_is_exported_with_its_region(one_thread, tmp_path):

    detector = small().fit(*products(24), roi=MASK).add_class(255 - products(12, 4)[0], "dark")
    detector.update(*products(8, 7)).to_onnx(tmp_path / "model.onnx")
    X = products(6, 3)[0]
    X = np.concatenate([X, 255 - X])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (scores,) = session.run(["score"], {"image": X})
    np.testing.assert_allclose(scores, detector.score_samples(X), rtol=1e-4, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("corrected", [False, True])
def test_a_region_of_the_whole_picture_changes_nothing(corrected, one_thread):
    fitted = small().fit(*products(24))
    if corrected:  # as known anomalies would
        for level in fitted.model_.model.levels:
            directions = torch.ones(2, level.n_features) * torch.tensor([[0.3], [0.0]])
            term = DefectTerm(directions, torch.tensor([0.2, 0.0]))
            fitted.model_.model.defect_terms.append(term)
    more, labels = products(12, 7)
    X, _ = products(12, 3)
    scores = []
    for roi in (None, np.ones_like(MASK)):
        detector = copy.deepcopy(fitted).update(more, labels, roi=roi)
        scores.append(np.concatenate([detector.score_samples(X), [detector.offset_]]))
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)
    assert not np.allclose(scores[0][:-1], fitted.score_samples(X), atol=1e-3)
