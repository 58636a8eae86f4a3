"""The version of skhgad that is installed."""


def installed_version() -> str:
    """Return the version as text; "unknown" for a source tree that nobody installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes longer than the rest

    try:
        return version("skhgad")
    except PackageNotFoundError:
        return "unknown"
