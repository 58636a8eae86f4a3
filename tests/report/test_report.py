"""The report through `main(argv)`: what the page says, and that it is harmless and whole."""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.datasets import load_folder
from skhgad.metrics import image_metrics, mardia, miss_rates, pixel_metrics
from skhgad.regions import find_regions
from skhgad.report.clearest import Clearest
from skhgad.report.contents import Row, gaussianity_table
from skhgad.report.densities import densities_of
from skhgad.report.evaluation import figures_text
from skhgad.report.page import render_page

pytestmark = pytest.mark.usefixtures("one_thread")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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

    def links(self):
        return [attributes.get("href") for attributes in self.all("a")]

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
    assert re.search(r"image_size\s+64\s+default 384", text)
    assert re.search(rf"torch\s+{re.escape(torch.__version__.split('+')[0])}", text)


def test_the_page_certifies_every_class(html, detector):
    section = re.search(r'<section id="certificate">.*?</section>', html, re.DOTALL).group()
    header, *rows = re.findall(r"<tr>(.*?)</tr>", section)
    assert header.endswith(">false alarms (95 % confidence)</th>")
    certificates = detector.certificate(0.95)
    assert [found.class_label for found in certificates] == ["checker", "stripe"]
    for row, found in zip(rows, certificates, strict=True):
        counts = [str(found.n_normals), str(found.n_flagged)]
        bound = f"at most {100 * found.bound:.3g} %"
        assert re.findall("<td>(.*?)</td>", row) == [found.class_label, *counts, bound]


def test_the_page_names_the_density_of_every_class(html, detector):
    section = re.search(r'<section id="densities">.*?</section>', html, re.DOTALL).group()
    _, *rows = re.findall(r"<tr>(.*?)</tr>", section)
    found = [tuple(re.findall("<td>(.*?)</td>", row)) for row in rows]
    assert found == densities_of(detector) and len(found) == 2


def test_misses_and_false_alarms_stand_beside_each_other(html):
    kinds = re.findall(r'<section class="group( beside)?"><h4>(\w+)', html)
    assert {"Missed", "False"} & {title for _, title in kinds}
    assert all(bool(beside) == (title in ("Missed", "False")) for beside, title in kinds)


def test_products_called_mean_and_pooled_have_rows_of_their_own(detector):
    rng = np.random.default_rng(0)
    names = np.repeat(["mean", "pooled"], [40, 60])
    y = np.where(rng.random(100) < 0.4, -1, 1)
    scores = rng.normal(size=100) + 2 * (y == 1) * (names == "mean") - (names == "pooled")
    maps = rng.random((100, 8, 8)) + 0.1 * (names == "mean")[:, None, None]
    masks = (rng.random(maps.shape) < 0.5 * maps) & (y == -1)[:, None, None]
    image = image_metrics(y, scores, names, offset=0.5)
    misses = miss_rates(y, scores, names)
    pixel = pixel_metrics(masks, maps, names)
    figures = {
        "n_images": 100, "n_anomalies": int(np.sum(y == -1)), "offset": 0.5, "class_found": 1.0,
        "image": image, "misses_at": misses, "pixel": pixel, "notes": [], "warnings": [],
    }  # fmt: skip
    expected = []
    for name, of_images, of_misses, of_pixels in (
        ("mean", image.per_class["mean"], misses.per_class["mean"], pixel.per_class["mean"]),
        (
            "pooled",
            image.per_class["pooled"],
            misses.per_class["pooled"],
            pixel.per_class["pooled"],
        ),
        ("mean (all classes)", image.mean, misses.mean, pixel.mean),
        ("pooled (all classes)", image.pooled, misses.pooled, pixel.pooled),
    ):
        values = [of_images[k] for k in ("auroc", "ap", "f1_max", "false_alarm_rate", "miss_rate")]
        values += [*of_misses.values(), *(of_pixels[k] for k in ("auroc", "aupro"))]
        expected.append([name, *(f"{value:.3f}" for value in values)])
        assert expected[-1].pop(6) == "nan"  # at 1 %: too few normals
    for column in zip(*expected, strict=True):
        assert len(set(column)) == 4  # a figure of another row would show
    lines = figures_text(figures, []).splitlines()[1:5]
    assert [re.split(r"\s{2,}", line.replace("   -", "")) for line in lines] == expected
    row = Row("a.png", "data:,", "mean", "mean", "good", 1.0, 0.5, False, (0, 0), 0, 0.0)
    html = render_page(
        detector, [row], source="in", model="model", figures=figures, groups=[], pictures=[]
    )
    assert "#clearest" not in Page(html).links()
    section = html[html.index('<section id="classes">') : html.index('<section id="certificate">')]
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in section.split("</tr>")]
    assert [[text for text in line if text != "–"] for line in cells if line] == expected


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


