"""Score many image files in several processes, here or on other machines; resumable."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import joblib
import torch

from ..estimator import HGADDetector
from ..monitor.drift import fingerprint
from ..report.findings import findings_of
from ..report.verdicts import verdict_record
from ..text import printable
from .backends import Backend
from .verdict_log import VerdictLog

CHUNK = 32  # files a worker scores at a time
_KEPT = ("path", "size", "mtime_ns", "class", "score", "p_value", "verdict", "error")

_held: dict[tuple[str, str], HGADDetector] = {}  # the latest model of this process
_loading = threading.Lock()


class Job(NamedTuple):
    """What is done to files, wherever it is done.

    Attributes
    ----------
    folder : str
        Of the model, absolute.
    model : str
        Fingerprint of the model.
    offset : float
    class_offsets : dict
        The thresholds of this run.
    class_label : str, int or None
    roi : object
        As `HGADDetector.score_samples` takes it.
    device : str
    base : str
        Folder in which relative paths begin.
    n_threads : int
        Threads of torch in a worker.
    caller : int
        Id of the process that asks for it, whose own threads are left as they are.
    identity : str
        Hash of all that verdicts depend on.
    """

    folder: str
    model: str
    offset: float
    class_offsets: dict[str | int, float]
    class_label: str | int | None
    roi: Any
    device: str
    base: str
    n_threads: int
    caller: int
    identity: str

    @classmethod
    def of(
        cls,
        folder: str | os.PathLike[str],
        detector: HGADDetector,
        *,
        class_label: str | int | None = None,
        roi: Any = None,
        n_threads: int = 1,
    ) -> Job:
        """Return the job of a detector that was loaded from a folder, with its thresholds."""
        model, offset = fingerprint(detector), float(detector.offset_)
        own = dict(detector.class_offsets_)
        told = [model, offset, sorted((str(k), v) for k, v in own.items()), str(class_label)]
        text = json.dumps([*told, _hash_of_roi(roi)])
        return cls(
            folder=os.path.abspath(folder),
            model=model,
            offset=offset,
            class_offsets=own,
            class_label=class_label,
            roi=_absolute(roi),
            device=str(detector.device),
            base=os.getcwd(),
            n_threads=n_threads,
            caller=os.getpid(),
            identity=hashlib.sha256(text.encode()).hexdigest()[:16],
        )


def score_files(
    model: str | os.PathLike[str],
    paths: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    backend: str = "joblib",
    n_workers: int | None = None,
    scheduler: str | None = None,
    class_label: str | int | None = None,
    false_alarm_rate: float | Mapping[str | int, float] | None = None,
    roi: Any = None,
    device: str = "auto",
) -> list[dict[str, Any]] | None:
    """Score image files in several processes, each of which reads the model once.

    Parameters
    ----------
    model : str or path
        Folder that `HGADDetector.save` wrote. Workers on other machines see it, and the files,
        under the same path.
    paths : iterable of str or path
        Image files.
    out : str or path, default=None
        File of JSON lines to append to, so that a run which was interrupted goes on where it was:
        the files that it holds are not scored again, unless they were written again. It holds each
        file once, whatever happens.
    backend : {"joblib", "dask"}, default="joblib"
        "joblib": processes of this machine, or what ``joblib.parallel_config`` has chosen. "dask":
        a cluster of dask, for which the extra ``dask`` is needed.
    n_workers : int, default=None
        Processes; None = one for each core.
    scheduler : str, default=None
        Address of dask's scheduler, such as "tcp://host:8786"; None = a cluster on this machine,
        for this call.
    class_label : str or int, default=None
        Class of all files; None = inferred.
    false_alarm_rate : float in (0, 1), or mapping of class label to float, default=None
        Moves the threshold for this call, see `HGADDetector.set_threshold`.
    roi : default=None
        Region of interest: one mask for all files, or a mapping of class label to mask.
    device : str, default="auto"
        Of each worker.

    Returns
    -------
    list of dict, or None
        A record of each file, in order, as ``skhgad score --jsonl`` writes it, with the file's
        "size" and "mtime_ns" and, in "model", a hash of model, thresholds, class and region. A file
        that cannot be read has the verdict "error". None where they are in `out`.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        Naming the argument, model or file that cannot be used; `out` holds verdicts of another
        model, or with other thresholds, class or region.
    RuntimeError
        If workers are killed three times in a row on the same files.
    ImportError
        If dask is not installed.

    Notes
    -----
    The share of a worker that is killed is scored by another one. A script must call this below
    ``if __name__ == "__main__":`` where `backend` is "dask", as everywhere with new processes.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise TypeError(f"paths is a single path, {paths!r}; wrap it in a list.")
    detector = HGADDetector.load(model).set_params(device=device, n_jobs=None, verbose=0)
    if not detector.model_.takes_images:
        raise ValueError(f"{str(model)!r} was fitted on feature vectors, and scores no files.")
    if class_label is not None and class_label not in detector.classes_.tolist():
        raise ValueError(
            f"class_label={class_label!r} is none of the classes {detector.classes_.tolist()}."
        )
    if false_alarm_rate is not None:
        detector.set_threshold(false_alarm_rate=false_alarm_rate)
    workers = Backend(backend, n_workers, scheduler)
    job = Job.of(model, detector, class_label=class_label, roi=roi, n_threads=workers.n_threads)
    names = [os.fspath(path) for path in paths]
    if out is None:
        return [record for found in scored(job, names, workers) for record in found]
    with VerdictLog(out, keep=kept) as log:
        for _ in scored_into(log, job, names, workers):
            pass
    return None


