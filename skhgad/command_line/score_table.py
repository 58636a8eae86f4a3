"""The table that the command `score` prints and writes as CSV, its summary and its exit status.

Other commands that go on after an image that cannot be read say so in the same words.
"""

import csv
import sys

from tqdm import tqdm

from ..text import csv_cell, printable

UNREADABLE = 3  # exit status: some images could not be read
ANOMALIES = 1  # exit status with --fail-on-anomaly: some images are anomalies
STDOUT = "-"  # as the name of a file: standard output, in place of the table
COLUMNS = ("path", "class", "score", "p_value", "verdict")


def is_table_printed(args):
    """Whether rows are printed as they come: no file of `args` takes standard output."""
    return STDOUT not in (args.csv, args.jsonl)


def show(record, *, with_row=True):
    """Print a row of the table; of an unreadable image also why, on stderr."""
    if with_row:
        cells = ["" if record[name] is None else record[name] for name in COLUMNS]
        cells = [f"{cell:.4f}" if isinstance(cell, float) else printable(cell) for cell in cells]
        tqdm.write("\t".join(cells))
    if record["error"] is not None:
        _say_error(record["error"])


def write_csv(path, header, rows):
    """Write a table whole or not at all; no spreadsheet runs its cells, see `csv_cell`."""
    from ..storage.files import whole_file

    if path == STDOUT:
        _write_rows(sys.stdout, header, rows)
        return
    # File names may be no valid text; keep their bytes.
    with (
        whole_file(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        _write_rows(file, header, rows)


def say_how_many(rows, detector):
    """Print a summary to stderr: how many images are anomalies, and could not be read."""
    from ..scoring.thresholds import thresholds_text

    n_unreadable = _count(rows, "error")
    print(
        f"{_count(rows, 'anomaly')} of {len(rows) - n_unreadable} images are anomalies "
        f"(score below {thresholds_text(detector.offset_, detector.class_offsets_)})",
        file=sys.stderr,
    )
    _say_unreadable(n_unreadable, len(rows))


def status_of(rows, args):
    """Return the exit status; an anomaly goes before an image that could not be read."""
    if args.fail_on_anomaly and _count(rows, "anomaly"):
        return ANOMALIES
    return UNREADABLE if _count(rows, "error") else 0


class ReadableFindings:
    """The findings of images that can be read; why the others cannot is said on stderr.

    `findings` are as from `inspect_files` with `skip_unreadable`. Iterate once, over it or over
    `numbered`; then `paths` lists the images that can be read. `on_unreadable` is called with each
    Unreadable.
    """

    def __init__(self, findings, on_unreadable=None):
        self._findings, self._on_unreadable = findings, on_unreadable
        self.paths, self._n_unreadable = [], 0

    def __iter__(self):
        return (finding for _, finding in self.numbered())

    def numbered(self):
        """Yield the number of each image that can be read, among all of them, and its Finding."""
        from ..report.findings import Unreadable

        for number, finding in enumerate(self._findings):
            if isinstance(finding, Unreadable):
                self._n_unreadable += 1
                _say_error(finding.error)
                if self._on_unreadable is not None:
                    self._on_unreadable(finding)
            else:
                self.paths.append(finding.path)
                yield number, finding

    def status(self):
        """Return the exit status; say on stderr how many images could not be read."""
        _say_unreadable(self._n_unreadable, self._n_unreadable + len(self.paths))
        return UNREADABLE if self._n_unreadable else 0


def _write_rows(file, header, rows):
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def _say_error(text):
    tqdm.write(f"skhgad: error: {printable(text)}", file=sys.stderr)


def _say_unreadable(n_unreadable, n_images):
    if n_unreadable:
        print(f"{n_unreadable} of {n_images} images could not be read", file=sys.stderr)


def _count(rows, verdict):
    return sum(row["verdict"] == verdict for row in rows)
