"""Write files whole or not at all, and check places before the work starts."""

import os
import re
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path):
    """Write a file under a temporary name beside it, and rename it when it is complete.

    Parameters
    ----------
    path : str or path
        Replaced if it exists; a link is followed. What is no regular file (a pipe, /dev/stdout) is
        written directly.

    Yields
    ------
    Path
        Where to write. Removed if the block raises, also on Ctrl-C.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    with replacement(path) as part:
        yield part


@contextmanager
def replacement(path, *, durable=False):
    """Write a regular file as `whole_file` does, but replace a link instead of following it.

    Parameters
    ----------
    path : Path
    durable : bool, default=False
        Whether to flush the content to the disk before the rename, and the folder after it. A full
        or failing disk may report an error only at the flush.

    Yields
    ------
    Path
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if durable:
            _flush(part)
        os.replace(part, path)
        if durable:
            flush_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(part)):
            name_place(error, path)
        raise
    finally:
        part.unlink(missing_ok=True)


def leftovers(path):
    """List the temporary files of `path` that are in its folder now.

    A process that was killed leaves one. A process that is writing has one, too.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    return [path.with_name(found) for found in os.listdir(path.parent) if name.fullmatch(found)]


def flush_folder(folder):
    """Write a folder's list of names to the disk, on systems that can do so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def name_place(error, path):
    """Make an OSError name `path`, which the user knows, instead of a temporary file."""
    if error.errno is not None:
        error.filename = str(path)
        del error.filename2  # None would be printed


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
    """Raise ValueError if `path` is not a writable folder and cannot become one."""
    path = Path(path).absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(
            f"{option} {str(path)!r}: {str(existing)!r} is a file; choose another place."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {str(path)!r}: no permission to write in {str(existing)!r}.")


def _flush(path):
    with open(path, "rb+") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
