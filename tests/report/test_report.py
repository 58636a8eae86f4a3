"""The report through `main(argv)`: what the page says, and that it is harmless and whole."""

import base64
import hashlib
import io
import os
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.datasets import load_folder
from skhgad.metrics import image_metrics, pixel_metrics
from skhgad.regions import find_regions
from skhgad.report.contents import Row
from skhgad.report.evaluation import figures_text
from skhgad.report.page import render_page

pytestmark = pytest.mark.usefixtures("one_thread")


def texture(rng, product, *, blob=False, size=(48, 48)):
    """A striped or checked image with noise, and the mask of its white blob."""
    row, column = np.mgrid[: size[0], : size[1]]
    wave = np.sin(row / 2) if product == "stripe" else np.sign(np.sin(row / 3) * np.sin(column / 3))
    grey = 100 + 40 * wave + rng.normal(0, 6, size)
    mask = np.hypot(row - 20, column - 25) < 9
    if blob:
        grey[mask] = 255
    return np.clip(grey, 0, 255).astype(np.uint8), mask


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Two labelled products; the test images of checker have other sizes."""
    root, rng = tmp_path_factory.mktemp("data") / "products", np.random.default_rng(0)
    for product, size in (("checker", (40, 120)), ("stripe", (48, 48))):
        for i in range(3):
            write(root / product / "test/good" / f"{i}.png", texture(rng, product, size=size)[0])
            pixels, mask = texture(rng, product, blob=True, size=size)
            write(root / product / "test/blob" / f"{i}.png", pixels)
            write(root / product / "ground_truth/blob" / f"{i}_mask.png", np.uint8(255) * mask)
    return root


@pytest.fixture(scope="module")
def detector():
    rng = np.random.default_rng(1)
    images = [texture(rng, product)[0] for product in ("checker", "stripe") for _ in range(12)]
    labels = ["checker"] * 12 + ["stripe"] * 12
    parameters = {"image_size": 64, "max_iter": 2, "n_blocks": 2, "random_state": 3}
    return HGADDetector(**parameters).fit(np.stack(images), labels)


@pytest.fixture(scope="module")
def model(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    detector.save(folder)
    return folder


class Page(HTMLParser):
    """Elements with their attributes, and the texts of the table of images."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.rows, self.title = [], [], ""
        self._cell, self._in_table, self._tag = None, False, ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._tag = tag
        if tag == "table":
            self._in_table = dict(attributes).get("id") == "table"
        if self._in_table and tag == "tr":
            self.rows.append([])
        if self._in_table and tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = self.rows[-1]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None
        if tag == "table":
            self._in_table = False

    def handle_data(self, text):
        if self._cell is not None:
            self._cell[-1] += text
        if self._tag == "title":
            self.title += text

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self):
        """The rows as dicts from the header."""
        header, *rows = self.rows
        return [dict(zip(header, map(str.strip, row), strict=True)) for row in rows]


def run(model, folder, out, *options):
    """Write a report; return its HTML."""
    argv = ["report", model, folder, "--out", out, *options]
    assert main([str(word) for word in argv]) == 0
    return (out / "report.html").read_text(encoding="utf-8")


