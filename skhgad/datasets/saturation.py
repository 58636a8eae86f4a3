"""How much of a defect of MVTec LOCO AD must be found: its regions and their saturation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .masks import mask_files, mask_values

__all__ = ["Region", "load_saturated_regions"]

_CONFIG = "defects_config.json"


class Region(NamedTuple):
    """One defect of an image.

    Attributes
    ----------
    mask : ndarray of bool, shape (height, width)
        True where a pixel belongs to the defect.
    saturation : int
        As many of its pixels as must be found for the defect to count as found entirely.
    """

    mask: NDArray[np.bool_]
    saturation: int


class _Defect(NamedTuple):
    """An entry of defects_config.json."""

    saturation_threshold: float
    relative_saturation: bool

    def saturation(self, area: int) -> int:
        """Return the saturation of a region of `area` pixels, as the published evaluation does."""
        if self.relative_saturation:
            return max(int(self.saturation_threshold * area), 1)
        return min(int(self.saturation_threshold), area)


def load_saturated_regions(
    folder: str | os.PathLike[str], config: str | os.PathLike[str] | None = None
) -> list[Region]:
    """Read the defects of an image of MVTec LOCO AD.

    Where a pushpin is missing, the whole empty compartment is marked, and finding a part of it is
    enough. ``defects_config.json`` says how much: for each kind of defect, known by the value of
    its pixels, a number of pixels or a share of the region.

    Parameters
    ----------
    folder : str or Path
        The folder of the image's masks, one file a defect: `mask` of `load_mvtec_loco_ad`.
    config : str or Path, default=None
        The ``defects_config.json`` of the class; None looks for it where it is published, in the
        class's folder.

    Returns
    -------
    regions : list of Region
        Named tuples of `mask`, a bool array of shape (height, width), and `saturation`, the number
        of pixels to find.

    Raises
    ------
    ValueError, FileNotFoundError
        If a file is missing or broken, or a mask has more than one value or one that `config` does
        not have; the message names the file.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skhgad.datasets import load_saturated_regions
    >>> kind = {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 5,
    ...         "relative_saturation": False}
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = Path(root, "ground_truth", "logical_anomalies", "000")
    ...     folder.mkdir(parents=True)
    ...     Image.new("L", (4, 3), color=255).save(folder / "000.png")
    ...     _ = Path(root, "defects_config.json").write_text(json.dumps([kind]))
    ...     (region,) = load_saturated_regions(folder)
    >>> int(region.mask.sum()), region.saturation
    (12, 5)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"mask folder {str(folder)!r} does not exist.")
    path = folder.parents[2] / _CONFIG if config is None else Path(config)
    defects = _read_config(path)
    return [_read_region(file, defects, path) for file in mask_files(folder)]


def _read_region(file: Path, defects: dict[int, _Defect], config: Path) -> Region:
    values = mask_values(file)
    found = [int(value) for value in np.unique(values) if value]
    if len(found) != 1:
        raise ValueError(f"mask {file} has the values {found} beside 0: it must mark one defect.")
    if found[0] not in defects:
        raise ValueError(f"mask {file} has the value {found[0]}; {config} has {sorted(defects)}.")
    mask = values != 0
    return Region(mask, defects[found[0]].saturation(int(mask.sum())))


def _read_config(path: Path) -> dict[int, _Defect]:
    """Return {pixel value: defect}."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing.") from None
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}.") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list of defects.")
    defects: dict[int, _Defect] = {}
    for index, entry in enumerate(content):
        value, defect = _read_defect(entry, f"{path}, entry {index}")
        if value in defects:
            raise ValueError(f"{path}, entry {index}: pixel_value {value} is there twice.")
        defects[value] = defect
    return defects


def _read_defect(entry: Any, place: str) -> tuple[int, _Defect]:
    """Return the pixel value and the defect of one entry; `place` names it in errors."""
    fields = ("pixel_value", "saturation_threshold", "relative_saturation")
    absent = [name for name in fields if not isinstance(entry, dict) or name not in entry]
    if absent:
        raise ValueError(f"{place} lacks {absent}.")
    value, threshold, is_relative = (entry[name] for name in fields)
    limit = 1 if is_relative is True else np.inf
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    lowest = 0 if is_relative is True else 1
    if (
        not isinstance(value, int)
        or not isinstance(is_relative, bool)
        or not is_number
        or not lowest <= threshold <= limit
        or not threshold > 0
    ):
        raise ValueError(
            f"{place}: pixel_value must be an int, relative_saturation true or false, and "
            "saturation_threshold a share in (0, 1] if relative, else a number of pixels; got "
            f"{value!r}, {is_relative!r} and {threshold!r}."
        )
    return value, _Defect(float(threshold), is_relative)
