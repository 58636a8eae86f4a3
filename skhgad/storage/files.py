"""Write files whole or not at all, and check places before the work starts."""

import hashlib
import os
import re
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ..datasets.masks import IMAGE_ENDINGS

_LONGEST_WRITE = 24 * 3600  # seconds
_LONGEST_NAME = 255  # bytes, of a file on most file systems


def short_name(name, ending=""):
    """Return the name of a file + `ending`, shortened where that has more than 255 bytes.

    A shortened name ends in a hash of the whole one, so that two long names stay different.
    """
    room = _LONGEST_NAME - len(os.fsencode(ending))
    content = os.fsencode(name)
    if len(content) <= room:
        return name + ending
    mark = f"~{hashlib.sha256(content).hexdigest()[:16]}"
    return content[: room - len(mark)].decode("utf-8", errors="ignore") + mark + ending


@contextmanager
def whole_file(path):
    """Yield a temporary path beside `path` to write to, and rename it when the block is complete.

    It is removed if the block raises. An existing file is replaced; a link is followed. What is no
    regular file (a pipe, /dev/stdout) is written directly. Temporary files of a day ago, which
    killed processes left, are removed.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path  # not resolved: the target of /dev/stdout may be no path at all
        return
    path = path.resolve()
    remove_leftovers(path)
    with replacement(path) as part:
        yield part


@contextmanager
def replacement(path, *, durable=False):
    """Do what `whole_file` does for regular files; a link is replaced, not followed.

    `durable` flushes content and rename to the disk. A full disk may fail only at such a flush.
    """
    part = path.with_name(short_name(f".{path.name}", f".{secrets.token_hex(4)}.part"))
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


def is_part(name, final):
    """Whether `replacement` gives this name to a temporary file for `final`."""
    found = re.search(r"\.[0-9a-f]{8}\.part\Z", name)
    return found is not None and name == short_name(f".{final}", found.group())


def remove_leftovers(path, *, of_today=False):
    """Remove the temporary files for `path` that killed processes left.

    Another process may still write one of today: remove those only if the caller knows that no one
    does.
    """
    with suppress(OSError):  # no such folder: whoever writes there will say so
        for entry in os.scandir(path.parent):
            if is_part(entry.name, path.name):
                with suppress(OSError):  # another process was quicker
                    age = time.time() - entry.stat().st_mtime
                    if of_today or age > _LONGEST_WRITE:
                        os.unlink(entry.path)


def flush_folder(folder):
    """Let new names in a folder reach the disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def name_place(error, path):
    """Let an OSError name `path`, which the user knows, and no temporary file."""
    if error.errno is not None:
        error.filename = str(path)
        del error.filename2  # None would be printed


def check_file_place(path, option, *, is_image=False):
    """Raise ValueError if no file can be written at `path`; `option` names it in the message.

    Unless an image is written (`is_image`), the name of an image is refused, too: ``--csv *.png``
    names an image to score, which would be lost.
    """
    path = Path(path)
    if not is_image and path.suffix.lower() in IMAGE_ENDINGS:
        raise ValueError(
            f"{option} {str(path)!r} is the name of an image, which is not what is written: choose "
            "another ending."
        )
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
