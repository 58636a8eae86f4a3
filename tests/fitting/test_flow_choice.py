"""A trained flow of feature vectors stays only if it makes vectors left out likelier."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector


def bananas(rng, n):
    """Vectors of eight features, four of which follow the squares of the others."""
    free = rng.normal(size=(n, 4))
    return np.hstack([free, free**2 + 0.3 * rng.normal(size=(n, 4))])


def n_blocks(detector):
    """Coupling blocks of the model that scores."""
    (level,) = detector.model_.model.levels
    return len(level.flow.blocks.mix)


@pytest.mark.parametrize("validation_fraction", [0.2, "cross"])
def test_a_flow_that_learns_nothing_is_dropped(validation_fraction, capsys):
    X = np.random.default_rng(0).normal(size=(120, 6))
    told = []
    trained = HGADDetector(
        max_iter=3, validation_fraction=validation_fraction, random_state=0, verbose=1,
        callbacks=told.append,
    ).fit(X)  # fmt: skip
    plain = HGADDetector(max_iter=0, validation_fraction=validation_fraction, random_state=0).fit(X)
    assert n_blocks(trained) == 0
    assert "and dropped" in capsys.readouterr().out
    assert trained.n_iter_ == len(trained.history_) == 3  # it was tried
    *passes, end = told
    assert [info.losses["loss"] for info in passes] == [r["loss"] for r in trained.history_]
    assert (end.n_passes, end.keeps_flow) == (3, False)
    np.testing.assert_array_equal(trained.score_samples(X), plain.score_samples(X))


@pytest.mark.once
def test_a_flow_that_learns_the_shape_stays():
    rng = np.random.default_rng(0)
    X = bananas(rng, 800)
    detector = HGADDetector(
        n_components=1, max_iter=40, batch_size=32, learning_rate=5e-3, random_state=0
    ).fit(X)
    assert n_blocks(detector) == 4
    fresh, broken = bananas(rng, 300), bananas(rng, 300)
    broken[:, 4:] = broken[rng.permutation(300), 4:]  # each feature alone is as before
    labels = np.repeat([1, 0], 300)
    scores = detector.score_samples(np.concatenate([fresh, broken]))
    plain = HGADDetector(n_components=1, random_state=0).fit(X)
    plain_scores = plain.score_samples(np.concatenate([fresh, broken]))
    assert roc_auc_score(labels, scores) > roc_auc_score(labels, plain_scores) + 0.02


def test_a_loss_of_the_users_is_never_overruled():
    def loss(step):
        return step.z.square().mean()

    X = np.random.default_rng(0).normal(size=(60, 4))
    detector = HGADDetector(max_iter=2, loss=loss, random_state=0).fit(X)
    assert n_blocks(detector) == 4


def test_a_dropped_flow_is_saved_as_dropped(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 4))
    detector = HGADDetector(max_iter=2, random_state=0).fit(X)
    assert n_blocks(detector) == 0
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    assert n_blocks(loaded) == 0 and loaded.n_iter_ == 2
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
