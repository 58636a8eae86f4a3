"""One picture that cannot be judged stops no other, and no model stops a service that works."""

import json
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_pictures import SIDE, draw, write

from skhgad import HGADDetector
from skhgad.command_line.main import build_parser, main
from skhgad.command_line.watch import watching_detector
from skhgad.report.findings import Finding, Unreadable, findings_of
from skhgad.service.batching import Batcher
from skhgad.service.figures import Figures
from skhgad.service.held_model import HeldModel
from skhgad.service.many_files import score_files
from skhgad.service.server import build_app

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.once]
PRODUCT = "lid\r\nX-Evil: 1 "  # no header may end with a space, or hold a line break


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """The folder of a model with a region of interest."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("framed") / "model"
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[4:-4, 4:-4] = True
    detector = HGADDetector(
        image_size=SIDE, image_scales=(1,), validation_fraction=0.4, random_state=0
    )
    detector.fit([draw(rng, "stripe") for _ in range(8)], [PRODUCT] * 8, roi=mask).save(folder)
    return folder


@pytest.fixture
def folder(tmp_path, rng):
    """Two pictures and, between them, one of another size."""
    for i in range(3):
        path = write(tmp_path / "in" / f"{i}.png", draw(rng, "stripe"))
    Image.open(path).resize((40, SIDE)).save(tmp_path / "in/1.png")
    return tmp_path / "in"


def test_a_picture_of_another_size_than_the_region_is_named_the_others_are_judged(framed, folder):
    paths = [str(folder / f"{i}.png") for i in range(3)]
    detector = HGADDetector.load(framed)
    first, other, last = findings_of(detector, paths)
    assert isinstance(first, Finding) and isinstance(last, Finding)
    assert isinstance(other, Unreadable)
    assert other.error.startswith(("roi", "the region")) and f"but {paths[1]} has" in other.error
    with pytest.raises(ValueError, match="no product class"):  # wrong for all of them
        findings_of(detector, paths, roi={"bolt": np.ones((SIDE, SIDE))})
    log = folder.parent / "log.jsonl"
    argv = ["watch", framed, folder, "--log", log, "--once", "--settle", "0", "--patience", "0"]
    assert main([str(word) for word in argv]) == 3
    verdicts = {r["file"]: r["verdict"] for r in map(json.loads, log.read_text().splitlines())}
    assert verdicts.pop("1.png") == "error" and set(verdicts) == {"0.png", "2.png"}
    assert set(verdicts.values()) <= {"normal", "anomaly"}


def test_the_server_says_why_one_picture_cannot_be_judged(framed, folder):
    held = HeldModel(str(framed), lambda: HGADDetector.load(framed), print)
    batcher = Batcher(held, 8, Figures(), drift={})
    with TestClient(build_app(batcher, batcher.figures)) as client:
        files = [("files", (f"{i}.png", (folder / f"{i}.png").read_bytes())) for i in range(2)]
        answer = client.post("/score", files=files)
        assert answer.status_code == 422 and "but 1.png has 32 x 40" in answer.json()["detail"]
        assert client.post("/score", files=files[:1]).status_code == 200
        answer = client.post("/map", files=files[:1])
        assert answer.status_code == 200 and "X-Evil" not in answer.headers
        assert answer.headers["X-Product"] == "lid\\r\\nX-Evil: 1"
        headers = {"Content-Length": "9" * 5000}
        assert client.post("/score", content=b"", headers=headers).status_code == 413


def test_unreadable_files_that_are_named_twice_are_no_error(model, detector, tmp_path):
    path = tmp_path / "bad.png"
    path.write_text("x")
    found = findings_of(detector, [str(path)] * 2)
    assert [finding.path for finding in found] == [str(path)] * 2
    records = score_files(model, [path, path], n_workers=1)
    assert [record["verdict"] for record in records] == ["error", "error"]
    assert main(["score", str(model), str(path), str(path)]) == 3


@pytest.mark.parametrize("kind", ["vectors", "all products"])
def test_a_new_model_that_cannot_be_used_leaves_the_old_one_at_work(kind, model, rng, tmp_path):
    own, said = shutil.copytree(model, tmp_path / "model"), []
    batcher = Batcher(
        HeldModel(str(own), lambda: HGADDetector.load(own), said.append), 8, Figures(), drift={}
    )
    if kind == "vectors":
        other = HGADDetector(random_state=0).fit(rng.normal(size=(20, 3)))
    else:
        other = HGADDetector(
            image_size=SIDE, image_scales=(1,), validation_fraction=0.4, random_state=0
        )
        other.fit([draw(rng, "stripe") for _ in range(8)], [kind] * 8)
    other.save(own)
    (future,) = batcher.submit([("a", draw(rng, "stripe"))])
    assert future.result(60).record["class"] == "stripe" and batcher.is_alive
    assert "was replaced, but" in said[0] and "The model before goes on" in said[0]
    batcher.end()


def test_a_new_model_without_the_class_that_is_watched_is_refused(framed, model, tmp_path):
    own, said = shutil.copytree(model, tmp_path / "model"), []
    argv = ["watch", str(own), str(tmp_path), "--log", "x", "--class", "checker"]
    args = build_parser().parse_args(argv)
    held = HeldModel(str(own), lambda: watching_detector(args), said.append)
    before = held.detector
    HGADDetector.load(framed).save(own)
    assert not held.refresh() and held.detector is before and "--class 'checker'" in said[0]
