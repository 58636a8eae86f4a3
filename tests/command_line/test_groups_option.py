"""``--groups`` of the commands that learn: parts by the names of files."""

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.arguments import chosen_groups, groups_text
from skhgad.command_line.main import build_parser, main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two products of 8 parts with two pictures each, and one picture of another name."""
    root, rng = tmp_path_factory.mktemp("groups"), np.random.default_rng(0)
    for product in ("check", "stripe"):
        for part in range(8):
            for side in ("left", "right"):
                pixels = draw(rng, product)
                write(root / "products" / product / f"part{part}_{side}.png", pixels)
        for i in range(6):
            write(root / "more" / product / f"part{i // 2}_{i}.png", draw(rng, product))
    write(root / "products" / "check" / "other.png", draw(rng, "check"))
    return root


def groups(pattern, images, products):
    args = build_parser().parse_args(["fit", "folder", "--groups", pattern])
    return chosen_groups(args, images, products)


def test_the_first_parentheses_name_the_part():
    images = ["a_1/b7_x.png", "a_1/b7_y.png", "a_2/b8_x.png", "a_2/none.png", "b9_none.png"]
    found = groups(r"^(b\d)_(.)", images, ["p", "p", "p", "p", "q"])
    assert found == [("p", "b7"), ("p", "b7"), ("p", "b8"), ("p", 3), ("q", "b9")]
    assert groups_text(found) == (
        "--groups: the 5 images show 4 parts; 1 of them does not match, and counts as a part of "
        "its own"
    )
    assert groups_text(found[:2]) == "--groups: the 2 images show 1 part"
    args = build_parser().parse_args(["fit", "folder"])
    assert chosen_groups(args, images, ["p"] * 5) is None


@pytest.mark.parametrize(("pattern", "message"), [
    ("(", "is no regular expression"), ("part", "has no parentheses around the name of the part"),
])  # fmt: skip
def test_a_pattern_that_cannot_be_used(pattern, message, place, capsys):
    with pytest.raises(SystemExit):
        main(["fit", str(place / "products"), "--dry-run", "--groups", pattern])
    assert message in capsys.readouterr().err


def test_a_dry_run_counts_the_parts(place, capsys, monkeypatch):
    monkeypatch.setattr(HGADDetector, "fit", None)
    assert main(["fit", str(place / "products"), "--dry-run", "--groups", "^(part.*)_"]) == 0
    said = capsys.readouterr().out
    assert "33 normal images of 2 products" in said
    assert "--groups: the 33 images show 17 parts; 1 of them does not match" in said


@pytest.mark.once
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_commands_learn_by_parts(place, capsys):
    model, pattern = str(place / "model"), "^(part.*)_"
    options = ["--image-size", "64", "--set", "image_scales=(1.0,)", "--groups", pattern]
    assert main(["fit", str(place / "products"), "--out", model, *options]) == 0
    fitted = HGADDetector.load(model)
    assert np.bincount(fitted.model_.calibration.codes).tolist() == [9, 8]
    more = str(place / "more" / "check")
    assert main(["update", model, more, "--class", "check", "--groups", pattern]) == 0
    assert "the 6 images show 3 parts" in capsys.readouterr().out
    assert np.bincount(HGADDetector.load(model).model_.calibration.codes).tolist() == [12, 8]
    assert main(["add-class", model, more, "--name", "new", "--groups", pattern]) == 0
    assert "the 6 images show 3 parts" in capsys.readouterr().out
    codes = HGADDetector.load(model).model_.calibration.codes
    assert np.bincount(codes, minlength=3).tolist() == [12, 0, 8]
