"""The benchmarks of the line: the simulation is that of the monitor's own martingale."""

import io

import numpy as np
from PIL import Image

from benchmarks import drift, serve_load


def test_the_simulation_checks_itself_and_finds_no_drift():
    assert drift.simulate(4, 200, 30, 0.02).tolist() == [0, 0]


def test_changed_pictures_keep_their_size():
    image = Image.open(io.BytesIO(serve_load.pictures(32, n=1)[0]))
    for name, change in drift.CHANGES.items():
        changed = change(image)
        assert changed.size == image.size and changed.mode == "RGB"
        assert (name == "none") == np.array_equal(np.asarray(changed), np.asarray(image)), name


def test_delays_are_counted_from_the_change():
    runs = [(5, "sharpness"), None, (9, "sharpness"), (7, "score")]
    assert drift._summary(runs) == ["3 of 4", "7", "9", "sharpness"]
    assert drift._summary([(-1, "score"), (3, "score")])[0] == "2 of 2, 1 before the change"
    assert drift._summary([None]) == ["0 of 1", "-", "-", "-"]
