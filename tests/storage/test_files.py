"""Files that are written whole or not at all."""

import os
import time

from skhgad.storage.files import whole_file


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
