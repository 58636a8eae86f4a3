"""A log of verdicts, a JSON object a line, that a crash at any moment leaves whole."""

import json
import os
from contextlib import suppress
from pathlib import Path

from ..storage.files import flush_folder, name_place

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class VerdictLog:
    """Appends records, each on the disk before `append` returns.

    Opening it repairs the last line, if a process died while it wrote that.

    Parameters
    ----------
    path : str or path
    keep : callable, default=None
        Takes a record that the file holds and returns what `records` has of it; None = all of it.

    Raises
    ------
    ValueError
        If it is no regular file, another process has it open, it holds a line, not the last, that
        is no record, or it is no log: what it holds does not begin as a record does.
    OSError

    Attributes
    ----------
    records : list of dict
        What it held when it was opened; empty it when it was read.
    """

    def __init__(self, path, keep=None):
        self.path = Path(path)
        self._keep = keep
        is_new = not self.path.exists()
        if not is_new and not self.path.is_file():  # /dev/full can be read for ever
            raise ValueError(f"the log {str(self.path)!r} is no regular file: give another name.")
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            self._lock()
            self.records = self._read()
        except BaseException:
            self._file.close()
            raise
        if is_new:
            flush_folder(self.path.absolute().parent)

    def append(self, records):
        """Write records and wait until they are on the disk; all or none, but for a crash.

        Raises ValueError if the file was deleted meanwhile, OSError if it cannot be written.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise ValueError(
                f"the log {str(self.path)!r} was deleted while it was in use. Start again: what it "
                "held is scored once more."
            )
        content = b"".join(_line(record) for record in records)
        size = os.fstat(self._file.fileno()).st_size  # others may have cut it, as copytruncate does
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:  # a full disk
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), size)
            if error.filename is None:
                name_place(error, self.path)
            raise

    def close(self):
        """Let others open it."""
        self._file.close()

    def __enter__(self):
        """Return the log."""
        return self

    def __exit__(self, *_):
        """Close the log."""
        self.close()

    def _lock(self):
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is writing to the log {str(self.path)!r}: choose another log, or "
                "end that process."
            ) from None
        except OSError:  # a file system without locks
            return

    def _read(self):
        """Return the records; cut off what a crash left behind the last whole line."""
        records, broken, size = [], None, 0
        with open(self.path, "rb") as file:  # the one that is open has no buffer
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                if broken is not None:
                    raise ValueError(
                        f"line {broken} of {str(self.path)!r} is no record of skhgad: give another "
                        "file, or mend that line."
                    )
                record = _parsed(line)
                if record is None:
                    broken = number  # of the crash, unless another line follows
                else:
                    records.append(record if self._keep is None else self._keep(record))
                    size += len(line)
        if size < os.fstat(self._file.fileno()).st_size:
            if not records and not self._begins_as_a_record():
                raise ValueError(
                    f"{str(self.path)!r} is no log of skhgad: give another name, or remove it."
                )
            os.ftruncate(self._file.fileno(), size)
            os.fsync(self._file.fileno())
        return records

    def _begins_as_a_record(self):
        """Whether the file may hold a record that a crash has torn; zeros are unwritten blocks."""
        with open(self.path, "rb") as file:
            start = file.read(2)
        return not start.strip(b"\0") or b'{"'.startswith(start)


def _line(record):
    return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"


def _parsed(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
