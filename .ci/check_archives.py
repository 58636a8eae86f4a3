"""Compare the built archives with the files that git tracks.

Usage: check_archives.py DIST

The sdist must hold every tracked file but the ones in NOT_IN_SDIST, the wheel every tracked file
of the package. Neither may hold anything else, apart from the metadata that setuptools writes.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "skhgad"
# Files for the hosting service and for git; they have no use outside a checkout.
NOT_IN_SDIST = (".github/", ".gitignore", ".pre-commit-config.yaml", ".readthedocs.yaml")
WRITTEN_BY_SETUPTOOLS = ("PKG-INFO", "setup.cfg", f"{PACKAGE}.egg-info/")


def main(dist):
    names = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True)
    tracked = set(filter(None, names.stdout.split("\0")))
    sdist, wheel = only(dist, "*.tar.gz"), only(dist, "*.whl")
    in_package = {name for name in tracked if name.startswith(f"{PACKAGE}/")}
    problems = [
        *compare(sdist, without(read_sdist(sdist), WRITTEN_BY_SETUPTOOLS), tracked, NOT_IN_SDIST),
        *compare(wheel, without_metadata(read_wheel(wheel)), in_package),
    ]
    print(*(problems or [f"{sdist.name} and {wheel.name} hold what git tracks."]), sep="\n")
    return 1 if problems else 0


def only(dist, pattern):
    """Return the one file of this kind: an older one beside it could be uploaded by mistake."""
    (path,) = Path(dist).glob(pattern)
    return path


def read_sdist(path):
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def read_wheel(path):
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def without(names, prefixes):
    return {name for name in names if not name.startswith(prefixes)}


def without_metadata(names):
    return {name for name in names if not name.partition("/")[0].endswith(".dist-info")}


def compare(path, found, tracked, left_out=()):
    expected = without(tracked, left_out) if left_out else tracked
    for name in sorted(expected - found):
        yield f"{path.name} lacks {name}: name it in MANIFEST.in or in setup.py."
    for name in sorted(found - expected):
        yield f"{path.name} holds {name}, which is not meant to be there, or is not in git yet."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
