"""The model card: what it says, and that it stands beside the model without harm."""

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.scoring.certificate import bound_text
from skhgad.storage.model_folder import load_state


@pytest.fixture(scope="module")
def detector():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (60, 3)), rng.normal(9, 1, (40, 3))])
    detector = HGADDetector(random_state=0, pool_size=3)
    detector.fit(X, ["a|b <i>"] * 60 + ["nut"] * 40)
    return detector.set_threshold(false_alarm_rate={"nut": 0.1})


def test_the_card_says_what_the_model_is(detector, tmp_path):
    detector.save(tmp_path / "model")
    card = (tmp_path / "model/MODEL_CARD.md").read_text(encoding="utf-8")
    load_state(tmp_path / "model")
    assert "for feature vectors, of 2 products" in card
    assert f"| nut | 40 | {detector.class_offsets_['nut']:.6g} |" in card
    assert rf"| a\|b \<i\> | 60 | {detector.offset_:.6g} |" in card
    for found in detector.certificate():
        assert f"| {found.n_normals} | {found.n_flagged} | {bound_text(found)} |" in card
    assert "| `pool_size` | 3 |" in card and "`random_state` | 0" in card
    assert "`n_blocks`" not in card and "BSD-3-Clause" in card
    header = (tmp_path / "model/model.safetensors").read_bytes()
    (line,) = [line for line in card.splitlines() if line.startswith("Hash of the model: ")]
    assert line.split("`")[1].encode() in header[: 8 + int.from_bytes(header[:8], "little")]


def test_the_card_names_the_licence_of_the_weights(small_model):
    card = (small_model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert r"backbone tf\_efficientnet\_lite0: Apache-2.0" in card and "32 x 32 pixels" in card


def test_saving_replaces_its_own_card_and_no_other(detector, tmp_path):
    folder = tmp_path / "model"
    detector.save(folder)
    before = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    (folder / "MODEL_CARD.md").unlink()
    HGADDetector.load(folder)  # loading needs no card
    detector.save(folder)
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8").count("\n") == before.count("\n")
    (folder / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(ValueError, match="holds 'MODEL_CARD.md' beside a model"):
        detector.save(folder)
    assert (folder / "MODEL_CARD.md").read_text() == "mine"


def test_a_failed_save_leaves_card_and_model(detector, tmp_path, monkeypatch):
    detector.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skhgad.storage.files._flush", fail)
    with pytest.raises(OSError, match="No space left"):
        HGADDetector(random_state=0).fit(np.random.default_rng(1).normal(size=(30, 3))).save(
            tmp_path / "model"
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
