"""Names of classes that matplotlib, UTF-8 or a terminal would take for something else."""

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.text import printable

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["gr\udcfcn", r"$\frac$", "a$b$\tc"]  # Latin-1 as the system reads it, and no formulas


def test_a_model_of_odd_names_is_saved_and_drawn(tmp_path):
    display = pytest.importorskip("skhgad.display")
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3)) + np.repeat([0.0, 5.0, -5.0], 30)[:, None]
    names = np.repeat(NAMES, 30).astype(object)
    detector = HGADDetector(random_state=0).fit(X, names)
    detector.save(tmp_path / "model")
    assert set(HGADDetector.load(tmp_path / "model").classes_) == set(NAMES)
    scores = display.ScoreDistributionDisplay.from_estimator(detector, X)
    latent = display.LatentSpaceDisplay.from_estimator(detector, X)
    for shown in (scores, latent):
        shown.figure_.draw_without_rendering()
    expected = {"$\\frac$".replace("$", r"\$"), r"a\$b\$\tc", r"gr\udcfcn"}
    assert {text.get_text() for text in scores.ax_.get_yticklabels()} == expected
    assert printable(NAMES[0]) == r"gr\udcfcn"


def test_the_report_of_a_product_whose_folder_is_no_utf_8(small_detector, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind in ("good", "dirt"):
        write(tmp_path / "in/stripe/test" / kind / "a.png", draw(rng, "stripe"))
    (tmp_path / "in/stripe").rename(tmp_path / "in" / NAMES[0])
    detector = HGADDetector(**small_detector.get_params())
    pictures = [draw(rng, "stripe") for _ in range(6)]
    detector.fit(pictures, [NAMES[0]] * 6).save(tmp_path / "model")
    words = [
        "report",
        str(tmp_path / "model"),
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0, capsys.readouterr().err
    assert r"gr\udcfcn" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
