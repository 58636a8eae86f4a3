"""The benchmark of known anomalies: what is drawn, and one run."""

import json

import numpy as np
import pytest

from benchmarks import known_anomalies

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("one_thread")]


def test_anomalies_of_known_types_are_not_tested():
    codes = np.repeat([0, 1], [12, 9])
    kinds = np.array([*"aaabbbcccddd", *"xxxyyyzzz"])
    known, left_out = known_anomalies.draw_other(codes, kinds, 4, np.random.default_rng(0))
    assert [np.sum(codes[known] == code) for code in (0, 1)] == [4, 3]
    for code, n_types in ((0, 2), (1, 1)):
        seen = set(kinds[left_out[codes[left_out] == code]])
        assert len(seen) == n_types and set(kinds[known[codes[known] == code]]) <= seen
        assert sum(np.isin(kinds, list(seen))) == np.sum(codes[left_out] == code)


def test_draws_of_the_same_types_leave_themselves_out():
    codes = np.repeat([0, 1], [12, 9])
    known, left_out = known_anomalies.draw_same(codes, None, 4, np.random.default_rng(0))
    assert [np.sum(codes[known] == code) for code in (0, 1)] == [4, 4]
    np.testing.assert_array_equal(known, left_out)


def test_a_run_on_vectors(tmp_path, capsys):
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(100, 6)) + 9 * np.repeat([0, 1], 50)[:, None]
    anomalous = rng.normal(size=(60, 6)) + 9 * np.repeat([0, 1], 30)[:, None]
    anomalous[:, 0] += 2.5
    np.savez(
        tmp_path / "table.npz",
        X=np.concatenate([normal, normal[::2] + 0.1, anomalous]),
        class_name=np.concatenate([np.repeat(["bolt", "nut"], n) for n in (50, 25, 30)]),
        split=np.repeat(["train", "test"], [100, 110]),
        y=np.repeat([0, 1], [150, 60]),
    )
    known_anomalies.main(
        f"--data {tmp_path / 'table.npz'} --known 2 12 --draws 1 --set n_components=1 "
        f"--json {tmp_path / 'out.json'}".split()
    )
    records = json.loads((tmp_path / "out.json").read_text())["parts"]["table"]
    assert [(r["protocol"], r["known"]) for r in records] == [
        (protocol, n) for protocol in ("same types", "other types") for n in (2, 12)
    ]
    assert records[0]["auto"] == records[0]["ignore"] and not any(records[0]["kept"])
    assert np.mean(records[1]["auto"]) > np.mean(records[1]["ignore"])
    assert "| same types, 12 |" in capsys.readouterr().out
