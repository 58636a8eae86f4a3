"""What the service answers, as its OpenAPI description says it."""

from typing import Literal

from pydantic import BaseModel, Field


class Region(BaseModel):
    """A connected part of an image above the threshold."""

    box: tuple[int, int, int, int] = Field(description="top, left, bottom, right, in pixels")
    area: int = Field(description="pixels")
    peak: float
    peak_position: tuple[int, int] = Field(description="row, column")


class ImageVerdict(BaseModel):
    """What is said of an image, a `verdict_record`."""

    path: str = Field(description="the name of the file that was sent")
    class_: str | int = Field(alias="class", description="the product")
    score: float = Field(description="higher = more normal")
    threshold: float = Field(description="an anomaly has a score below it")
    p_value: float
    verdict: Literal["anomaly", "normal"]
    reason: str
    area: float = Field(description="share of the image above the threshold")
    regions: list[Region]
    peak: float
    peak_position: tuple[int, int] = Field(description="row, column")
    level: int
    term: str
    error: None


class Verdicts(BaseModel):
    """A verdict for each image, in order."""

    images: list[ImageVerdict]


class Health(BaseModel):
    """The service works."""

    status: Literal["ok"]


class DriftAlarm(BaseModel):
    """When drift was found, and where; see `skhgad.monitor.drift.Alarm`."""

    n_seen: int
    product: str | int
    direction: Literal["lower", "higher", "wider", "narrower"]
    evidence: float
    statistic: Literal["score", "brightness", "contrast", "sharpness"]


class ProductDrift(BaseModel):
    """The evidence of a product, or of "all products"."""

    product: str | int
    evidence: float


class Drift(BaseModel):
    """The evidence of drift; 1 is none."""

    evidence: float
    alarm: DriftAlarm | None
    n_seen: int = Field(description="images since the model was read, or the state began")
    model: str = Field(description="changes with the model")
    products: list[ProductDrift]


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str


def problems(*statuses):
    """Return `responses` of a route that may refuse requests with these statuses."""
    return {status: {"model": Problem, "description": _WHY[status]} for status in statuses}


_WHY = {
    400: "the body is no multipart/form-data",
    401: "the token is missing or wrong",
    408: "the request was not there in time",
    413: "too large, or too many images",
    422: "what was sent cannot be judged",
    503: "too many images wait, or the service does not work",
}