def groups_of(html):
    """The names of the images by product and heading, in the order of the page."""
    section = html[html.index('<section id="clearest">') : html.index('<div id="pictures">')]
    found = {}
    for text in section.split('<section class="product"><h3><bdi>')[1:]:
        product = text[: text.index("</bdi>")]
        for group in text.split("<h4>")[1:]:
            names = re.findall(r"<figcaption><bdi>(.*?)</bdi>", group)
            found[product, re.split(r"[:,<(]", group)[0].strip()] = names
    return found


def row_of(product, score, label, offset=0.0):
    name = f"{product}/{label}/{score}.png"
    flagged = score < offset
    return Row(name, "", product, product, label, score, 0.5, flagged, (0, 0), 0, 0.0)


def test_every_product_has_groups_of_its_own():
    scores = {
        ("cap", "good"): [1, 2, 3, -1, -2, -3],
        ("cap", "dent"): [-7, -9, -8, 5, 4, 6],
        ("lid", "good"): [30, 20, 10],
    }
    rows = [row_of(product, score, label) for (product, label), v in scores.items() for score in v]
    clearest = Clearest(2)
    for index, row in enumerate(rows):
        clearest.offer(index, row, lambda row=row: (row.path, None, None))
    found = [(g.product, g.kind.title.split(":")[0].split(",")[0], [c.pixels for c in g.images])
             for g in clearest.groups()]  # fmt: skip
    assert [(g.n_all, g.title.removeprefix(g.kind.title)) for g in clearest.groups()] == [
        (6, " (2 of 6)"), (3, " (2 of 3)"), (3, " (2 of 3)"), (3, " (2 of 3)")
    ]  # fmt: skip
    assert found == [
        ("cap", "Judged rightly", ["cap/dent/-9.png", "cap/dent/-8.png"]),
        ("cap", "Missed", ["cap/dent/6.png", "cap/dent/5.png"]),
        ("cap", "False alarms", ["cap/good/-3.png", "cap/good/-2.png"]),
        ("lid", "Judged rightly", ["lid/good/10.png", "lid/good/20.png"]),
    ]
    assert [rows[-c.minus_index].path for g in clearest.groups() for c in g.images] == [
        name for _, _, names in found for name in names
    ]


def test_pictures_are_made_of_the_clearest_only():
    clearest, made = Clearest(1), []
    for index, score in enumerate([-5, -4, -6, -6]):
        row = row_of("cap", score, "dent")
        clearest.offer(index, row, lambda i=index: made.append(i) or (i, None, None))
    assert made == [0, 2]
    none = Clearest(0)
    none.offer(0, row, None)
    assert none.groups() == []


def test_the_page_shows_the_clearest_of_every_product(html, products, detector):
    found = groups_of(html)
    table = Page(html).table()
    titles = {"Judged rightly": ("anomaly", "normal"), "Missed": ("missed",),
              "False alarms": ("false alarm",)}  # fmt: skip
    expected = {}
    for product in ("checker", "stripe"):
        for title, verdicts in titles.items():
            of_kind = [row["image"] for row in table if row["verdict"] in verdicts]
            names = [name for name in of_kind if name.startswith(product)]  # by score
            if names:
                expected[product, title] = (names[::-1] if title == "Missed" else names)[:2]
    assert found == expected and {product for product, _ in found} == {"checker", "stripe"}
    for group, names in found.items():
        n_all = sum(
            row["verdict"] in titles[group[1]] and row["image"].startswith(group[0])
            for row in table
        )
        assert n_all <= 2 or re.search(rf"<h4>{group[1]}[^<]* \({len(names)} of {n_all}\)<", html)
    assert " of 3)</h4>" in html


