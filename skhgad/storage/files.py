"""Files that are written whole or not at all, and places checked before the work starts."""

import os
from contextlib import contextmanager
from pathlib import Path

from .model_folder import check_place, name_place


@contextmanager
def whole_file(path):
    """Write a file under a temporary name beside it, and rename it when it is complete.

    Parameters
    ----------
    path : str or path
        Replaced if it exists. What is no regular file (a pipe, /dev/stdout) is written directly.

    Yields
    ------
    Path
        Where to write. Removed if the block raises, also on Ctrl-C.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):
            name_place(error, path)
        raise
    finally:
        part.unlink(missing_ok=True)


def check_file_place(path, option):
    """Raise ValueError if no file can be written at `path`; `option` names it in the message."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{option} {str(path)!r} is a folder: give the name of a file in it.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option} {str(path)!r}: there is no folder {str(path.parent)!r}.")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ValueError(f"{option} {str(path)!r}: no permission to write there.")


def check_folder_place(path, option):
    """Raise ValueError if `path` is no folder in which files can be written, nor can become one."""
    path = Path(path).absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(
            f"{option} {str(path)!r}: {str(existing)!r} is a file; choose another place."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {str(path)!r}: no permission to write in {str(existing)!r}.")


def check_model_place(path, option):
    """Raise ValueError if `HGADDetector.save` would refuse `path`: before a fit, not after it."""
    check_folder_place(Path(path).absolute().parent, option)
    try:
        check_place(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
