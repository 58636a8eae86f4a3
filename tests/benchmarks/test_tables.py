"""Tables of one class beside other detectors."""

import json
import sys
import types

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from benchmarks import _table_methods, accuracy, tables


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


def test_unclean_tables_hold_a_tenth_of_anomalies_in_both_halves(folder, capsys):
    train, test, labels = tables.load_unclean_table(folder / "toy.npz")
    assert (len(train), len(test)) == (33, 33)  # 60 normals and 6 anomalies
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-12)
    is_far = [X.mean(axis=1) > 1.2 for X in (train, test)]  # anomalies are 3 off in all features
    assert sum(far.sum() for far in is_far) == 6
    np.testing.assert_array_equal(is_far[1], labels == 1)
    tables.main(["--data", str(folder), "--unclean", "--methods", "hgad-unclean", "nn"])
    assert "| toy, unclean |" in capsys.readouterr().out


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


def test_accuracy_takes_a_folder_of_tables(folder, capsys):
    arguments = ["--data", str(folder), "--methods", "nn", "ledoit-wolf"]
    tables.main(arguments)
    by_tables = capsys.readouterr().out.splitlines()
    accuracy.main(arguments)
    by_accuracy = capsys.readouterr().out.splitlines()
    assert by_accuracy[:-1] == by_tables[:-1]  # the last line tells seconds
    assert "nearest neighbours" in by_accuracy[0]


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


def test_simulated_blobs_have_spreads_and_shapes_of_their_own():
    train, test, labels = tables.spreads(2, 300)
    near = np.linalg.norm(train, axis=1) < 1  # of the tight blob at 0
    assert near.sum() == pytest.approx(100, abs=5)
    assert (
        np.linalg.norm(test[labels == 1], axis=1).min() > np.linalg.norm(train[near], axis=1).max()
    )
    train, test, labels = tables.rotated(5, 1000)
    three = GaussianMixture(3, random_state=0).fit(train)
    assert roc_auc_score(labels, -three.score_samples(test)) > 0.9
    assert roc_auc_score(labels, LedoitWolf().fit(train).mahalanobis(test)) < 0.6
    train, test, labels = tables.edges(3, 300)
    assert train.min() >= 0
    assert ((test < 0).sum(1) == labels).all()


def test_simulated_tails_are_heavy_and_anomalies_break_relations():
    train, test, labels = tables.tails(10, 2000)
    lengths = np.linalg.norm(train, axis=1)
    assert lengths.max() > 10 * np.median(lengths)
    normal, anomalies = (np.corrcoef(np.arcsinh(test[labels == k]).T) for k in (0, 1))
    others = ~np.eye(10, dtype=bool)
    assert np.abs(normal[others]).mean() > 2 * np.abs(anomalies[others]).mean()


def test_methods_choose_the_columns(folder, capsys):
    tables.main(["--data", str(folder), "--methods", "lof", "nn"])
    header = capsys.readouterr().out.splitlines()[0]
    assert header == "| table | centers | nearest neighbours | LOF |"


def test_a_run_in_the_json_file_is_not_repeated(folder, capsys):
    path = folder / "runs.json"
    path.write_text(json.dumps({"toy": {"nn": {"auroc": 0.123, "seconds": 1.0}}}))
    tables.main(["--data", str(folder), "--methods", "nn", "lof", "--json", str(path)])
    assert "| toy |  | 0.123 |" in capsys.readouterr().out
    stored = json.loads(path.read_text())["toy"]
    assert stored["nn"]["auroc"] == 0.123
    assert 0 < stored["lof"]["auroc"] <= 1


def test_a_slow_method_stops_and_is_compared_on_the_tables_that_it_ran(folder, monkeypatch):
    with np.load(folder / "toy.npz") as file:
        np.savez(folder / "twice.npz", X=np.tile(file["X"], (2, 1)), y=np.tile(file["y"], 2))
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(tables.time, "process_time", lambda: next(clock))
    args, found = tables.parse(["--data", str(folder), "--methods", "nn", "lof"])
    small, large = tables.run_tables(found, args.methods, most_seconds=15)
    assert small[0] == "toy" and list(small[1]) == ["nn", "lof"]
    assert list(large[1]) == ["nn", "lof"]  # 10 seconds were spent
    args, found = tables.parse(["--data", str(folder), "--methods", "nn", "lof"])
    (_, first), (_, second) = tables.run_tables(found, args.methods, most_seconds=10)
    assert not second
    second = {"nn": {"auroc": 0.5, "seconds": 1}}
    rows = tables.summary_rows([first, second], ["nn", "lof"])
    by_title = {title: cells for title, _, *cells in rows}
    assert by_title["**tables**"] == ["2", "1"]
    same = by_title["**nearest neighbours on the same tables**"]
    assert same[1] == f"{first['nn']['auroc']:.3f}"
    assert by_title["**mean**"][1] == f"{first['lof']['auroc']:.3f}"


def test_without_pyod_the_message_names_the_methods_and_the_package(folder, monkeypatch, capsys):
    monkeypatch.setattr(_table_methods, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        tables.main(["--data", str(folder), "--methods", "nn", "pyod-knn", "pyod-vae"])
    message = capsys.readouterr().err
    assert "pyod-knn, pyod-vae: PyOD is not installed" in message
    assert "pip install pyod" in message  # skhgad is on no index


def test_methods_of_pyod_keep_its_defaults_and_get_a_seed(monkeypatch):
    class Detector:
        def __init__(self, n_features, epochs=100, verbose=1, random_state=None):
            self.given = n_features, epochs, verbose, random_state

        def fit(self, X):
            self.mean = X.mean(0)
            return self

        def decision_function(self, X):
            assert self.given == (3, 100, 0, 0)
            return ((X - self.mean) ** 2).sum(1)

    module = types.SimpleNamespace(DeepSVDD=Detector)
    monkeypatch.setitem(sys.modules, "pyod", types.ModuleType("pyod"))
    monkeypatch.setitem(sys.modules, "pyod.models", types.ModuleType("pyod.models"))
    monkeypatch.setitem(sys.modules, "pyod.models.deep_svdd", module)
    train, test = np.random.default_rng(0).normal(size=(2, 20, 3))
    scores = _table_methods.METHODS["pyod-deepsvdd"][1](train, test)
    np.testing.assert_allclose(scores, ((test - train.mean(0)) ** 2).sum(1))


def test_diffusion_time_is_longer_for_what_is_far_from_normal_samples():
    rng = np.random.default_rng(0)
    train, normal = 0.1 * rng.normal(size=(2, 300, 3))
    method = _table_methods.DiffusionTime(n_steps=200)
    scores, far = method(train, normal), method(train, normal + 1)
    assert roc_auc_score(np.repeat([0, 1], 300), np.concatenate([scores, far])) > 0.95
    assert 0 <= scores.min() and far.max() <= 6
    np.testing.assert_array_equal(scores, method(train, normal))


def test_rows_measures_a_fit_in_a_process_of_its_own(capsys, tmp_path):
    path = tmp_path / "rows.md"
    tables.main(["--rows", "300", "--markdown", str(path)])
    header, _, row = path.read_text(encoding="utf-8").splitlines()
    found = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert found["rows"] == "300"
    assert float(found["peak MiB"]) >= float(found["MiB before fit"]) > 100
    assert row in capsys.readouterr().out


def test_blobs_have_relations_of_their_own():
    X = tables.blobs_table(2000, 20)
    assert X.shape == (2000, 20)
    np.testing.assert_array_equal(X, tables.blobs_table(2000, 20))
    assert X.mean(0).std() > 0.3  # blobs apart
