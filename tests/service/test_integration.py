"""What the HTTP service tells programs: its description, names, limits and refusals."""

import asyncio
import io
import socket
import threading
import time

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from small_pictures import SIDE, draw

from skhgad import HGADDetector
from skhgad.command_line import serve
from skhgad.command_line.main import build_parser
from skhgad.service import answers, body_limit
from skhgad.service.batching import Batcher
from skhgad.service.figures import Figures
from skhgad.service.held_model import HeldModel
from skhgad.service.server import build_app

pytestmark = pytest.mark.usefixtures("one_thread")
LATIN = "caf\udce9"  # a folder's name in Latin-1, as Python reads it
FORM = "application/x-www-form-urlencoded"
PRINTED = r"caf\udce9"  # as commands print it


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def picture():
    return ("files", ("a.png", png(draw(np.random.default_rng(1), "stripe"))))


@pytest.fixture(scope="module")
def model(small_detector, tmp_path_factory):
    """The small model, its products named as no program expects."""
    folder = tmp_path_factory.mktemp("odd") / "model"
    rng = np.random.default_rng(0)
    images = [draw(rng, name) for name in ("checker", "stripe") * 8]
    detector = HGADDetector(image_size=SIDE, image_scales=(1,), random_state=0)
    detector.fit(images, ["any", LATIN] * 8).save(folder)
    return folder


@pytest.fixture(scope="module")
def app(model):
    held = HeldModel(str(model), lambda: HGADDetector.load(model), print)
    batcher = Batcher(held, 8, Figures(), drift={})
    yield build_app(batcher, batcher.figures, token="secret")
    batcher.end()


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app, headers={"Authorization": "bearer secret"})


def test_the_description_is_what_is_answered(client, picture):
    described = client.get("/openapi.json").json()
    answered = {
        ("/score", "post", 200): client.post("/score", files=[picture]),
        ("/score", "post", 422): client.post("/score", files=[("files", ("a.png", b"x"))]),
        ("/map", "post", 422): client.post("/map", files=[picture] * 2),
        ("/health", "get", 200): client.get("/health"),
        ("/drift", "get", 200): client.get("/drift"),
        ("/drift", "get", 401): client.get("/drift", headers={"Authorization": "none"}),
    }
    for (path, method, status), answer in answered.items():
        said = described["paths"][path][method]["responses"][str(status)]["content"]
        name = said["application/json"]["schema"]["$ref"].rsplit("/")[-1]
        model = type(name, (getattr(answers, name),), {"model_config": {"extra": "forbid"}})
        assert answer.status_code == status
        model.model_validate_json(answer.content, strict=True)
        fields = described["components"]["schemas"][name]
        assert sorted(answer.json()) == sorted(fields["properties"]) == sorted(fields["required"])
    verdict = described["components"]["schemas"]["ImageVerdict"]
    sent = answered["/score", "post", 200].json()["images"][0]
    assert list(sent) == list(verdict["properties"]) == verdict["required"]
    for path, method, kind in (("/metrics", "get", "text/plain"), ("/map", "post", "image/png")):
        said = described["paths"][path][method]["responses"]
        assert list(said["200"]["content"]) == [kind]
        answer = client.request(method, path, files=[picture] if method == "post" else None)
        assert answer.headers["content-type"].startswith(kind)


def test_names_of_products_that_are_no_valid_text(client, picture):
    (found,) = client.post("/score", files=[picture]).json()["images"]
    assert found["class"] == PRINTED
    assert client.get("/drift").json()["products"][1]["product"] == PRINTED
    lines = client.get("/metrics").text.splitlines()
    series = [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))  # or Prometheus takes none of them
    assert r'skhgad_product_drift_evidence{product="caf\\udce9"}' in series
    assert 'skhgad_product_drift_evidence{product="any"}' in series


def test_nothing_that_is_sent_is_passed_over(client, picture):
    for options in (
        {"params": {"class": "any"}, "files": [picture]},
        {"data": {"product": "any"}, "files": [picture]},
        {"files": [picture, ("image", picture[1])]},
    ):
        answer = client.post("/score", **options)
        assert answer.status_code == 422 and answer.json()["detail"].startswith("unknown: ")
    for options in (
        {"content": picture[1][1], "headers": {"Content-Type": "image/png"}},
        # as curl --data-binary sends a picture
        {"content": b"x&" * 900 + b"y" * 9000, "headers": {"Content-Type": FORM}},
        {"data": {"files": "a.png"}},
        {},
    ):
        answer = client.post("/score", **options)
        assert answer.status_code == 422 and "curl -F files=@" in answer.json()["detail"]
        assert len(answer.text) < 400
    assert client.post("/score", params={"product": "any"}, files=[picture]).status_code == 200


def test_strangers_are_refused_before_their_images_are_read(app):
    is_read, sent = threading.Event(), []

    async def receive():
        is_read.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    form = (b"content-type", b"multipart/form-data; boundary=x")
    scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b"",
             "scheme": "http", "headers": [form, (b"host", b"x")]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401 and not is_read.is_set()


def test_a_request_is_never_larger_than_what_may_wait(small_model, picture):
    args = build_parser().parse_args(["serve", str(small_model), "--max-waiting", "2"])
    with TestClient(serve.build(args, None), base_url="http://localhost") as client:
        answer = client.post("/score", files=[picture] * 3)
    assert answer.status_code == 413 and "at most 2" in answer.json()["detail"]


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_half_a_header_does_not_hold_a_connection(first, monkeypatch):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(body_limit, "SECONDS", 0.3)
    config = uvicorn.Config(app, http=serve._impatient(), port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with socket.create_connection(server.servers[0].sockets[0].getsockname()) as connection:
        connection.settimeout(20)
        if first:
            connection.sendall(first)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")
        left = connection.recv(1000)
        while left:
            left = connection.recv(1000)
    server.should_exit = True
    thread.join(20)


def test_a_file_that_is_no_state_of_drift_is_kept(small_model, tmp_path, capsys):
    place = tmp_path / "settings.json"
    place.write_text('{"line": 1}')
    held = HeldModel(str(small_model), lambda: HGADDetector.load(small_model), print)
    said = []
    Batcher(held, 8, Figures(), drift={}, drift_state=place, warn=said.append).end()
    assert "no state of a DriftMonitor" in said[0] and "settings.json.unusable" in said[0]
    assert (tmp_path / "settings.json.unusable").read_text() == '{"line": 1}'
