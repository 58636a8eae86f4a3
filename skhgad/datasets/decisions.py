"""Decisions of people on images, as the page of ``skhgad review`` writes them."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ..text import text_of_csv_cell
from .folders import SAMPLE_FIELDS, Sample, make_bunch

__all__ = ["load_decisions", "with_decisions"]

COLUMNS = ("path", "decision", "product")
GOOD, DEFECT = "good", "defect"
_SEPARATORS = ",;\t"  # Excel saves with semicolons where numbers have a decimal comma


def load_decisions(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Bunch:
    r"""Load what people decided of images in the page of ``skhgad review``.

    Parameters
    ----------
    files : str or Path, or sequence of these
        CSV files with the columns path, decision ("good" or "defect") and product; other columns
        and empty lines are not read. Of several decisions on an image the last one counts. Files
        that a spreadsheet saved again, with semicolons or tabs, as UTF-16 or cp1252, are read, too.

    Returns
    -------
    data : Bunch
        As in `load_mvtec_ad`, of the split "train": `target` is the product of what is good and
        "-1" of a defect.

    Raises
    ------
    FileNotFoundError
        If a file, or an image that it names, does not exist.
    ValueError
        If a file has not these columns, a line has another decision or no product, or there is no
        decision.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skhgad.datasets import load_decisions
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("a.png", "b.png"):
    ...         Path(root, name).touch()
    ...     text = f"path,decision,product\n{root}/a.png,good,lid\n{root}/b.png,defect,lid\n"
    ...     _ = Path(root, "decisions.csv").write_text(text)
    ...     data = load_decisions(f"{root}/decisions.csv")
    >>> data.target.tolist(), data.y.tolist()
    (['lid', '-1'], [1, -1])
    """
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    samples: dict[str, Sample] = {}
    for path in map(Path, paths):
        for place, row in _rows(path):
            sample = _sample(place, row)
            name = os.path.realpath(sample.image)
            samples.pop(name, None)
            samples[name] = sample
    if not samples:
        raise ValueError(f"there is no decision in {', '.join(map(str, paths))}.")
    source = ", ".join(map(str, paths))
    return make_bunch(list(samples.values()), Path(source), "decisions", source)


def with_decisions(data: Bunch, decisions: Bunch) -> Bunch:
    """Return a loader's Bunch with decisions added; they count where both have an image.

    ValueError is raised if a decision is on a product that the Bunch does not have: it is misspelt,
    or a spreadsheet made 1 of 001, and would become a product of its own.
    """
    unknown = sorted(set(decisions.class_label.tolist()) - set(data.classes.tolist()))
    if unknown:
        image = decisions.images[decisions.class_label == unknown[0]][0]
        raise ValueError(
            f"a decision on {image!r} names the product {unknown[0]!r}, but the products to fit "
            f"are {data.classes.tolist()}: correct it, or remove the line."
        )
    decided = {os.path.realpath(image) for image in decisions.images}
    kept = np.array([os.path.realpath(image) not in decided for image in data.images], dtype=bool)
    fields = {name: np.concatenate([data[name][kept], decisions[name]]) for name in SAMPLE_FIELDS}
    return Bunch(**{**data, **fields, "classes": np.unique(fields["class_label"])})


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return (place for messages, cells by column) of each line."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of decisions at {str(path)!r}.")
    text = _text(path.read_bytes())
    head = text.splitlines()[0] if text else ""
    mark = max(_SEPARATORS, key=head.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{str(path)!r} has no column {missing[0]!r}: a file of decisions has the columns "
                f"{', '.join(COLUMNS)}."
            )
        rows = [(f"{str(path)!r}, line {reader.line_num}", row) for row in reader]
        # Spreadsheets keep lines that were emptied.
        return [(place, row) for place, row in rows if any(row[name] for name in COLUMNS)]
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is no CSV file: {error}.") from error


def _text(content: bytes) -> str:
    """Decode a file of decisions: UTF-8 as the page wrote it, or what Excel made of it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _sample(place: str, row: dict[str, str]) -> Sample:
    image, decision, product = (text_of_csv_cell(row[name] or "") for name in COLUMNS)
    decision = decision.strip().lower()
    if decision not in (GOOD, DEFECT):
        raise ValueError(f"{place}: the decision {decision!r} is neither 'good' nor 'defect'.")
    if not product:
        raise ValueError(f"{place}: there is no product.")
    if not Path(image).is_file():
        raise FileNotFoundError(f"{place}: the image {image!r} does not exist.")
    return Sample(Path(image), product, "good" if decision == GOOD else DEFECT, None, "train")
