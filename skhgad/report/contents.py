"""The command `report`: what a detector finds in a folder, as one self-contained HTML page."""

import base64
import heapq
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..datasets.masks import check_mask
from ..display import (
    AnomalyMapDisplay,
    LatentSpaceDisplay,
    ScoreDistributionDisplay,
    TrainingCurveDisplay,
)
from ..display.drawing import drawing_library
from ..images.source import ImageSource
from ..regions import find_regions
from ..scoring.maps import resize
from ..storage.files import check_folder_place, whole_file
from .findings import (
    Measurement,
    image_paths,
    inspect,
    labelled_images,
    load_detector,
    print_figures,
)
from .page import MARK, Card, Row, render_page

_NAME = "report.html"
_THUMBNAIL, _PICTURE = 72, 320  # longest side in pixels
_JPEG = {"format": "JPEG", "quality": 80}
_MOST_LATENT = 400  # images in the picture of the latent space


class Clear(NamedTuple):
    """One of the most anomalous images, reduced; ordered by score, then by place in the folder."""

    anomaly_score: float
    minus_index: int
    pixels: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None


def report(args):
    """Inspect the images of a folder and write the page."""
    drawing_library("the report")
    check_report_place(args.out, args.folder)
    detector = load_detector(args)
    if is_labelled(args.folder):
        data = labelled_images(detector, args.folder, args.classes)
        paths, measurement = data.images.tolist(), Measurement(data, detector.offset_)
    elif args.classes is not None:
        raise ValueError(f"--classes: {args.folder!r} holds no <class>/test/ folders to choose of.")
    else:
        (paths, _), data, measurement = image_paths([args.folder]), None, None
    rows, clearest = collect(detector, paths, args.folder, measurement, args.top)
    figures = None
    if measurement is not None:
        figures = measurement.figures()
        print_figures(figures, measurement.unmasked)
    page = render_page(
        detector,
        rows,
        source=args.folder,
        model=args.model,
        figures=figures,
        cards=[draw_card(clear, rows, detector.offset_) for clear in clearest],
        pictures=draw_pictures(detector, paths, rows, data),
    )
    target = Path(args.out) / _NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        # Names that are no valid text show their bytes.
        part.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    n_flagged = sum(row.is_anomaly for row in rows)
    print(
        f"{n_flagged} of {len(rows)} images are anomalies (score below {detector.offset_:.4g})\n"
        f"report: {target.resolve()} ({target.stat().st_size / 1e6:.1f} MB)"
    )


def check_report_place(out, folder):
    """Raise ValueError before the work if the page cannot, or should not, be written to `out`."""
    check_folder_place(out, "--out")
    place, images = Path(out).resolve(), Path(folder).resolve()
    if place.is_relative_to(images):
        raise ValueError(
            f"--out {str(place)!r} lies in the folder of images {str(images)!r}: choose a place "
            "outside."
        )
    page = place / _NAME
    if page.exists():
        with open(page, "rb") as file:
            if file.read(len(MARK)) != MARK.encode():
                raise ValueError(
                    f"--out: {str(page)!r} exists and is no report of skhgad, so it will not be "
                    "replaced: choose another folder."
                )


