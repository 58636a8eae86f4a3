"""The command reference as reStructuredText, from the parser itself; a Sphinx extension.

The directive ``command-reference`` puts it on a page, so the page cannot differ from ``--help``.
"""

import argparse
import os

from skhgad.command_line.main import build_parser

WIDTH = 84  # columns of the help texts


def help_texts():
    """Return {name: help text}: of "skhgad" itself first, then of each command."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH + 2)  # argparse leaves two free
    try:
        parser = build_parser()
        texts = {"skhgad": parser.format_help()}
        for action in parser._actions:  # argparse has no public way to its subparsers
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    texts[f"skhgad {name}"] = command.format_help()
        return texts
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def as_rst(texts):
    """Return a section a help text, as reStructuredText."""
    lines = []
    for name, text in texts.items():
        lines += [name, "-" * len(name), "", ".. code-block:: text", ""]
        lines += [f"   {line}" if line else "" for line in text.splitlines()]
        lines.append("")
    return "\n".join(lines)


def setup(app):
    """Add the directive to Sphinx."""
    from sphinx.util.docutils import SphinxDirective

    class CommandReference(SphinxDirective):
        def run(self):
            return self.parse_text_to_nodes(as_rst(help_texts()), allow_section_headings=True)

    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True}
