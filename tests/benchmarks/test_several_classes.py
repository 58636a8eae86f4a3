"""The benchmark of tables of several classes."""

import numpy as np
import pytest

from benchmarks import several_classes


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Three far classes of 30 vectors and one of 5, in a folder; scikit-learn's are left out."""
    rng = np.random.default_rng(0)
    y = np.repeat(list("abcd"), [30, 30, 30, 5])
    means = 20 * np.eye(4, 6)
    X = means[np.repeat(range(4), [30, 30, 30, 5])] + rng.normal(size=(95, 6))
    np.savez(tmp_path / "far.npz", X=X, y=y)
    for name in ("load_digits", "load_iris", "load_wine"):
        monkeypatch.setattr(several_classes, name, lambda **_: (X[:90], np.repeat([0, 1, 2], 30)))
    return tmp_path, X


def test_products_have_enough_vectors_and_none_is_fitted_and_tested(tables):
    folder, X = tables
    *_, (name, found, codes) = several_classes.read_tables(folder)
    assert name == "far"
    np.testing.assert_array_equal(found, X)
    fitted, y, normal, y_normal, unknown, corrupted = several_classes.split(X, codes, 10, 0)
    assert sorted(set(y)) == sorted(set(y_normal))
    assert "3" not in y  # of five vectors
    assert len(fitted) == 20
    assert len(normal) == 40
    assert len(unknown) == 35
    rows = [set(map(bytes, part)) for part in (fitted, normal, unknown)]
    assert not rows[0] & rows[1]
    assert not (rows[0] | rows[1]) & rows[2]
    changed = (corrupted != normal).sum(1)
    assert changed.max() == 1  # of six features
    assert np.isin(corrupted[changed == 1], X).all()


def test_tables_without_unknown_classes_are_passed_over(tables):
    folder, X = tables
    np.savez(folder / "pair.npz", X=X[:60], y=np.repeat([0, 1], 30))
    names = [name for name, _, _ in several_classes.read_tables(folder)]
    assert names == ["digits", "iris", "wine", "far"]


def test_far_classes_are_found_by_all_methods(tables, capsys):
    folder, _ = tables
    several_classes.main(["--data", str(folder), "--normals", "10", "--draws", "1"])
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("| far"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == cells[4] == cells[6] == "1.000"  # the unknown class
    assert lines[-1].startswith("| **mean**")
