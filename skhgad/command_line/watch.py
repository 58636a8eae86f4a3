"""The command `watch`."""

import sys
import time
from pathlib import Path

from ..text import printable
from .arguments import (
    ROI_OF_FIT,
    add_drift_options,
    add_machine_options,
    add_product_option,
    add_roi_option,
    add_threshold_option,
    drift_options,
    load_for_work,
    parse_seconds,
    product_of,
)
from .score_table import STDOUT, UNREADABLE, show


def add_options(commands):
    """Add the command."""
    text = "Score images as they appear in a folder, each once, and log every verdict."
    command = commands.add_parser(
        "watch",
        help=text,
        description=text,
        epilog="The log has a JSON object a line, as score --jsonl writes them, with the file, the "
        "model and the evidence of drift. The process may be killed at any moment and started "
        "again: every file is in the log once. A file that is written again is scored again.",
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument("folder", metavar="FOLDER", help="searched whole, again and again")
    command.add_argument(
        "--log", metavar="FILE", required=True, help="file of JSON lines to append to"
    )
    command.add_argument(
        "--once", action="store_true", help="score what is there now, and end; for cron"
    )
    command.add_argument(
        "--interval",
        type=parse_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks at the folder (default: %(default)g)",
    )
    command.add_argument(
        "--settle",
        type=parse_seconds,
        default=1.0,
        metavar="SECONDS",
        help="a file is read once it has not changed for so long (default: %(default)g)",
    )
    command.add_argument(
        "--patience",
        type=parse_seconds,
        default=30.0,
        metavar="SECONDS",
        help="a file that cannot be read is tried again for so long before the log says error "
        "(default: %(default)g)",
    )
    add_drift_options(command)
    command.add_argument(
        "--reset-drift",
        action="store_true",
        help="forget the drift so far, once its cause is mended",
    )
    add_product_option(command)
    add_threshold_option(command, "for this run only; the model stays")
    add_roi_option(command, f"for this run only; {ROI_OF_FIT}")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Watch a folder until the process is ended, or look once; return the exit status."""
    from ..service.folder_watch import FolderWatch
    from ..service.held_model import HeldModel
    from ..service.verdict_log import VerdictLog
    from ..storage.files import check_file_place

    if not Path(args.folder).is_dir():
        raise FileNotFoundError(f"no folder at {args.folder!r}.")
    if args.log == STDOUT:
        raise ValueError("--log -: the log is a file, which watch reads when it starts.")
    check_file_place(args.log, "--log")
    model = HeldModel(args.model, lambda: watching_detector(args), warn)
    label = product_of(model.detector, args)
    with VerdictLog(args.log) as log:
        watch = FolderWatch(
            args.folder,
            model,
            log,
            label,
            settle=args.settle,
            patience=args.patience,
            drift=drift_options(args),
        )
        if args.reset_drift:
            watch.reset_drift()
        return _Report(watch).run(args)


def watching_detector(args):
    """Read the model; ValueError if it does not know the product that ``--class`` names."""
    detector = load_for_work(args)
    product_of(detector, args)
    return detector


class _Report:
    """Prints what a FolderWatch finds."""

    def __init__(self, watch):
        self.watch = watch
        self._unreadable = set()
        self._status = 0
        self._alarm = watch.monitor.alarm_
        if self._alarm is not None:
            warn(drift_text(self._alarm))

    def run(self, args):
        """Return the exit status, with ``--once``."""
        self._look(args)
        while True:
            time.sleep(args.settle if args.once else args.interval)
            self._look(args)
            if args.once:
                return self._status

    def _look(self, args):
        for records in self.watch.look(last=args.once):
            self._show(records)
        self._show([])

    def _show(self, records):
        for record in records:
            show(record)
            if record["verdict"] == "error":
                self._status = UNREADABLE
        sys.stdout.flush()
        self._say_unreadable()
        alarm = self.watch.monitor.alarm_
        if alarm is not None and alarm != self._alarm:
            warn(drift_text(alarm))
        self._alarm = alarm

    def _say_unreadable(self):
        """Name the folders that cannot be read any more, and those that can be again, once."""
        unreadable = self.watch.unreadable
        for folder in sorted(set(unreadable) - self._unreadable):
            warn(f"{folder} cannot be read ({unreadable[folder]}): its images wait until it can.")
        for folder in sorted(self._unreadable - set(unreadable)):
            warn(f"{folder} can be read again.")
        self._unreadable = set(unreadable)


def drift_text(alarm):
    """Say in one sentence what an Alarm of a DriftMonitor means."""
    return (
        f"drift, seen at image {alarm.n_seen}: {printable(alarm.text)} (evidence "
        f"{alarm.evidence:.3g}): check camera, light and product; once mended, use --reset-drift."
    )


def warn(text):
    """Print a warning to stderr."""
    print(f"skhgad: warning: {printable(text)}", file=sys.stderr, flush=True)
