"""The page of commands is made by the parser, so it cannot differ from ``--help``."""

import importlib.util
import os
from pathlib import Path

import pytest

from skhgad.command_line.main import build_parser, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location(
        "command_reference", DOCS / "command_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_the_text_of_its_help(reference, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(reference.WIDTH + 2))
    texts = reference.help_texts()
    assert next(iter(texts)) == "skhgad" and len(texts) >= 9
    for name, text in texts.items():
        with pytest.raises(SystemExit):
            main([*name.split()[1:], "--help"])
        assert capsys.readouterr().out == text, name


def test_every_command_of_the_overview_is_there(reference):
    overview = build_parser().format_help()
    commands = [name.split()[1] for name in reference.help_texts() if " " in name]
    expected = {"demo", "fit", "score", "evaluate", "report", "explain", "add-class", "export"}
    expected |= {"update", "forget", "watch", "serve", "review", "validate"}
    assert set(commands) == expected
    assert all(f"    {command} " in overview for command in commands)


def test_the_page_has_a_section_each_and_no_line_too_long(reference):
    page = reference.as_rst(reference.help_texts())
    for name in reference.help_texts():
        assert f"\n{name}\n{'-' * len(name)}\n" in f"\n{page}"
    assert max(map(len, page.splitlines())) <= 100
    assert "--image-size N|HxW" in page


def test_the_width_of_the_terminal_is_left_as_it_was(reference, monkeypatch):
    monkeypatch.setenv("COLUMNS", "55")
    reference.help_texts()
    assert os.environ["COLUMNS"] == "55"
    monkeypatch.delenv("COLUMNS")
    reference.help_texts()
    assert "COLUMNS" not in os.environ


def test_the_page_uses_it():
    assert ".. command-reference::" in (DOCS / "commands.rst").read_text(encoding="utf-8")
