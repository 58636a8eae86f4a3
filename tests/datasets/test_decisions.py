"""Decisions on images: what is read, what is refused, how they join a folder."""

import numpy as np
import pytest
from trees import write

from skhgad.datasets import load_decisions, load_folder
from skhgad.datasets.decisions import with_decisions


def decisions(path, *rows):
    path.write_text("\r\n".join(["path,decision,product,score", *rows]), encoding="utf-8")
    return path


def test_the_last_decision_counts_and_joins_the_folder(tmp_path):
    write(tmp_path, ["lid/a.png", "lid/b.png", "new/c.png", "new/d.png"])
    new = tmp_path / "new"
    file = decisions(
        tmp_path / "one.csv",
        f"{new}/c.png,defect,lid,-3",
        f"{new}/d.png,defect,'=lid,-9",
        f"{tmp_path}/lid/b.png,defect,lid,-4",
    )
    more = decisions(tmp_path / "two.csv", f"{new}/c.png,good,lid,-3")
    data = load_decisions([file, more])
    found = dict(zip(data.images.tolist(), data.target.tolist(), strict=True))
    assert found == {
        f"{new}/c.png": "lid", f"{new}/d.png": "-1", f"{tmp_path}/lid/b.png": "-1",
    }  # fmt: skip
    assert set(data.classes) == {"lid", "=lid"} and set(data.split) == {"train"}
    write(tmp_path, ["parts/=lid/e.png", "parts/lid/f.png"])
    joined = with_decisions(load_folder(tmp_path / "parts"), data)
    own = {f"{tmp_path}/parts/=lid/e.png": "=lid", f"{tmp_path}/parts/lid/f.png": "lid"}
    assert dict(zip(joined.images, joined.target, strict=True)) == own | found
    with pytest.raises(ValueError, match=r"d\.png' names the product '=lid', but .*\['lid'\]"):
        with_decisions(load_folder(tmp_path / "lid"), data)  # it would be a second product
    joined = with_decisions(load_folder(tmp_path / "lid"), load_decisions(more))
    lid = {f"{tmp_path}/lid/{name}.png": "lid" for name in "ab"}
    assert dict(zip(joined.images, joined.target, strict=True)) == lid | {f"{new}/c.png": "lid"}
    decided = decisions(tmp_path / "three.csv", f"{tmp_path}/lid/b.png,defect,lid,-4")
    joined = with_decisions(load_folder(tmp_path / "lid"), load_decisions(decided))
    assert joined.target.tolist() == ["lid", "-1"]  # which counts where both have an image
    assert np.unique(joined.split).tolist() == ["train"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{}/a.png,maybe,lid,1", "line 2: the decision 'maybe' is neither"),
        ("{}/a.png,good,,1", "line 2: there is no product"),
        ("{}/b.png,good,lid,1", "line 2: the image '.*b.png' does not exist"),
        ("", "there is no decision"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, row, expected):
    write(tmp_path, ["a.png"])
    file = decisions(tmp_path / "d.csv", row.format(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        load_decisions(file)


def test_files_that_hold_no_decisions_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of decisions"):
        load_decisions(tmp_path / "no.csv")
    (tmp_path / "x.csv").write_text("path,verdict\n")
    with pytest.raises(ValueError, match="has no column 'decision'.*path, decision, product"):
        load_decisions(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("separator", "encoding"),
    [(";", "utf-8-sig"), (";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")],
)
def test_what_a_spreadsheet_saved_again_is_read(separator, encoding, tmp_path):
    write(tmp_path, ["müll/a.png"])
    lines = (
        ["path", "decision", "product"],
        [f"{tmp_path}/müll/a.png", "Good ", "müll"],
        ["", "", ""],  # a line that was emptied
    )
    text = "".join(separator.join(line) + "\r\n" for line in lines)
    (tmp_path / "decisions.csv").write_bytes(text.encode(encoding))
    data = load_decisions(tmp_path / "decisions.csv")
    assert data.images.tolist() == [f"{tmp_path}/müll/a.png"]
    assert data.target.tolist() == ["müll"]


def test_a_picture_is_the_same_by_another_path(tmp_path):
    write(tmp_path, ["disk/lid/a.png", "disk/lid/b.png"])
    (tmp_path / "share").symlink_to(tmp_path / "disk")
    file = decisions(
        tmp_path / "d.csv",
        f"{tmp_path}/share/lid/a.png,good,lid,1",
        f"{tmp_path}/disk/lid/a.png,defect,lid,1",
    )
    data = load_decisions(file)
    assert data.target.tolist() == ["-1"]
    joined = with_decisions(load_folder(tmp_path / "share/lid"), data)
    assert joined.target.tolist() == ["lid", "-1"]  # not normal and a defect at once
