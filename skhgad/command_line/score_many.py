"""The command `score` with ``--backend``: several processes, here or on other machines."""

import sys

from tqdm import tqdm

from .arguments import load_detector, parse_positive, product_of, scored_roi
from .score_table import (
    COLUMNS,
    STDOUT,
    is_table_printed,
    say_how_many,
    show,
    status_of,
    write_csv,
)

_BACKENDS = ("joblib", "dask")
_NOT_WITH_BACKEND = ("maps", "masks", "sheet", "strict")


def add_backend_options(command):
    """Add ``--backend``, ``--workers`` and ``--scheduler``."""
    command.add_argument(
        "--backend",
        choices=_BACKENDS,
        help="score in several processes: of this machine (joblib), or of a dask cluster. --jsonl "
        "is then appended to, file by file, and a run that was interrupted goes on where it was "
        "(default: in this process)",
    )
    command.add_argument(
        "--workers",
        type=parse_positive,
        metavar="N",
        help="processes of --backend (default: one for each core)",
    )
    command.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="dask's scheduler, e.g. tcp://host:8786, whose workers see model and images under "
        "the same paths (default: a cluster on this machine, for this run)",
    )


def check_backend_options(args):
    """Raise ValueError if an option needs another one, or does not go with it."""
    if args.backend is None:
        for name in ("workers", "scheduler"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} needs --backend, e.g. --backend dask.")
        return
    if args.scheduler is not None and args.backend != "dask":
        raise ValueError("--scheduler needs --backend dask.")
    if args.scheduler is not None and args.workers is not None:
        raise ValueError("--workers: the workers are those of --scheduler; leave --workers out.")
    for name in _NOT_WITH_BACKEND:
        if getattr(args, name):
            raise ValueError(f"--{name} does not go with --backend: leave one of them out.")
    if args.jsonl == STDOUT:
        raise ValueError("--jsonl - does not go with --backend, which needs a file to go on from.")


def run(args, paths):
    """Score images, print the table and write files; return the exit status."""
    from ..service.backends import Backend
    from ..service.many_files import Job, checked, kept, scored, scored_into
    from ..service.verdict_log import VerdictLog

    detector, _ = load_detector(args)
    workers = Backend(args.backend, args.workers, args.scheduler)
    roi = scored_roi(args, detector)
    label = product_of(detector, args)
    job = Job.of(args.model, detector, class_label=label, roi=roi, n_threads=workers.n_threads)
    found = {}
    if args.jsonl is None:
        _follow(scored(job, paths, workers), len(paths), found, is_table_printed(args))
    else:
        with VerdictLog(args.jsonl, keep=kept) as log:
            found.update((record["path"], row_of(record)) for record in checked(log, job))
            n_known = sum(path in found for path in paths)
            if n_known:
                print(f"{n_known} images are in {args.jsonl} already", file=sys.stderr)
            chunks = scored_into(log, job, paths, workers)
            _follow(chunks, len(paths), found, is_table_printed(args), n_known)
    rows = [found[path] for path in paths]
    if args.csv is not None:
        write_csv(args.csv, rows[0], [row.values() for row in rows])
    say_how_many(rows, detector)
    return status_of(rows, args)


def _follow(chunks, total, found, with_rows, n_known=0):
    """Put the rows of records into `found`, by path; print them as they come, `with_rows`."""
    if with_rows:
        print(*COLUMNS, sep="\t")
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, initial=n_known, desc="images", unit="image", disable=quiet) as bar:
        for records in chunks:
            for record in records:
                row = row_of(record)
                show(row, with_row=with_rows)
                found[record["path"]] = row
            bar.update(len(records))


def row_of(record):
    """Return a row of the table, as dict, from what a log keeps of a record."""
    return {name: record[name] for name in (*COLUMNS, "error")}
