"""Sphinx configuration; build with `tox -e docs`."""

import os
import re
import sys
from pathlib import Path

import skhgad

sys.path.insert(0, str(Path(__file__).parent))  # command_reference

# The examples' arrays are small. On a busy machine threads that wait for each other made the build
# four times slower. Read when torch is imported, which the line above does not do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "skhgad"
author = "skhgad developers"
copyright = author
version = release = skhgad.__version__

extensions = [
    "command_reference",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
# sphinx-gallery reads examples/ and writes the pages to auto_examples/.
exclude_patterns = ["_build", "examples"]

html_theme = "alabaster"
html_static_path = ["_static"]
html_theme_options = {
    "description": "One anomaly detector for many product classes",
    "fixed_sidebar": True,
    # Lines of 95 characters of code fit. Longer ones are continued, see _static/custom.css.
    "page_width": "1180px",
    "body_max_width": "auto",
}

autodoc_member_order = "bysource"
# The members stand on the class's own page; numpydoc's table would link to pages that do not exist.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": True,
    "parallel": min(2, os.cpu_count() or 1),  # processes
    "abort_on_example_error": True,
    # Names of skhgad in the code link to the API pages. None = this build, so no network is needed.
    "doc_module": "skhgad",
    "reference_url": {"skhgad": None},
    "backreferences_dir": None,
    "first_notebook_cell": None,
    "remove_config_comments": True,
    "show_signature": False,
    # Each example's page tells its time. An overview of them would be a page in no toctree.
    "write_computation_times": False,
}

# scikit-learn adds set_fit_request and its like to every estimator; their text links into
# scikit-learn's user guide.
ROUTING = re.compile(r"set_\w+_request$")


def skip_member(app, what, name, obj, skip, options):
    # A named tuple's fields are in its docstring; as members they would be "Alias for field 0".
    is_field = type(obj).__name__ == "_tuplegetter"
    return True if ROUTING.match(name) or is_field else None


def setup(app):
    app.connect("autodoc-skip-member", skip_member)
