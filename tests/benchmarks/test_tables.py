"""Tables of one class beside other detectors."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from benchmarks import tables


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(60, 3)), rng.normal(3, 1, (20, 3))])
    y = np.repeat([0, 1], [60, 20])
    order = rng.permutation(80)
    np.savez(tmp_path / "toy.npz", X=X[order].astype(np.float32), y=y[order])
    return tmp_path


def test_half_of_the_normals_is_fitted_on(folder):
    with np.load(folder / "toy.npz") as file:
        X, y = file["X"].astype(float), file["y"]
    scaler = StandardScaler().fit(X[y == 0][:30])
    train, test, labels = tables.load_table(folder / "toy.npz")
    np.testing.assert_array_equal(train, scaler.transform(X[y == 0][:30]))
    np.testing.assert_array_equal(test[:30], scaler.transform(X[y == 0][30:]))
    np.testing.assert_array_equal(test[30:], scaler.transform(X[y == 1]))
    assert labels.tolist() == [0] * 30 + [1] * 20


def test_figures_are_those_of_the_detectors(folder, capsys):
    path = folder / "figures.md"
    tables.main(["--data", str(folder), "--markdown", str(path)])
    train, test, labels = tables.load_table(folder / "toy.npz")
    found = NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]
    header, _, row, mean, *_ = path.read_text(encoding="utf-8").splitlines()
    column = header.split(" | ").index("nearest neighbours")
    expected = f"{roc_auc_score(labels, found):.3f}"
    assert row.split(" | ")[column] == mean.split(" | ")[column] == expected
    assert row in capsys.readouterr().out


def test_a_folder_without_tables_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tables.main(["--data", str(tmp_path)])
    assert "holds no such table" in capsys.readouterr().err


def test_simulated_anomalies_lie_between_the_modes():
    train, test, labels = tables.two_modes(8, 100)
    assert abs(train.mean() - 3) < 0.2
    assert np.abs(test[labels == 1] - 3).max() < 1


def test_simulated_anomalies_break_a_relation_alone():
    _, test, labels = tables.relations(5, 50)
    off = test[:, 0] - test[:, 1] - test[:, 4]
    assert np.abs(off[labels == 0]).max() < 0.06 < np.abs(off[labels == 1]).min()
