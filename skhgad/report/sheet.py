"""A contact sheet: the flagged images of a run on one picture, the most anomalous first."""

import heapq
import math

from PIL import Image, ImageDraw, ImageFont

from ..images.source import ImageSource
from ..storage.files import whole_file
from ..text import printable
from .data_uris import eight_bit

MOST = 200  # images on a sheet
_SIDE, _CAPTION, _GAP = 240, 34, 8  # pixels
_COLUMNS = 6
_RED, _INK, _PAPER = (235, 0, 0), (30, 30, 30), (255, 255, 255)
_LONGEST = 38  # characters of a name


class ContactSheet:
    """Collects the flagged images of a run.

    Parameters
    ----------
    value_range : tuple (low, high) or None
        Pixel values meaning black and white, as at fit.
    """

    def __init__(self, value_range=None):
        self.value_range = value_range
        self.n_flagged = 0
        self._tiles = []  # a heap, the least anomalous on top

    def offer(self, record):
        """Take an image, by its `verdict_record`, if it is flagged and among the `MOST` worst."""
        if record["verdict"] != "anomaly":
            return
        self.n_flagged += 1
        place = (-record["score"], -self.n_flagged)
        if len(self._tiles) == MOST and place <= self._tiles[0][:2]:
            return
        push = heapq.heappushpop if len(self._tiles) == MOST else heapq.heappush
        push(self._tiles, (*place, self._tile(record)))

    def write(self, path):
        """Write the sheet, in the format of the file's ending; return how many images it shows."""
        tiles = [tile for *_, tile in sorted(self._tiles, key=lambda tile: tile[:2], reverse=True)]
        n_columns = max(1, min(_COLUMNS, len(tiles)))
        n_rows = math.ceil(len(tiles) / n_columns)
        width = n_columns * (_SIDE + _GAP) + _GAP
        height = n_rows * (_SIDE + _CAPTION + _GAP) + _GAP
        sheet = Image.new("RGB", (width, max(height, _CAPTION + _GAP)), _PAPER)
        for index, tile in enumerate(tiles):
            row, column = divmod(index, n_columns)
            corner = (_GAP + column * (_SIDE + _GAP), _GAP + row * (_SIDE + _CAPTION + _GAP))
            sheet.paste(tile, corner)
        if not tiles:
            text = "no image is flagged"
            ImageDraw.Draw(sheet).text((_GAP, _GAP), text, _INK, ImageFont.load_default(14))
        with whole_file(path) as part:
            sheet.save(part, format=_format(path))
        return len(tiles)

    def _tile(self, record):
        """Draw one image with the boxes of its regions and two lines of text."""
        pixels = ImageSource([record["path"]], value_range=self.value_range).read(0)
        image = Image.fromarray(eight_bit(pixels)).convert("RGB")
        scale = _SIDE / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size])
        draw = ImageDraw.Draw(image)
        for region in record["regions"]:
            top, left, bottom, right = (side * scale for side in region["box"])
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), None, _RED, 2)
        tile = Image.new("RGB", (_SIDE, _SIDE + _CAPTION), _PAPER)
        tile.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
        name = printable(record["path"])
        if len(name) > _LONGEST:
            name = f"...{name[3 - _LONGEST :]}"
        text = f"{name}\n{printable(record['class'])}, score {record['score']:.4g}"
        text = text.encode("ascii", "replace").decode("ascii")  # what Pillow's own font has
        ImageDraw.Draw(tile).multiline_text(
            (2, _SIDE + 2), text, _INK, ImageFont.load_default(11), spacing=2
        )
        return tile


def check_sheet_name(path, option):
    """Raise ValueError unless a file's name ends as that of a picture that can be written."""
    if _format(path) is None:
        raise ValueError(f"{option} {str(path)!r}: end the name with .png, .jpg or .webp.")


def _format(path):
    endings = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    return next((kind for end, kind in endings.items() if str(path).lower().endswith(end)), None)