def scored(job: Job, paths: Sequence[str], workers: Backend) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of records that together follow the order of the paths."""
    chunks = [tuple(paths[first : first + CHUNK]) for first in range(0, len(paths), CHUNK)]
    yield from workers.map(partial(records_of, job), chunks)


def scored_into(
    log: VerdictLog, job: Job, paths: Sequence[str], workers: Backend
) -> Iterator[list[dict[str, Any]]]:
    """Score the files that a log does not hold; yield lists of records that are in it by then.

    The log must have been opened with ``keep=kept``.
    """
    done = {version_of(record) for record in checked(log, job)}
    todo = [path for path in dict.fromkeys(paths) if (path, *_size_and_time(path)) not in done]
    for records in scored(job, todo, workers):
        log.append(records)
        yield records


def checked(log: VerdictLog, job: Job) -> list[dict[str, Any]]:
    """Return the records of a log; ValueError if they are not those of this job."""
    if any(record["model"] != job.identity for record in log.records):
        raise ValueError(
            f"{str(log.path)!r} holds verdicts of another model, or with other thresholds, class "
            "or region: choose another file."
        )
    return log.records


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """Return what must be in memory of a record in a log."""
    return {name: record.get(name) for name in (*_KEPT, "model")}


def version_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a file from the same file written again."""
    return record["path"], record["size"], record["mtime_ns"]


def records_of(job: Job, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Score some files in a worker; return their records."""
    detector = _detector_of(job)
    files = [os.path.join(job.base, path) for path in paths]
    stats = [_size_and_time(file) for file in files]
    findings = findings_of(detector, files, job.class_label, reasons=True, roi=job.roi)
    records = [verdict_record(finding, detector) for finding in findings]
    for record, file, path, (size, time) in zip(records, files, paths, stats, strict=True):
        if record["error"] is not None:  # names the file as it was given
            record["error"] = record["error"].replace(printable(file), printable(path))
        record.update(path=path, size=size, mtime_ns=time, model=job.identity)
    return records


def _detector_of(job: Job) -> HGADDetector:
    """Return the detector of a job; a process reads its folder once."""
    key = job.folder, job.model
    with _loading:
        if key not in _held:
            _held.clear()
            if os.getpid() != job.caller:
                torch.set_num_threads(job.n_threads)
            detector = HGADDetector.load(job.folder)
            if fingerprint(detector) != job.model:
                raise ValueError(
                    f"{job.folder!r} holds another model than when the run began: start it again."
                )
            _held[key] = detector
        detector = copy.copy(_held[key])
    detector.offset_, detector.class_offsets_ = job.offset, job.class_offsets
    return detector.set_params(device=job.device, n_jobs=None, verbose=0)


def _size_and_time(path: str) -> tuple[int | None, int | None]:
    try:
        found = os.stat(path)
    except OSError:  # scoring says why
        return None, None
    return found.st_size, found.st_mtime_ns


def _absolute(roi: Any) -> Any:
    """Return a region of interest whose files are found from any folder."""
    if isinstance(roi, Mapping):
        return {label: _absolute(mask) for label, mask in roi.items()}
    return os.path.abspath(roi) if isinstance(roi, str | os.PathLike) else roi


def _hash_of_roi(roi: Any) -> Any:
    if isinstance(roi, Mapping):
        return sorted((str(label), _hash_of_roi(mask)) for label, mask in roi.items())
    if isinstance(roi, str | os.PathLike):
        with open(roi, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    return joblib.hash(roi)
