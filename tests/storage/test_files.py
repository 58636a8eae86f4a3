"""Files that are written whole or not at all."""

import os
import time

from skhgad.storage.files import is_part, short_name, whole_file


def test_what_killed_processes_left_a_day_ago_is_removed(tmp_path):
    left = {".a.csv.0123abcd.part": 25, ".a.csv.0123abce.part": 1, ".b.csv.0123abcd.part": 25}
    for name, hours in left.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    with whole_file(tmp_path / "a.csv") as part:
        part.write_text("a")
    # One may still be written; the other belongs to another file.
    expected = [".a.csv.0123abce.part", ".b.csv.0123abcd.part", "a.csv"]
    assert sorted(os.listdir(tmp_path)) == expected


def test_a_name_of_any_length_has_room_for_an_ending(tmp_path):
    name = "ü" * 125 + ".csv"  # 254 bytes
    with whole_file(tmp_path / name) as part:
        part.write_text("a")
        assert is_part(part.name, name) and not is_part(part.name, f"x{name}")
    assert os.listdir(tmp_path) == [name]
    names = [short_name(f"{'ü' * 124}{letter}", "_mask.png") for letter in "ab"]
    assert len(set(names)) == 2 and all(n.endswith("_mask.png") for n in names)
    assert max(len(n.encode()) for n in names) <= 255
    assert short_name("a" * 246, "_mask.png") == "a" * 246 + "_mask.png"
