"""The HTTP service: images in, verdicts out."""

import asyncio
import hmac
import io
import json
import os
import re
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..display.heat_maps import HeatScale, overlay
from ..images.picture_error import PictureError
from ..images.source import ImageSource
from ..report.findings import naming_files
from ..text import printable
from ..validation import label_of_text
from ..version import installed_version
from .answers import Drift, Health, Verdicts, problems
from .batching import Overloaded
from .body_limit import BodyLimit
from .service_page import service_page

_PATHS = {"/score", "/map", "/health", "/drift", "/metrics", "/openapi.json", "/docs"}
_OPEN = {"/health", "/openapi.json", "/docs"}  # to all, without the token
_HALVES = re.compile("[\ud800-\udfff]")
_HOW_TO_SEND = (
    "send each image as a file, in the field 'files' of multipart/form-data, such as "
    "curl -F files=@picture.png."
)
_LONGEST_NAME = 40  # characters of an unknown field that the answer repeats
_MOST_DECODING = 4  # images at once, because large ones take memory
# Times the pixels of the largest image, as small files may hold large ones: of a request, and of
# all requests together.
_LARGEST_REQUEST = 4
_MOST_PIXELS = 16


@dataclass
class Limits:
    """What a server takes.

    Attributes
    ----------
    n_images : int
        Of a request.
    n_bytes : int
        Of a request.
    n_pixels : int
        Of an image. The images of a request may have 4 times as many, and those of all requests
        that are answered at once 16 times as many, because their pixels take memory.
    """

    n_images: int = 32
    n_bytes: int = 32 << 20
    n_pixels: int = 50_000_000