def refusal(capsys, *argv):
    """Run the command, which must refuse its input; return what it says on stderr."""
    assert main(["report", *(str(word) for word in argv)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("skhgad: error: ") and "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def html(products, model, tmp_path_factory):
    return run(model, products, tmp_path_factory.mktemp("out") / "new" / "folder", "--top", "2")


def test_the_table_is_what_the_estimator_says(html, products, detector):
    data = load_folder(products, split="test")
    scores, p_values = detector.score_samples(data.images), detector.p_values(data.images)
    found, flagged = detector.predict_class(data.images), detector.predict(data.images) == -1
    table = Page(html).table()
    for row, i in zip(table, np.argsort(scores, kind="stable"), strict=True):
        assert row["image"] == os.path.relpath(data.images[i], products)
        assert row["label"] == data.defect[i]
        assert row["class"].split()[0] == found[i]
        assert ("(is " in row["class"]) == (found[i] != data.class_label[i])
        assert float(row["score"]) == pytest.approx(scores[i], abs=1e-3)
        assert float(row["p-value"]) == pytest.approx(p_values[i], abs=1e-4)
        right = flagged[i] == (data.y[i] == -1)
        expected = ("anomaly" if right else "false alarm") if flagged[i] else (
            "normal" if right else "missed"
        )  # fmt: skip
        assert row["verdict"] == expected
        (anomaly_map,) = detector.anomaly_maps([data.images[i]])
        regions = find_regions(anomaly_map, -detector.offset_)
        assert int(row["regions"]) == len(regions)
        share = 100 * sum(region.area for region in regions) / anomaly_map.size
        assert float(row["area, %"]) == pytest.approx(share, abs=0.1)
        peak = tuple(map(int, row["peak (row, column)"].split(",")))
        assert anomaly_map[peak] == pytest.approx(anomaly_map.max(), rel=1e-3)
    assert {row["verdict"] for row in table} & {"anomaly", "missed"}


def test_the_figures_are_those_of_evaluate(html, products, detector):
    data = load_folder(products, split="test")
    figures = image_metrics(
        data.y, detector.score_samples(data.images), data.class_label, offset=detector.offset_
    )
    text = re.sub(r"<[^>]+>", " ", html)
    assert re.search(rf"image AUROC, pooled\s+{figures.pooled.auroc:.3f}", text)
    for name, figure in figures.per_class.items():
        values = rf"{figure.auroc:.3f}\s+{figure.ap:.3f}\s+{figure.f1_max:.3f}"
        assert re.search(rf"{name}\s+{values}", text)
    assert "pixel AUROC, pooled" in text and "AUPRO" in text
    assert re.search(r"image_size\s+64\s+default 256", text)
    assert re.search(rf"torch\s+{re.escape(torch.__version__.split('+')[0])}", text)


def test_products_called_mean_and_pooled_have_rows_of_their_own(detector):
    rng = np.random.default_rng(0)
    names = np.repeat(["mean", "pooled"], [40, 60])
    y = np.where(rng.random(100) < 0.4, -1, 1)
    scores = rng.normal(size=100) + 2 * (y == 1) * (names == "mean") - (names == "pooled")
    maps = rng.random((100, 8, 8)) + 0.1 * (names == "mean")[:, None, None]
    masks = (rng.random(maps.shape) < 0.5 * maps) & (y == -1)[:, None, None]
    image = image_metrics(y, scores, names, offset=0.5)
    pixel = pixel_metrics(masks, maps, names)
    figures = {
        "n_images": 100, "n_anomalies": int(np.sum(y == -1)), "offset": 0.5, "class_found": 1.0,
        "image": image, "pixel": pixel,
    }  # fmt: skip
    expected = []
    for name, of_images, of_pixels in (
        ("mean", image.per_class["mean"], pixel.per_class["mean"]),
        ("pooled", image.per_class["pooled"], pixel.per_class["pooled"]),
        ("mean (all classes)", image.mean, pixel.mean),
        ("pooled (all classes)", image.pooled, pixel.pooled),
    ):
        values = [of_images[k] for k in ("auroc", "ap", "f1_max", "false_alarm_rate", "miss_rate")]
        values += [of_pixels[k] for k in ("auroc", "aupro")]
        expected.append([name, *(f"{value:.3f}" for value in values)])
    for column in zip(*expected, strict=True):
        assert len(set(column)) == 4  # a figure of another row would show
    lines = figures_text(figures, []).splitlines()[1:5]
    assert [re.split(r"\s{2,}", line) for line in lines] == expected
    row = Row("a.png", "data:,", "mean", "mean", "good", 1.0, 0.5, False, (0, 0), 0, 0.0)
    html = render_page(
        detector, [row], source="in", model="model", figures=figures, cards=[], pictures=[]
    )
    section = html[html.index('<section id="classes">') : html.index('<section id="clearest">')]
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in section.split("</tr>")]
    assert [line for line in cells if line] == expected


def test_the_page_loads_nothing_and_runs_only_its_own_script(html):
    page = Page(html)
    for _, attributes in page.elements:
        assert "src" not in attributes or attributes["src"].startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not page.all("link") and not page.all("iframe")
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_thumbnails_are_small_and_pictures_are_all_there(html):
    page = Page(html)
    kinds = {"jpeg": [], "png": []}
    for image in page.all("img"):
        kind, content = re.match(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        kinds[kind].append(Image.open(io.BytesIO(base64.b64decode(content))))
    assert sorted(image.size for image in kinds["jpeg"]) == [(48, 48)] * 6 + [(72, 24)] * 6
    assert len(kinds["png"]) == 2 + 3  # two most anomalous; scores, latent space, training
    for title in ("Scores", "Latent space", "Training", "The 2 most anomalous images"):
        assert f"<h2>{title}</h2>" in html


def test_plain_folders_and_a_model_without_training(detector, tmp_path, capsys):
    rng = np.random.default_rng(2)
    for i in range(3):
        write(tmp_path / "in/deep/er" / f"{i}.png", texture(rng, "stripe")[0])
    images = np.stack([texture(rng, "stripe")[0] for _ in range(8)])
    HGADDetector(image_size=64, max_iter=0, n_blocks=0).fit(images).save(tmp_path / "model")
    html = run(tmp_path / "model", tmp_path / "in", tmp_path / "out", "--top", "0")
    page = Page(html)
    assert len(page.table()) == 3 and "label" not in page.table()[0]
    assert {row["verdict"] for row in page.table()} <= {"normal", "anomaly"}
    assert "Training" not in html and "AUROC" not in html and "median score" in html
    assert len([i for i in page.all("img") if "png" in i["src"][:20]]) == 2
    assert "of 3 images are anomalies" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="no such file names there")
def test_names_are_text_and_nothing_else(model, tmp_path):
    rng = np.random.default_rng(3)
    names = [
        "<script>alert(1)</script>.png",
        '"><img src=x onerror=alert(2)>.png',
        "it's {{ script }} & {% raw %} ${rows} &lt;.png",
        "</table></main>/a.png",
        os.fsdecode(b"no text \xff.png"),
    ]
    folder = tmp_path / '<b>in "quotes"'
    for name in names:
        write(folder / name, texture(rng, "stripe")[0])
    html = run(model, folder, tmp_path / "out", "--top", "5")
    page = Page(html)
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert sorted(row["image"] for row in page.table()) == sorted(shown)
    assert len(page.all("script")) == 1 and len(page.all("main")) == 1 and not page.all("b")
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.title.strip() == f"skhgad: {folder}"


def test_own_reports_are_replaced_and_nothing_else(model, products, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    run(model, products, out, "--classes", "stripe", "--top", "0")
    first = (out / "report.html").read_bytes()
    (out / "notes.txt").write_text("mine")
    html = run(model, products, out, "--classes", "checker", "--top", "0")
    assert html.encode() != first and len(Page(html).table()) == 6
    assert sorted(os.listdir(out)) == ["notes.txt", "report.html"]
    (out / "report.html").write_text("<!doctype html><p>thesis")
    monkeypatch.setattr(HGADDetector, "load", None)  # the refusal comes before any work
    said = refusal(capsys, model, products, "--out", out)
    assert "is no report of skhgad" in said
    assert (out / "report.html").read_text() == "<!doctype html><p>thesis"
    assert "lies in the folder of images" in refusal(
        capsys, model, products, "--out", products / "report"
    )
    assert "is a file" in refusal(capsys, model, products, "--out", out / "notes.txt")


def test_a_failed_report_leaves_the_old_one(model, tmp_path, capsys):
    rng = np.random.default_rng(4)
    write(tmp_path / "in/a.png", texture(rng, "stripe")[0])
    run(model, tmp_path / "in", tmp_path / "out", "--top", "0")
    before = (tmp_path / "out/report.html").read_bytes()
    (tmp_path / "in/b.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:200])
    said = refusal(capsys, model, tmp_path / "in", "--out", tmp_path / "out")
    assert "b.png cannot be read as an image" in said
    assert os.listdir(tmp_path / "out") == ["report.html"]
    assert (tmp_path / "out/report.html").read_bytes() == before


def test_what_cannot_be_reported_is_named(model, products, tmp_path, capsys, monkeypatch):
    assert "no folder at" in refusal(capsys, model, tmp_path / "no", "--out", tmp_path / "out")
    plain = products / "stripe/test/good"
    said = refusal(capsys, model, plain, "--classes", "stripe", "--out", tmp_path / "out")
    assert "--classes" in said and "no <class>/test/ folders" in said
    X = np.random.default_rng(0).normal(size=(20, 3))
    HGADDetector(max_iter=0).fit(X).save(tmp_path / "vectors")
    said = refusal(capsys, tmp_path / "vectors", plain, "--out", tmp_path / "out")
    assert "fitted on feature vectors" in said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refusal(capsys, model, products, "--out", tmp_path / "out")
    assert 'the report needs matplotlib. Install it with: pip install "skhgad[display]"' in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("top", ["-1", "101", "some", "1.5"])
def test_top_is_a_small_number(top, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", "a", "b", "--out", "c", f"--top={top}"])
    assert caught.value.code == 2 and "from 0 to 100" in capsys.readouterr().err
