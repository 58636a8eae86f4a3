"""Compare installed versions with the floors written in setup.py.

Usage: check_floors.py PACKAGE [EXTRA ...]

`tox -e oldest` asks the resolver for the lowest versions. This says whether it gave exactly those
that PACKAGE declares: a floor that no file of the registry has, or that another dependency pushes
up, would be a promise nobody tested.
"""

import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version


def main(package, extras):
    wrong = []
    for line in sorted(set(requires(package))):
        need = Requirement(line)
        if need.marker and not any(need.marker.evaluate({"extra": e}) for e in ["", *extras]):
            continue
        floors = [Version(s.version) for s in need.specifier if s.operator == ">="]
        found = Version(version(need.name))
        print(f"{need.name:34} {need.specifier!s:12} installed {found.public}")
        if floors != [Version(found.public)]:
            wrong.append(f"{need.name}: declared {need.specifier}, installed {found.public}")
    if wrong:
        print("Not the declared floors:", *wrong, sep="\n  ", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