def test_without_labels_products_are_the_classes_found(model, products, tmp_path):
    html = run(model, products / "stripe/test", tmp_path / "out", "--top", "1")
    table = Page(html).table()
    first = {}
    for row in table:
        first.setdefault(row["class"], row["image"])
    assert groups_of(html) == {(k, "Most anomalous"): [name] for k, name in sorted(first.items())}


def test_test_pictures_that_are_those_of_the_fit_are_counted(model, products, tmp_path, capsys):
    """The detector was fitted to the first 12 pictures of this generator."""
    rng, text = np.random.default_rng(1), "normal test pictures were among those of the fit"
    for i in range(12):
        write(tmp_path / "in/checker/test/good" / f"{i}.png", texture(rng, "checker")[0])
    shutil.copytree(products / "checker", tmp_path / "in/checker", dirs_exist_ok=True)
    for other in (0, 1):  # new ones, as the three that replace 0.png to 2.png
        new = tmp_path / f"in/checker/test/good/n{other}.png"
        shutil.copy(products / "checker/test/good/0.png", new)
    html = run(model, tmp_path / "in", tmp_path / "out", "--top", "1")
    said = capsys.readouterr().out
    assert f"warning: 9 of 14 {text}: the figures flatter" in said
    assert f"9 of 14 {text}" in html
    run(model, products, tmp_path / "other", "--top", "1")
    assert text not in capsys.readouterr().out


def test_a_very_thin_picture_is_drawn_without_outlines(model, tmp_path):
    """At the size of the page it has one row, where matplotlib draws no contours."""
    write(tmp_path / "in/a.png", texture(np.random.default_rng(0), "stripe")[0])
    thin = np.full((3, 2000), 90, dtype=np.uint8)
    thin[:, 900:1100] = 255  # some of it above the threshold
    write(tmp_path / "in/thin.png", thin)
    write(tmp_path / "in/tall.png", thin.T)
    table = Page(run(model, tmp_path / "in", tmp_path / "out")).table()
    assert [row["image"] for row in table if int(row["regions"])] == ["thin.png", "tall.png"]


def test_filters_by_label_and_verdict(html):
    page = Page(html)
    options = re.findall(r'<form data-of="(\w+)" aria-label="[^"]+">(.*?)</form>', html, re.DOTALL)
    filters = {of: dict(re.findall(r'<label>(\w+) <select data-filter="\1">(.*?)</select>', text))
               for of, text in options}  # fmt: skip
    assert {of: list(names) for of, names in filters.items()} == {
        "cards": ["product", "label", "verdict"], "table": ["class", "label", "verdict"],
    }  # fmt: skip
    assert all("<output>" in text for _, text in options)  # says how many are left
    rows = [row for row in page.all("tr") if "data-class" in row]
    cards = [figure for figure in page.all("figure") if "data-product" in figure]
    assert len(rows) == 12 and len(cards) == sum(map(len, groups_of(html).values()))
    for of, items in (("table", rows), ("cards", cards)):
        for name, text in filters[of].items():
            values = re.findall("<option>(.*?)</option>", text)
            assert values == sorted({item[f"data-{name}"] for item in items})
    by_name = {row["image"]: row for row in page.table()}
    texts = re.findall(r'data-label="(.*?)" data-verdict="(.*?)">\s*<td>.*?<bdi>(.*?)</bdi>', html)
    for label, verdict, name in texts:
        assert (by_name[name]["label"], by_name[name]["verdict"]) == (label, verdict)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_filters_hide_what_does_not_match(html, tmp_path):
    act = """<script>
    const set = (of, name, value) => {
      const element = document.querySelector(`form[data-of="${of}"] [data-filter="${name}"]`);
      element.value = value;
      element.dispatchEvent(new Event("input"));
    };
    set("table", "label", "good");
    set("table", "name", "STRIPE");
    set("cards", "product", "checker");
    </script></body>"""
    html = re.sub("<meta http-equiv.*?>", "", html).replace("</body>", act)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    page = Page(shown)
    assert {(row["label"], row["image"].split("/")[0]) for row in page.table()} == {
        ("good", "stripe")
    }
    assert "3 of 12 images</output>" in shown
    cards = [figure for figure in page.all("figure") if "data-product" in figure]
    assert all(("hidden" in card) == (card["data-product"] != "checker") for card in cards)
    hidden = [section for section in page.all("section") if "hidden" in section]
    n_groups = sum(product == "stripe" for product, _ in groups_of(html))
    assert len(hidden) == 1 + n_groups  # the product, and its groups


