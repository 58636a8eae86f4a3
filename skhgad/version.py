"""The version of skhgad that is installed."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version as text; "unknown" for a source tree that nobody installed."""
    try:
        return version("skhgad")
    except PackageNotFoundError:
        return "unknown"
