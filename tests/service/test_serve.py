"""The HTTP service: verdicts, maps, refusals that say why, limits, figures."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_pictures import draw

import skhgad
from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.images.picture_error import PictureError
from skhgad.monitor import DriftMonitor
from skhgad.report.verdicts import FIELDS
from skhgad.service.batching import Batcher, Overloaded
from skhgad.service.figures import Figures
from skhgad.service.held_model import HeldModel
from skhgad.service.server import Limits, build_app

pytestmark = pytest.mark.usefixtures("one_thread")
LIMITS = Limits(n_images=3, n_bytes=20_000, n_pixels=4000)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def upload(*contents):
    return [("files", (f"{i}.png", content)) for i, content in enumerate(contents)]


@pytest.fixture(scope="module")
def batcher(model):
    held = HeldModel(str(model), lambda: HGADDetector.load(model), print)
    return Batcher(held, 8, Figures(), drift={})


@pytest.fixture(scope="module")
def client(batcher):
    with TestClient(build_app(batcher, batcher.figures, limits=LIMITS)) as client:
        yield client


def test_verdicts_are_the_detector_s(client, detector, rng):
    images = [draw(rng, "stripe"), draw(rng, "checker", defect=True)]
    answer = client.post("/score", files=upload(*map(png, images)))
    assert answer.status_code == 200
    records = answer.json()["images"]
    found = detector.inspect(images)
    assert [list(record) for record in records] == [list(FIELDS)] * 2
    assert [record["path"] for record in records] == ["0.png", "1.png"]
    assert [record["score"] for record in records] == pytest.approx(found.score, rel=1e-3)
    assert [record["class"] for record in records] == ["stripe", "checker"]
    assert records[1]["verdict"] == "anomaly" and records[1]["regions"][0]["area"] > 0
    assert "below the threshold" in records[1]["reason"]
    given = client.post("/score?product=checker", files=upload(png(images[0])))
    assert given.json()["images"][0]["class"] == "checker"


def test_a_map_is_the_heat_map_of_the_commands(client, detector, rng):
    from skhgad.display.heat_maps import HeatScale, overlay

    pixels = draw(rng, "stripe", defect=True)
    answer = client.post("/map", files=upload(png(pixels)))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-verdict"] == "anomaly" and answer.headers["x-product"] == "stripe"
    assert float(answer.headers["x-score"]) == pytest.approx(
        detector.score_samples([pixels])[0], rel=1e-3
    )
    expected = overlay(pixels, HeatScale.of(detector).heat(detector.anomaly_maps([pixels])[0]))
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert np.abs(np.asarray(picture, dtype=int) - expected).max() <= 1


def test_bad_input_is_refused_and_told_why(client, rng):
    good = png(draw(rng, "stripe"))
    cases = [
        ("/score", upload(good, good[:80]), 422, "1.png cannot be read as an image"),
        ("/score", upload(b""), 422, "0.png is empty"),
        ("/score", upload(*[good] * 4), 413, "4 images in one request; at most 3"),
        ("/score", upload(png(np.zeros((80, 80), dtype=np.uint8))), 422, "6400 pixels, the limit"),
        ("/score", upload(bytes(30_000)), 413, "larger than 20000 bytes"),
        ("/score?product=nut", upload(good), 422, "knows ['checker', 'stripe']"),
        ("/score", None, 422, "files"),
        ("/map", upload(good, good), 422, "/map takes one image, got 2"),
    ]
    for path, files, status, reason in cases:
        answer = client.post(path, files=files)
        assert answer.status_code == status and reason in answer.json()["detail"], answer.text
        assert "/tmp" not in answer.text
    assert client.get("/score").status_code == 405 and client.get("/no").status_code == 404
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    undeclared = client.post(
        "/score",
        content=(head if i == 0 else bytes(5000) for i in range(10)),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert undeclared.status_code == 413


def test_health_metrics_drift_and_docs(client, rng):
    assert client.get("/health").json() == {"status": "ok"}
    client.post("/score", files=upload(png(draw(rng, "stripe"))))
    text = client.get("/metrics").text
    for line in (
        'skhgad_requests_total{path="/score",status="200"} ',
        'skhgad_images_total{product="stripe",verdict="',
        "skhgad_images_waiting 0",
        "skhgad_request_seconds_count ",
        "skhgad_drift_alarm 0",
        "skhgad_drift_evidence ",
        'skhgad_product_drift_evidence{product="stripe"} ',
    ):
        assert f"\n{line}" in text
    drift = client.get("/drift").json()
    assert drift["n_seen"] >= 1 and drift["alarm"] is None and len(drift["products"]) == 3
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/score", "/map", "/health", "/drift", "/metrics"}
    for path in ("/health", "/metrics", "/drift", "/openapi.json", "/docs"):
        assert client.head(path).status_code == 200
    page = client.get("/docs").text
    assert "POST /score" in page and "http" not in page.replace("openapi.json", "")


def test_a_token_is_asked_for_and_foreign_hosts_are_refused(batcher, rng):
    app = build_app(batcher, batcher.figures, token="secret", hosts=("testserver",))
    client = TestClient(app)  # without its end, which would end the batcher
    image = upload(png(draw(rng, "stripe")))
    assert client.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.post("/score", files=image, headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.head("/metrics", headers=headers).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/score", files=image, headers=headers).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400


class _Slow:
    """A detector that waits until it may answer, and counts its batches."""

    def __init__(self, detector):
        self._detector = detector
        self.may = threading.Event()
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self._detector, name)

    def __sklearn_is_fitted__(self):
        return True

    def explain(self, images, **options):
        self.may.wait(60)
        self.sizes.append(len(images))
        if any(images.read(i).max() == 0 for i in range(len(images))):
            raise RuntimeError("black")
        return self._detector.explain(images, **options)


def test_what_waits_is_scored_together_and_too_much_is_refused(model, detector, rng):
    slow = _Slow(detector)
    batcher = Batcher(HeldModel(str(model), lambda: slow, print), 6, Figures(), drift={})
    images = [(str(i), draw(rng, "stripe")) for i in range(8)]
    futures = batcher.submit(images[:1])
    while batcher.n_waiting:  # the first is being scored
        time.sleep(0.001)
    for name, pixels in images[1:5]:
        futures += batcher.submit([(name, pixels)])
    with pytest.raises(Overloaded):
        batcher.submit(images[5:])
    with TestClient(build_app(batcher, batcher.figures)) as client:
        futures += batcher.submit([])
        answer = client.post("/score", files=upload(*[png(images[0][1])] * 3))
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        slow.may.set()
        records = [future.result(60).record for future in futures]
        assert [record["path"] for record in records] == ["0", "1", "2", "3", "4"]
        assert slow.sizes == [1, 4]
        # One that cannot be scored does no harm to those beside it.
        black = np.zeros((32, 32, 3), dtype=np.uint8)
        bad, good = batcher.submit([("black", black), images[0]])
        with pytest.raises(RuntimeError, match="black"):
            bad.result(60)
        assert good.result(60).record["path"] == "0"
    assert not batcher.is_alive


def test_pixels_are_limited_for_a_request_and_for_all(model, detector, rng):
    slow = _Slow(detector)
    batcher = Batcher(HeldModel(str(model), lambda: slow, print), 99, Figures(), drift={})
    image, limits = png(draw(rng, "stripe")), Limits(n_pixels=1024)
    app = build_app(batcher, batcher.figures, limits=limits)
    with TestClient(app) as client, ThreadPoolExecutor(4) as threads:
        answer = client.post("/score", files=upload(*[image] * 5))
        assert answer.status_code == 413 and "4096 pixels together" in answer.json()["detail"]
        batcher.submit([("first", draw(rng, "stripe"))])
        while batcher.n_waiting:  # it is being scored, and what comes waits
            time.sleep(0.001)
        waiting = [
            threads.submit(client.post, "/score", files=upload(*[image] * 4)) for _ in range(4)
        ]
        while batcher.n_waiting < 16:
            time.sleep(0.001)
        answer = client.post("/score", files=upload(image))
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        slow.may.set()
        assert [one.result(60).status_code for one in waiting] == [200] * 4
        assert client.post("/score", files=upload(*[image] * 4)).status_code == 200


def test_a_replaced_model_answers_and_drift_outlives_the_process(model, rng, tmp_path):
    own, state = shutil.copytree(model, tmp_path / "model"), tmp_path / "drift.json"

    def batcher():
        held = HeldModel(str(own), lambda: HGADDetector.load(own), print)
        return Batcher(held, 8, Figures(), drift={}, drift_state=state)

    first = batcher()
    for future in first.submit([("a", draw(rng, "stripe")), ("b", draw(rng, "checker"))]):
        future.result(60)
    first.end()
    second = batcher()
    assert second.monitor.to_dict() == first.monitor.to_dict() and second.monitor.n_seen_ == 2
    look = second.monitor.statistic_evidence_["brightness"]
    assert look["stripe"] != 1 and look["checker"] != 1
    other = HGADDetector(image_size=32, image_scales=(1,), random_state=0)
    other.fit([draw(rng, "checker") for _ in range(8)], ["lid"] * 8).save(own)
    (future,) = second.submit([("c", draw(rng, "checker"))])
    assert future.result(60).record["class"] == "lid"
    assert second.figures.n_reloads == 1 and second.monitor.n_seen_ == 1
    # A request that came before the model was replaced may name one of its products.
    (future,) = second.submit([("d", draw(rng, "stripe"))], "stripe")
    with pytest.raises(PictureError, match=r"product 'stripe': the model knows \['lid'\]"):
        future.result(60)
    second.end()
    assert DriftMonitor.load(state, HGADDetector.load(own)).n_seen_ == 1
    held = HeldModel(str(own), lambda: HGADDetector.load(own), print)
    third = Batcher(held, 8, Figures(), drift={"burn_in": 7}, drift_state=state)
    assert third.monitor.burn_in == 7 and third.monitor.n_seen_ == 1
    third.end()


# the command


def test_other_machines_need_a_token(model, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SKHGAD_TOKEN", raising=False)
    assert main(["serve", str(model), "--host", "0.0.0.0"]) == 2
    assert "a token is needed" in capsys.readouterr().err
    argv = ["serve", str(model), "--token-file", str(tmp_path / "token")]
    for content in (b"\n", "secret".encode("utf-16")):
        (tmp_path / "token").write_bytes(content)
        assert main(argv) == 2 and "the token is empty" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(model), "--port", port]) == 2
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "no")]) == 2
    assert "no model folder" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
def test_the_command_serves_and_ends_in_order(model, rng, tmp_path):
    place = str(Path(skhgad.__file__).parents[1])
    argv = [sys.executable, "-m", "skhgad", "serve", model, "--port", "0"]
    argv += ["--drift-state", tmp_path / "drift.json"]
    process = subprocess.Popen(
        list(map(str, argv)),
        env={**os.environ, "PYTHONPATH": place},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline()
        assert said.startswith("listening on http://127.0.0.1:"), said
        health = said.split()[-1] + "/health"
        with urllib.request.urlopen(health, timeout=30) as answer:
            assert answer.read() == b'{"status":"ok"}'
        head = urllib.request.Request(health, method="HEAD")
        with urllib.request.urlopen(head, timeout=30) as answer:
            assert answer.status == 200 and answer.read() == b""
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert (tmp_path / "drift.json").exists()
