"""Names from strangers in terminals and spreadsheets."""

import pytest

from skhgad.text import csv_cell, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\tb\r\nc\x7f\x9b", r"a\tb\r\nc\x7f\x9b"),
        ("gnp\u202e.exe\u2066", r"gnp\u202e.exe\u2066"),
        ("line\u2028break", r"line\u2028break"),
        ("ä ö 模型 नमस्ते 👩‍🔧.png", "ä ö 模型 नमस्ते 👩‍🔧.png"),
        (7, "7"),
    ],
)
def test_control_characters_become_escapes_and_nothing_else_does(text, shown):
    assert printable(text) == shown


def test_a_message_keeps_its_lines():
    assert printable_lines("one\n  two\x07\rthree") == "one\n  two\\x07\\rthree"


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
)
def test_no_spreadsheet_runs_a_cell(start):
    assert csv_cell(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"


@pytest.mark.parametrize("end", [";", "\t", "\r", "\n"])
def test_no_spreadsheet_that_ends_cells_elsewhere_runs_the_rest(end):
    assert csv_cell(f"new/a{end}=1+1{end}@b.png") == f"new/a{end}'=1+1{end}'@b.png"


@pytest.mark.parametrize(
    "value", [-1.5, -3, 2.0, "-5", "+7", "-1.5e-07", "a=b", "", None, "x-y", "a; b;c"]
)
def test_numbers_and_other_text_stay(value):
    assert csv_cell(value) == value