def build_app(batcher, figures, *, limits=None, token=None, hosts=("*",)):
    """Return the ASGI application.

    Parameters
    ----------
    batcher : Batcher
    figures : Figures
    limits : Limits, default=None
    token : str, default=None
        Asked for by every path but /health, /docs and /openapi.json, as ``Authorization: Bearer
        TOKEN``.
    hosts : sequence of str
        Names by which the server may be asked, so that no web page can reach it by another name.
    """
    limits = Limits() if limits is None else limits

    @asynccontextmanager
    async def lifespan(app):
        yield
        await run_in_threadpool(batcher.end)

    app = FastAPI(
        title="skhgad",
        version=installed_version(),
        description="Finds anomalies in images: product, score, p-value, verdict and regions.",
        docs_url=None,  # FastAPI's page loads its script from the internet
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=_JsonResponse,
    )
    score = _Scoring(batcher, limits)
    only_known = [Depends(_refuse_unknown)]
    refusals = problems(400, 401, 408, 413, 422, 503)

    @app.post(
        "/score",
        summary="Score images",
        dependencies=only_known,
        responses={200: {"model": Verdicts}, **refusals},
    )
    async def score_images(
        files: Annotated[list[UploadFile], File(description="one image, or several")],
        product: Annotated[str | None, Query(description="of all; inferred if not given")] = None,
    ):
        """Return a verdict for each image, in order: the JSON of `skhgad score --jsonl`."""
        return {"images": [verdict.record for verdict, _ in await score(files, product)]}

    @app.post(
        "/map",
        summary="Draw the heat map of one image",
        dependencies=only_known,
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **refusals},
    )
    async def draw_map(
        files: Annotated[list[UploadFile], File(description="one image")],
        product: Annotated[str | None, Query(description="inferred if not given")] = None,
    ):
        """Return a PNG; the headers X-Score, X-Verdict and X-Product say the rest."""
        if len(files) != 1:
            raise HTTPException(422, f"/map takes one image, got {len(files)}.")
        ((verdict, pixels),) = await score(files, product, wants_maps=True)
        content = await run_in_threadpool(_heat_map, verdict, pixels)
        record = verdict.record
        headers = {
            "X-Score": repr(record["score"]),
            "X-Verdict": record["verdict"],
            "X-Product": _header_text(record["class"]),
        }
        return Response(content, media_type="image/png", headers=headers)

    # Load balancers ask with HEAD. Uvicorn leaves out the body then.
    @app.get(
        "/health",
        summary="Whether the service works",
        responses={200: {"model": Health}, **problems(503)},
    )
    @app.head("/health", include_in_schema=False)
    async def health():
        if not batcher.is_alive:
            raise HTTPException(503, "the scoring thread has ended.")
        return {"status": "ok"}

    @app.get(
        "/drift",
        summary="The evidence of drift",
        responses={200: {"model": Drift}, **problems(401)},
    )
    @app.head("/drift", include_in_schema=False)
    async def drift():
        monitor = batcher.monitor
        alarm = monitor.alarm_
        return {
            "evidence": monitor.evidence_,
            "alarm": None if alarm is None else alarm._asdict(),
            "n_seen": monitor.n_seen_,
            "model": batcher.model.identity,
            "products": [
                {"product": label, "evidence": value}
                for label, value in monitor.product_evidence_.items()
            ],
        }

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **problems(401)},
    )
    @app.head("/metrics", include_in_schema=False)
    async def metrics():
        return PlainTextResponse(figures.text(batcher), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    @app.head("/docs", include_in_schema=False)
    async def docs():
        return HTMLResponse(service_page(app.openapi()))

    @app.exception_handler(RequestValidationError)
    async def explain_validation(request, error):
        # The product is text, whatever is sent: only the images can be wrong.
        return JSONResponse({"detail": _HOW_TO_SEND}, 422)

    @app.middleware("http")
    async def count(request, call_next):
        start = time.perf_counter()
        status = 500
        try:
            # Before the body is read: strangers must not fill the disk with images.
            if request.url.path in _OPEN or _has_token(request, token):
                response = await call_next(request)
            else:
                response = JSONResponse(
                    {"detail": "send the header 'Authorization: Bearer TOKEN'."},
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
            status = response.status_code
            return response
        finally:
            path = request.url.path if request.url.path in _PATHS else "other"
            figures.answered(path, status, time.perf_counter() - start)

    app.add_middleware(BodyLimit, n_bytes=limits.n_bytes)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


class _JsonResponse(JSONResponse):
    """JSON that all parsers take: half characters, as in names of Latin-1, become escapes."""

    def render(self, content):
        text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return _HALVES.sub(lambda half: rf"\\u{ord(half[0]):04x}", text).encode()


def _has_token(request, token):
    """Whether a request sends the token, or none is asked for."""
    if token is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(), token.encode())
    return is_right and scheme.lower() == "bearer"


async def _refuse_unknown(request: Request):
    """Refuse fields that would be passed over, such as a product in the form."""
    unknown = [(name, "query") for name in request.query_params if name != "product"]
    unknown += [(name, "form") for name in await request.form() if name != "files"]
    if unknown:
        # A picture that is no form is read as hundreds of long fields.
        named = [f"{name[:_LONGEST_NAME]!r} in the {place}" for name, place in unknown[:3]]
        raise HTTPException(
            422, f"unknown: {', '.join(named)}. {_HOW_TO_SEND} The query may name the 'product'."
        )


def _header_text(label):
    """Return the name of a product as a header may have it: ASCII, no line break, no margins."""
    return printable(label).encode("ascii", "backslashreplace").decode().strip()


def _heat_map(verdict, pixels):
    """Return the PNG of a heat map."""
    scale = HeatScale.of(verdict.detector, verdict.record["class"])
    buffer = io.BytesIO()
    picture = Image.fromarray(overlay(pixels, scale.heat(verdict.anomaly_map)))
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _busy():
    return HTTPException(503, "too many images wait: try again.", {"Retry-After": "1"})


class _Scoring:
    """Takes uploads to verdicts."""

    def __init__(self, batcher, limits):
        self.batcher = batcher
        self.limits = limits
        self._decoding = asyncio.Semaphore(_MOST_DECODING)
        self._n_pixels = 0  # of all requests

    async def __call__(self, files, product, *, wants_maps=False):
        """Return Verdict and pixels of each upload, or raise an HTTPException that says why not."""
        if len(files) > self.limits.n_images:
            raise HTTPException(
                413, f"{len(files)} images in one request; at most {self.limits.n_images}."
            )
        if product is not None:
            self._check_known(product)
        images, n_pixels = [], 0
        try:
            for number, file in enumerate(files):
                name = file.filename or f"image {number}"
                content = await file.read()
                async with self._decoding:
                    pixels = await run_in_threadpool(self._decode, name, content)
                images.append((name, pixels))
                added = pixels.shape[0] * pixels.shape[1]
                n_pixels, self._n_pixels = n_pixels + added, self._n_pixels + added
                self._check_pixels(n_pixels)
            verdicts = await self._verdicts(images, product, wants_maps)
        finally:
            self._n_pixels -= n_pixels
        return [(verdict, pixels) for verdict, (_, pixels) in zip(verdicts, images, strict=True)]

    async def _verdicts(self, images, product, wants_maps):
        try:
            futures = self.batcher.submit(images, product, wants_maps=wants_maps)
        except Overloaded:
            raise _busy() from None
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except PictureError as error:
            raise HTTPException(422, str(error)) from None

    def _check_pixels(self, n_pixels):
        """Refuse a request whose images so far have so many pixels."""
        limit = _LARGEST_REQUEST * self.limits.n_pixels
        if n_pixels > limit:
            raise HTTPException(
                413, f"the images of a request may have {limit} pixels together: send fewer."
            )
        if self._n_pixels > _MOST_PIXELS * self.limits.n_pixels:
            raise _busy()

    def _check_known(self, product):
        try:
            label_of_text(product, self.batcher.model.detector.classes_, "product")
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    def _decode(self, name, content):
        """Return the pixels of an upload."""
        if not content:
            raise HTTPException(422, f"{name} is empty.")
        # A file, because files are read with more care than streams.
        handle, path = tempfile.mkstemp(prefix="skhgad-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return self._read(path)
        except (ValueError, OSError) as error:
            reason = str(error).replace(path, name)
            raise HTTPException(422, reason) from None
        finally:
            os.unlink(path)

    def _read(self, path):
        with naming_files([path]):
            source = ImageSource([path], value_range=self.batcher.model.detector.model_.value_range)
            try:
                with Image.open(path) as image:
                    n_pixels = image.width * image.height
            except Exception:  # read says it better
                n_pixels = 0
            if n_pixels > self.limits.n_pixels:
                raise ValueError(
                    f"{path} has {n_pixels} pixels, the limit is {self.limits.n_pixels}."
                )
            return source.read(0)