def is_labelled(folder):
    """Whether a folder is laid out as for `evaluate`: <class>/test/, or test/ itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {str(folder)!r} (from {os.getcwd()!r}).")
    return (folder / "test").is_dir() or any(
        (child / "test").is_dir() for child in folder.iterdir() if child.is_dir()
    )


def collect(detector, paths, folder, measurement, n_clearest):
    """Inspect all images; keep a row of each, and the most anomalous ones in full.

    Returns
    -------
    rows : list of Row
    clearest : list of Clear
        The most anomalous first.
    """
    rows, heap = [], []
    for index, finding in enumerate(inspect(detector, paths, maps=True)):
        pixels = ImageSource([finding.path], value_range=detector.value_range).read(0)
        regions = find_regions(finding.anomaly_map, -detector.offset_)
        data, mask = None, None
        if measurement is not None:
            measurement.update(index, finding)
            data = measurement.data
            mask = data.mask[index]
        peak = np.unravel_index(finding.anomaly_map.argmax(), finding.anomaly_map.shape)
        rows.append(
            Row(
                path=os.path.relpath(finding.path, folder),
                thumbnail=jpeg_uri(reduced(pixels, _THUMBNAIL)),
                found_class=str(finding.class_label),
                true_class=None if data is None else str(data.class_label[index]),
                defect=None if data is None else str(data.defect[index]),
                score=finding.score,
                p_value=finding.p_value,
                is_anomaly=finding.is_anomaly,
                peak=(int(peak[0]), int(peak[1])),
                n_regions=len(regions),
                area=sum(region.area for region in regions) / finding.anomaly_map.size,
            )
        )
        place = (-finding.score, -index)
        if n_clearest and (len(heap) < n_clearest or place > heap[0][:2]):
            clear = Clear(*place, *_reduced_finding(pixels, finding.anomaly_map, mask))
            (heapq.heappush if len(heap) < n_clearest else heapq.heapreplace)(heap, clear)
    return rows, sorted(heap, key=lambda clear: clear[:2], reverse=True)


def _reduced_finding(pixels, anomaly_map, mask):
    """Image, map and mask at the size of the page."""
    if mask is not None:
        mask = check_mask(mask, anomaly_map.shape, "of the image")
        mask = np.asarray(reduced(mask.astype(np.uint8), _PICTURE, Image.Resampling.NEAREST)) > 0
    image = np.asarray(reduced(pixels, _PICTURE))
    small_map = resize(torch.from_numpy(anomaly_map)[None], image.shape[:2])[0].numpy()
    return image, small_map, mask


def reduced(pixels, longest, resample=Image.Resampling.BILINEAR):
    """Return an image whose longest side is at most `longest`, as PIL image of 8 bits."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), resample)
    return image


def jpeg_uri(image):
    """Encode a PIL image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, **_JPEG)
    return _uri(buffer, "jpeg")


def figure_uri(figure):
    """Encode a figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return _uri(buffer, "png")


def _uri(buffer, kind):
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_figure(size):
    """Create a figure that no window manager remembers."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="compressed")


def draw_card(clear, rows, offset):
    """Draw one of the most anomalous images."""
    height, width = clear.anomaly_map.shape
    figure = new_figure((6.2 * min(max(width / height, 0.6), 2.0) + 1.0, 2.6))
    AnomalyMapDisplay(
        image=clear.pixels, anomaly_map=clear.anomaly_map, threshold=-offset, mask=clear.mask
    ).plot(figure.subplots(1, 3))
    return Card(rows[-clear.minus_index], figure_uri(figure))


def draw_pictures(detector, paths, rows, data):
    """Draw what concerns all images.

    Returns
    -------
    dict of str to (str, str)
        Title to data URI and caption.
    """
    pictures, y = {}, None if data is None else data.y
    labels = [row.true_class or row.found_class for row in rows]
    figure = new_figure((9, 1.6 + 0.36 * len(set(labels))))
    ScoreDistributionDisplay.from_predictions(
        y, [row.score for row in rows], labels, offset=detector.offset_, ax=figure.subplots()
    )
    pictures["Scores"] = (
        figure_uri(figure),
        "Every point is an image; left of the line it is flagged. Linear around zero, logarithmic "
        "beyond. Rows are the product classes "
        + ("of the folder." if data is not None else "found."),
    )
    chosen = np.unique(np.linspace(0, len(paths) - 1, _MOST_LATENT).round().astype(int))
    figure = new_figure((9, max(5.5, 1 + 0.25 * len(detector.classes_))))
    LatentSpaceDisplay.from_estimator(
        detector, [paths[i] for i in chosen], None if y is None else y[chosen], ax=figure.subplots()
    )
    share = "images" if len(chosen) == len(paths) else f"{len(chosen)} of {len(paths)} images"
    pictures["Latent space"] = (
        figure_uri(figure),
        f"Mean latent vector of {share} at the coarsest level, in the plane of the two leading "
        "principal components; colours are the product classes found.",
    )
    if detector.history_:
        figure = new_figure((9.5, 5))
        TrainingCurveDisplay.from_estimator(detector, ax=figure.subplots(2, 3))
        pictures["Training"] = (figure_uri(figure), "Means over the steps of each pass.")
    return pictures
