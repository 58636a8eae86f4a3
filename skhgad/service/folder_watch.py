"""Score what appears in a folder, each file once, also after a crash."""

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from ..datasets.folders import IMAGE_ENDINGS, is_junk
from ..images.appearance import STATISTICS
from ..monitor import DriftMonitor
from ..report.findings import Unreadable, observed_findings
from ..report.verdicts import verdict_record

_CHUNK = 16  # files between two writes to the log
RESET = "drift reset"  # the event of a log that begins drift monitoring anew


class Version(NamedTuple):
    """A file as it was at a moment; it is another one when it is written again."""

    file: str  # below the folder, with /
    size: int
    mtime_ns: int


class FolderWatch:
    """Watches a folder.

    Parameters
    ----------
    folder : path
    model : HeldModel
    log : VerdictLog
    class_label : str or int, default=None
        The product of all files; None = inferred.
    settle : float
        Seconds for which a file must not change before it is read.
    patience : float
        Seconds for which a file that cannot be read is tried again; then the log says why.
    drift : dict
        Parameters of `DriftMonitor`.

    Attributes
    ----------
    monitor : DriftMonitor
        Has seen what the log holds of the present model.
    unreadable : dict
        Path of each folder that could not be read at the last look: why.
    """

    def __init__(self, folder, model, log, class_label=None, *, settle, patience, drift):
        self.folder = Path(folder)
        self.model = model
        self.log = log
        self.class_label = class_label
        self.settle = settle
        self.patience = patience
        self._drift = {**drift, "classes_given": class_label is not None}
        self._done = set()
        self._first_seen = {}  # Version: when, on the monotonic clock
        self.unreadable = {}
        self._device = self.folder.stat().st_dev
        self._begin_monitor()
        self._replay()

    def reset_drift(self):
        """Begin drift monitoring anew, and note that in the log."""
        self.log.append([{"event": RESET, "time": _now()}])
        self._begin_monitor()

    def step(self, *, last=False):
        """Do what `look` does; return all new records of the log, a list of dict."""
        return [record for records in self.look(last=last) for record in records]

    def look(self, *, last=False):
        """Look once; score and log what is ready, by a model that is replaced meanwhile, too.

        `last` says that no other look follows soon: the age of a file then tells whether it is
        still being written.

        Yields
        ------
        list of dict
            New records of the log, once they are in it.
        """
        self._refresh()
        now = time.monotonic()
        present = self._present()
        self._first_seen = {version: self._first_seen.get(version, now) for version in present}
        ready = [v for v, since in self._first_seen.items() if now - since >= self.settle]
        ready.sort(key=lambda version: (version.mtime_ns, version.file))
        for first in range(0, len(ready), _CHUNK):
            yield self._score(ready[first : first + _CHUNK], now, last)
            self._refresh()

    def _refresh(self):
        if self.model.refresh():
            self._begin_monitor()

    def _present(self):
        """Return the Version of each image file that is not in the log yet."""
        found, self.unreadable = [], {}
        for folder, names, files in os.walk(self.folder, onerror=self._note_unreadable):
            if folder == str(self.folder):
                self._note_unmounted(is_empty=not names and not files)
            names[:] = [name for name in names if not is_junk(name)]
            for name in files:
                if is_junk(name) or Path(name).suffix.lower() not in IMAGE_ENDINGS:
                    continue
                version = self._version(Path(folder, name))
                if version is not None and version not in self._done:
                    found.append(version)
        return found

    def _note_unreadable(self, error):
        is_whole = error.filename == str(self.folder)
        if is_whole or not isinstance(error, FileNotFoundError):  # another was removed meanwhile
            self.unreadable[error.filename] = error.strerror

    def _note_unmounted(self, *, is_empty):
        """Note where a share was unmounted: an empty folder of another file system is left."""
        with suppress(OSError):  # at the next look
            device = self.folder.stat().st_dev
            if device != self._device and is_empty:
                self.unreadable[str(self.folder)] = "another file system lies there, and is empty"
            else:
                self._device = device

    def _version(self, path):
        for look in (path.stat, path.lstat):  # a link that leads nowhere has only the latter
            with suppress(OSError):  # moved or deleted meanwhile
                found = look()
                name = path.relative_to(self.folder).as_posix()
                return Version(name, found.st_size, found.st_mtime_ns)
        return None

    def _score(self, versions, now, last):
        """Score files; return the records, which are in the log by then."""
        paths = [str(self.folder / version.file) for version in versions]
        findings = observed_findings(self.model.detector, paths, self.class_label)
        records = []
        for version, finding in zip(versions, findings, strict=True):
            if self._version(self.folder / version.file) != version:
                continue  # moved, deleted, or written on while it was read
            if isinstance(finding, Unreadable) and not self._is_given_up(version, now, last):
                continue
            records.append(self._record(version, finding))
        if records:
            self.log.append(records)
        for record in records:
            version = _version_of(record)
            self._done.add(version)
            del self._first_seen[version]
        return records

    def _is_given_up(self, version, now, last):
        if last:
            return self._age(version) >= self.patience
        return now - self._first_seen[version] >= self.patience

    def _age(self, version):
        """Return the seconds since a file was written."""
        age = time.time() - version.mtime_ns / 1e9
        if age < 0:  # the clock of the machine that wrote it is ahead
            with suppress(OSError):  # deleted meanwhile
                age = time.time() - (self.folder / version.file).stat().st_ctime
        return age

    def _record(self, version, finding):
        record = {
            "time": _now(),
            **version._asdict(),
            "model": self.model.identity,
            **verdict_record(finding, self.model.detector),
        }
        if not isinstance(finding, Unreadable):
            record["appearance"] = dict(zip(STATISTICS, finding.appearance, strict=True))
        self._watch_drift(record)
        alarm = self.monitor.alarm_
        record["drift"] = {
            "evidence": self.monitor.evidence_,
            "alarm": None if alarm is None else alarm._asdict(),
        }
        return record

    def _watch_drift(self, record):
        if record["verdict"] == "error":
            return
        look = record.get("appearance")  # logs of older versions have none
        self.monitor.update_scores(
            [record["score"]],
            [record["class"]],
            None if look is None else [[look[name] for name in STATISTICS]],
        )

    def _begin_monitor(self):
        self.monitor = DriftMonitor(self.model.detector, **self._drift)

    def _replay(self):
        """Take from the log which files are done, and the scores of the present model."""
        for record in self.log.records:
            try:
                self._take_up(record)
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"the log {str(self.log.path)!r} holds what watch does not write, "
                    f"{str(record)!r:.120}: choose another log."
                ) from None
        self.log.records.clear()

    def _take_up(self, record):
        if "event" in record:
            if record["event"] == RESET:
                self._begin_monitor()
            return
        self._done.add(_version_of(record))
        if record["model"] == self.model.identity:
            self._watch_drift(record)


def _version_of(record):
    return Version(record["file"], record["size"], record["mtime_ns"])


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