def test_warnings_and_notes_stand_on_the_page(html, products, model, capsys):
    assert main(["evaluate", str(model), str(products)]) == 0
    said = capsys.readouterr().out.splitlines()
    notes = [line for line in said if "at 1, 5 and 10 %" in line or "test normals" in line]
    assert len(notes) == 2 and all(f'<p class="note">{line}</p>' in html for line in notes)
    warned = [line.split(": ", 1)[1] for line in said if line.startswith("warning: ")]
    assert warned == re.findall("<li>(.*?)</li>", html)
    assert ('<section id="warnings">' in html) == bool(warned)


def test_thumbnails_are_small_and_pictures_are_all_there(html):
    page = Page(html)
    kinds = {"jpeg": [], "png": []}
    for image in page.all("img"):
        kind, content = re.match(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        kinds[kind].append(Image.open(io.BytesIO(base64.b64decode(content))))
    assert sorted(image.size for image in kinds["jpeg"]) == [(48, 48)] * 6 + [(72, 24)] * 6
    n_cards = len(page.all("figcaption")) - 3
    assert len(kinds["png"]) == n_cards + 3  # scores, latent space, training
    for title in ("Scores", "Latent space", "Training", "The clearest images of every product"):
        assert f"<h2>{title}</h2>" in html


def test_the_page_says_how_gaussian_each_class_is(html):
    text = re.sub(r"<[^>]+>", " ", html)  # 3 normal images a product, of 4 positions each
    header = r"class\s+vectors\s+axes\s+kurtosis / Gaussian\s+kurtosis, z\s+skewness, z\s+"
    assert re.search(header + r"checker\s+too few[\s–]+stripe\s+too few", text)


def test_figures_of_gaussianity_are_those_of_the_display():
    found = mardia(np.random.default_rng(0).exponential(size=(100, 3)))
    rows = gaussianity_table({"bolt": found, 7: None}).rows
    ratio, *z = (f"{value:.3g}" for value in (found.kurtosis_ratio, *found[:3:-1]))
    assert rows == [["bolt", "100", "3", ratio, *z], ["7", "too few", "–", "–", "–", "–"]]


@pytest.mark.once
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
    assert len([i for i in page.all("img") if "png" in i["src"][:20]]) == 3
    assert "<h2>Drift</h2>" in html and "No drift is found." in html
    assert "of 3 images are anomalies" in capsys.readouterr().out


@pytest.mark.once
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


@pytest.mark.once
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
    content = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/a.png").write_bytes(content[:200])
    argv = ["report", model, tmp_path / "in", "--out", tmp_path / "out"]
    assert main([str(word) for word in argv]) == 3
    assert "a.png cannot be read as an image" in capsys.readouterr().err
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
    assert "the report needs matplotlib. Install it: pip install matplotlib, or, in a clone" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("top", ["-1", "101", "some", "1.5"])
def test_top_is_a_small_number(top, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", "a", "b", "--out", "c", f"--top={top}"])
    assert caught.value.code == 2 and "from 0 to 100" in capsys.readouterr().err


def test_thresholds_of_products_stand_on_the_page(model, products, tmp_path, capsys):
    argv = ["report", str(model), str(products), "--out", str(tmp_path / "out"), "--top", "1"]
    assert main([*argv, "--false-alarm-rate", "0.4", "stripe=0.9"]) == 0
    detector = HGADDetector.load(model).set_threshold(false_alarm_rate=0.4)
    detector.set_threshold(false_alarm_rate={"stripe": 0.9})
    own = detector.class_offsets_["stripe"]
    text = f"{detector.offset_:.4g} (stripe: {own:.4g})"
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert text in page and text in capsys.readouterr().out
    data = load_folder(products, split="test")
    flagged = detector.predict(data.images) == -1
    found = re.findall(r">(anomaly|normal|false alarm|missed)</td>", page)
    assert sum(word in ("anomaly", "false alarm") for word in found) == flagged.sum()
