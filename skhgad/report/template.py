"""HTML pages that load nothing.

Jinja2 escapes all text, file names above all. The content security policy of a page allows its own
style and script only.
"""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined


def filled_template(template, styles, script, **values):
    """Fill a template of this folder; return the page, a str.

    Parameters
    ----------
    template : str
        Name of the HTML file. It gets `policy`, `style` and `script` beside the values.
    styles : sequence of str
        Names of the CSS files.
    script : str
        Name of the JavaScript file.
    **values
    """
    style, script = "".join(map(_read, styles)), _read(script)
    return html_template(_read(template)).render(
        policy=_policy(style, script), style=style, script=script, **values
    )


def html_template(text):
    """Return a template of Jinja2, in which a value that is missing is an error."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _read(name):
    """Return the text of a file of this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style, script):
    """Return the content security policy that allows this style and this script alone."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )
