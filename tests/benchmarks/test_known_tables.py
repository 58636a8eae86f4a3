"""The benchmark of known anomalies of tables."""

import numpy as np
import pytest

from benchmarks import known_tables


@pytest.fixture
def folder(tmp_path):
    """A table of 120 normals, and of three far groups of 12 anomalies."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(156, 4))
    X[120:, :3] += np.repeat(9 * np.eye(3), 12, axis=0)
    np.savez(tmp_path / "groups.npz", X=X, y=np.repeat([0, 1], [120, 36]))
    return tmp_path


def test_no_anomaly_is_known_and_tested_nor_of_a_type_that_is(folder):
    normal, fresh, anomalies = known_tables.read_table(folder / "groups.npz")
    assert len(normal) == len(fresh) == 60
    assert not set(map(bytes, normal)) & set(map(bytes, fresh))
    for protocol in (known_tables.SAME, known_tables.OTHER):
        known, tested = known_tables.draw(anomalies, protocol, 10, 0)
        assert len(known) == 10
        assert not set(map(bytes, known)) & set(map(bytes, tested))
    types = [set(values[:, :3].argmax(1)) for values in (known, tested)]
    assert len(types[1]) == 1
    assert not types[0] & types[1]
    assert known_tables.draw(anomalies, known_tables.SAME, 34, 0) is None


def test_types_that_nobody_knows_are_found_by_the_detector_alone(folder, capsys):
    known_tables.main(["--data", str(folder), "--known", "10", "--draws", "1"])
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("| other types, 10 "))
    _, n_tables, ignore, auto, _, regression, _ = (v.strip() for v in row.strip("|").split("|"))
    assert (n_tables, ignore, auto) == ("1", "1.000", "1.000")
    assert float(regression) < 0.99
