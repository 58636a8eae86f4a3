"""The page of `review`: what it asks, what it saves, and the loop back to a better model."""

import html as html_module
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from small_pictures import draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.datasets import load_decisions
from skhgad.report.review import order_to_ask

pytestmark = pytest.mark.usefixtures("one_thread")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five stripes, one of them with a defect, of names that need care."""
    root, rng = tmp_path_factory.mktemp("new"), np.random.default_rng(3)
    for i in range(4):
        write(root / f"{i}.png", draw(rng, "stripe"))
    write(root / 'a, "b" <c>.png', draw(rng, "stripe", defect=True))
    return root


@pytest.fixture(scope="module")
def page(small_model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("review")
    assert main(["review", str(small_model), str(folder), "--out", str(out), "--most", "4"]) == 0
    return out / "review.html"


def test_near_the_threshold_and_unusual_come_in_turn():
    scores, thresholds = [0.0, -2.0, -50.0, -3.1, 5.0], [-3.0] * 4 + [4.8]
    assert order_to_ask(scores, thresholds, 9) == [3, 2, 4, 1, 0]
    assert order_to_ask(scores, thresholds, 2) == [3, 2]


def test_the_page_asks_about_the_doubtful(page, folder, small_detector):
    html = page.read_text(encoding="utf-8")
    asked = [html_module.unescape(path) for path in re.findall('<article data-path="(.*?)"', html)]
    paths = sorted(map(str, folder.iterdir()))
    scores = small_detector.score_samples(paths)
    order = order_to_ask(scores, [small_detector.offset_] * 5, 4)
    assert asked == [paths[i] for i in order] and html.count("data:image/jpeg") == 8
    assert "The model says: anomaly. The score " in html and 'a, "b" <c>.png' not in html
    assert html.count("<option selected>stripe</option><") + html.count("stripe</option></s") >= 4


def test_a_picture_that_cannot_be_read_stops_neither_page_nor_text(
    small_model, folder, tmp_path, capsys
):
    pictures = tmp_path / "in"
    pictures.mkdir()
    shutil.copy(folder / "0.png", pictures / "a.png")
    (pictures / "b.png").write_bytes((folder / "1.png").read_bytes()[:99])
    model, out = str(small_model), str(tmp_path / "out")
    for command in ("review", "report"):
        assert main([command, model, str(pictures), "--out", out]) == 3
        page = (tmp_path / "out" / f"{command}.html").read_text(encoding="utf-8")
        assert "a.png" in page and "b.png" not in page
        said = capsys.readouterr()
        assert f"skhgad: error: {pictures / 'b.png'} cannot be read" in said.err
        assert "1 of 2 images could not be read" in said.err and " of 1 images" in said.out
    assert main(["explain", model, str(pictures), "--json", "-"]) == 3
    records = json.loads(capsys.readouterr().out)
    assert [record["error"] is None for record in records] == [True, False]
    (pictures / "a.png").unlink()
    for command in ("review", "report"):
        assert main([command, model, str(pictures), "--out", f"{out} none"]) == 3
    assert not (tmp_path / "out none").exists()


def test_a_foreign_page_is_kept(small_model, folder, tmp_path, capsys):
    (tmp_path / "review.html").write_text("mine")
    assert main(["review", str(small_model), str(folder), "--out", str(tmp_path)]) == 2
    assert "is no review of skhgad" in capsys.readouterr().err
    assert main(["review", str(small_model), str(folder), "--out", str(folder / "x")]) == 2
    assert "lies in the folder of images" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_decisions_of_the_browser_reach_the_next_fit(page, folder, tmp_path, capsys):
    """Click, save, fit again."""
    act = """<script>
    const click = (name, decision) => {
      const article = Array.from(document.querySelectorAll("article"))
        .find((one) => one.dataset.path.endsWith(name));
      if (!article) return;
      article.querySelector(`button[data-decision="${decision}"]`).click();
    };
    click('<c>.png', "good");
    click('<c>.png', "defect");
    for (const i of [0, 1, 2, 3]) click(`${i}.png`, "good");
    const first = document.querySelectorAll("article")[0];
    first.querySelector("button[aria-pressed=true]").click();
    first.querySelector("button[data-decision=good]").click();
    fetch(document.getElementById("save").href).then((answer) => answer.text()).then((text) => {
      const place = document.createElement("pre");
      place.id = "saved";
      place.textContent = text;
      document.body.append(place);
    });
    </script></body>"""
    html = page.read_text(encoding="utf-8")
    html = re.sub("<meta http-equiv.*?>", "", html).replace("</body>", act)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=2000", f"--user-data-dir={tmp_path / 'browser'}"]
    command += [(tmp_path / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    (saved,) = re.findall('<pre id="saved">(.*?)</pre>', shown, re.DOTALL)
    file = tmp_path / "decisions.csv"
    file.write_text(html_module.unescape(saved), encoding="utf-8")
    assert "4 of 4 decided</output>" in shown
    data = load_decisions(file)
    is_defect = np.array(["<c>" in path for path in data.images])
    assert is_defect.sum() == 1 and len(data.images) == 4
    first = re.search('<article data-path="(.*?)"', html).group(1)
    expected = np.where(is_defect & (html_module.unescape(first) != data.images), -1, 1)
    assert data.y.tolist() == expected.tolist()

    rng = np.random.default_rng(4)
    for i in range(8):
        write(tmp_path / "stripe" / f"{i}.png", draw(rng, "stripe"))
    write(tmp_path / "stripe/bad/x.png", draw(rng, "stripe", defect=True))
    argv = ["fit", tmp_path / "stripe", "--decisions", file, "--out", tmp_path / "model"]
    argv += ["--image-size", "32", "--set", "image_scales=(1,)"]
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 0
    n_good = 8 + int((data.y == 1).sum())
    said = capsys.readouterr().out
    assert f"{n_good} normal images of 1 product: stripe {n_good}" in said
    fitted = HGADDetector.load(tmp_path / "model")
    assert len(fitted.model_.calibration.scores) == n_good
