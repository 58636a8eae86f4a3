"""The version of skhgad that is installed, and how to install its extras."""

from collections.abc import Iterator
from contextlib import contextmanager


def installed_version() -> str:
    """Return the version as text; "unknown" for a source tree that nobody installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes longer than the rest

    try:
        return version("skhgad")
    except PackageNotFoundError:
        return "unknown"


def how_to_install(extra: str, *packages: str) -> str:
    """Say how to install packages: by name, or as an extra in a clone of skhgad."""
    return f'pip install {" ".join(packages)}, or, in a clone of skhgad, pip install ".[{extra}]"'


@contextmanager
def needing(who: str, what: str, extra: str, *packages: str) -> Iterator[None]:
    """Let an ImportError inside say that `who` needs `what`, and how to install it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{who} needs {what}. Install it: {how_to_install(extra, *packages)}."
        ) from error
