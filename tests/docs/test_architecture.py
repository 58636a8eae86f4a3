"""The tree on the page of the architecture names every module of the package, and no other."""

import re
from pathlib import Path

import pytest

import skhgad

PAGE = Path(__file__).parents[2] / "docs" / "architecture.rst"


def modules_named(lines):
    """Return the paths that an indented tree names, below the package."""
    named, above = set(), []
    for line in lines:
        found = re.match(r"( +)([\w/]+\.py|[\w/]+/)(?: |$)", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        above = [(d, folder) for d, folder in above if d < depth]
        if name.endswith("/"):
            above.append((depth, name))
        else:
            named.add("".join(folder for _, folder in above) + name)
    return named


@pytest.mark.skipif(not PAGE.exists(), reason="needs the repository")
def test_the_tree_names_every_module():
    text = PAGE.read_text(encoding="utf-8").partition(".. code-block:: text")[2]
    tree = text.partition("\nThe trip of an image")[0]
    package = Path(skhgad.__file__).parent
    modules = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    faces = {name for name in modules if name.endswith("/__init__.py") and name.count("/") > 1}
    assert modules_named(tree.splitlines()) == modules - faces
