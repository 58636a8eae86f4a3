"""Text from strangers, such as names of files and classes, for terminals and spreadsheets."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

__all__ = [
    "csv_cell", "markdown_cell", "markdown_table", "printable", "printable_lines",
    "text_of_csv_cell",
]  # fmt: skip

# Categories: control characters, line separators, and halves of characters, as which Python reads
# names that are no UTF-8.
_UNPRINTABLE = {"Cc", "Zl", "Zp", "Cs"}
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Where a formula may begin: at the start of a cell, and, where spreadsheets separate cells by
# semicolons or tabs, or a cell ends at a line break, inside one of a file with commas.
_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20"  # the last four are the wide ones of East Asian systems
_FORMULA = re.compile(rf"^(?=[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])(?=[{_SIGNS}])")
_GUARD = re.compile(rf"^'(?=[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])'(?=[{_SIGNS}])")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def printable(text: Any) -> str:
    r"""Return text whose control characters are written as escapes, for one line of a terminal.

    These are control characters such as ESC, tab and line breaks, and the marks that change the
    direction of what follows. Anything but a str is turned into one first.

    Examples
    --------
    >>> print(printable("lid\x1b[2J\n.png"))
    lid\x1b[2J\n.png
    """
    return "".join(map(_escaped, str(text)))


def printable_lines(text: Any) -> str:
    """Do what `printable` does, but keep the line breaks of a message of several lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def csv_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; numbers stay as they are.

    Text that begins with ``=``, ``+``, ``-``, ``@``, one of their wide forms, a tab or a line break
    gets an apostrophe in front, which spreadsheets do not show. So do these signs after a
    semicolon, a tab or a line break, at which a spreadsheet of another country may end the cell.
    Text that is a number, such as ``-5``, stays.

    Examples
    --------
    >>> csv_cell("=1+1"), csv_cell("-x.png"), csv_cell("a.png"), csv_cell("-5"), csv_cell(-0.5)
    ("'=1+1", "'-x.png", 'a.png', '-5', -0.5)
    >>> csv_cell("a;=1+1.png")
    "a;'=1+1.png"
    """
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return _FORMULA.sub("'", value)
    return value


def text_of_csv_cell(cell: str) -> str:
    """Undo `csv_cell` for text.

    Examples
    --------
    >>> text_of_csv_cell("'=1+1"), text_of_csv_cell("a;'=1+1.png"), text_of_csv_cell("it's")
    ('=1+1', 'a;=1+1.png', "it's")
    """
    return _GUARD.sub("", cell)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; the cells are taken as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_cell(value: Any) -> str:
    """Return text that breaks no table of Markdown and is no markup."""
    text = printable(value)
    return "".join(f"\\{mark}" if mark in "\\|`*_<>[]#" else mark for mark in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _UNPRINTABLE or character in _DIRECTIONS:
        return character.encode("unicode_escape").decode("ascii")
    return character
