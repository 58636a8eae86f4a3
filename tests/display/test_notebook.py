"""What a notebook shows, and what ``verbose=1`` says."""

from types import SimpleNamespace

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.fitting.tell import Decisions
from skhgad.scoring.certificate import bound_text

X = np.random.default_rng(0).normal(size=(60, 3))
Y = ["bolt <b>"] * 40 + ["nut"] * 20


@pytest.fixture(scope="module")
def detector():
    return HGADDetector(random_state=0).fit(X, Y)


def test_a_notebook_shows_products_threshold_and_certificate(detector):
    html = detector._repr_mimebundle_()["text/html"]
    assert "fitted on 2 products" in detector._repr_html_()
    assert "fitted on 2 products" in html and "<td>bolt &lt;b&gt;</td>" in html
    for found in detector.certificate():
        assert f"<td>{found.n_normals}</td><td>{bound_text(found)}</td>" in html
    assert f"<td>{detector.offset_:.4g}</td>" in html
    unfitted = HGADDetector()._repr_mimebundle_()["text/html"]
    assert "fitted on" not in unfitted and "HGADDetector" in unfitted


def test_verbose_says_what_fit_decided(capsys):
    HGADDetector(random_state=0, verbose=1, n_components=2).fit(X, Y)
    said = capsys.readouterr().out
    assert "60 normal samples of 2 classes: bolt <b> 40, nut 20\n" in said
    assert "no flow is trained: with max_iter='auto'" in said
    assert "centers of the classes: bolt <b> 2, nut 2" in said
    assert "10 models, each fitted without one part" in said
    HGADDetector(random_state=0).fit(X, Y)
    assert capsys.readouterr().out == ""


def test_other_decisions_have_words_too():
    codes, classes = np.zeros(30, dtype=int), np.array(["lid"])
    held_out = np.arange(30)[None] < 6
    many, one = (
        SimpleNamespace(n_components=np.array([[n]]), level_weights=np.ones((1, 1)))
        for n in (30, 1)
    )
    text = Decisions(classes, codes, held_out, 0, 2, 5, True).text(5, many)
    assert "the flow is trained for 5 passes" in text and "lid kernels" in text
    assert "held out of the training, for the calibration: lid 6" in text
    assert "2 samples that look most anomalous take no part" in text
    nothing = np.zeros((1, 30), dtype=bool)
    text = Decisions(classes, codes, nothing, 0, 0, 0, False).text(0, one)
    assert "because max_iter is 0" in text and "no sample is held out" in text
    assert "each class is one Gaussian" in text
