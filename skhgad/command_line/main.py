"""The command line: each command is a module with `add_options` and `run`.

torch, numpy and scikit-learn, slow to import, are imported only when `run` works, in functions or
the ``demo_*`` modules: ``--help`` answers at once, and `main` catches Ctrl-C during the imports.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

from ..text import printable_lines
from ..version import installed_version
from . import (
    add_class,
    demo,
    evaluate,
    explain,
    export,
    fit,
    forget,
    report,
    review,
    score,
    serve,
    update,
    validate,
    watch,
)

_COMMANDS = (
    demo, fit, score, watch, serve, review, evaluate, report, explain, add_class, update, forget,
    export, validate,
)  # fmt: skip
# Wrong parameters, images and folders raise these.
_INPUT_ERRORS = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv=None):
    """Run a command and return its exit status; `argv` is a list of str, None = `sys.argv`.

    0 done; 1 the work failed, or anomalies were found and ``--fail-on-anomaly`` was given; 2
    unusable input; 3 some images could not be read, the others were; 130 interrupted; 141 nobody
    reads the output.
    SIGTERM and SIGHUP raise SystemExit with 128 and their number, once what is half written is
    removed. Argparse raises it, too: 0 after ``--help`` and ``--version``, 2 for wrong usage.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as of some services
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # The terminal's encoding may lack characters of file names.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = None
    with warnings.catch_warnings(), _ending_in_order() as interrupted:
        warnings.showwarning = _show_warning
        try:
            args = build_parser().parse_args(argv)
            status = args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _fail(args, "interrupted", 130)
        except BrokenPipeError:
            # Python flushes stdout once more at exit, which must not raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (*_INPUT_ERRORS, RuntimeError, MemoryError) as error:
            if interrupted:  # numpy, while it is imported, makes an ImportError of Ctrl-C
                return _fail(args, "interrupted", 130)
            if isinstance(error, _INPUT_ERRORS):
                return _fail(args, f"error: {error}", 2)
            return _fail(args, f"failed: {type(error).__name__}: {error}", 1)
    return status or 0


@contextmanager
def _ending_in_order():
    """Let SIGTERM and SIGHUP raise SystemExit, so that temporary files are removed.

    Yields a list that holds something once Ctrl-C was pressed, which raises KeyboardInterrupt.
    A signal that the caller ignores (nohup) or handles stays so. Only the main thread can do this.
    """
    interrupted = []

    def interrupt(number, frame):
        interrupted.append(number)
        signal.default_int_handler(number, frame)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number, frame):
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the clean-up
    sys.exit(128 + number)


def build_parser():
    """Build the parser; parsed arguments have a `run`."""
    parser = _Parser(
        prog="skhgad",
        description="Find anomalies in images of many product classes with one model.",
        epilog="Exit status: 0 done (also when anomalies are found); 1 the work failed, or "
        "anomalies were found (score --fail-on-anomaly); 2 wrong usage or unusable input; 3 some "
        "images could not be read, the others were; 130 interrupted; 141 nobody reads the output; "
        "143 and 129 ended by SIGTERM and SIGHUP.",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="show the version")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_options(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        super().error(printable_lines(message) + self._hint(message))

    def parse_known_args(self, args=None, namespace=None):
        """Refuse what is left over: a command refuses it with its own usage."""
        found, left_over = super().parse_known_args(args, namespace)
        if left_over:
            self.error(f"unrecognized arguments: {' '.join(left_over)}")
        return found, left_over

    def _hint(self, message):
        """Say which options took the words after them, where one is missing or no value."""
        options = [
            action.option_strings[-1]
            for action in self._actions
            if action.option_strings and action.nargs == "+"
        ]
        _, is_missing, names = message.partition("arguments are required: ")
        if options and is_missing and names[:1] != "-":
            return f" (put {', '.join(options)} last: all words after them are theirs)"
        if any(f"argument {option}: " in message for option in options):
            return " (all words after this option are its own: put it last)"
        return ""


class _PrintVersion(argparse.Action):
    # argparse's own action needs the version, slow to find, whenever a parser is built.
    def __call__(self, parser, namespace, values, option_string=None):
        print(f"skhgad {installed_version()}")
        parser.exit()


def _fail(args, message, status):
    """Tell what went wrong; `args` is None where that was before they were read."""
    if args is not None and args.traceback:
        import traceback

        print(printable_lines(traceback.format_exc()), file=sys.stderr)
    print(f"skhgad: {printable_lines(message)}", file=sys.stderr)
    return status


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"skhgad: warning: {printable_lines(message)}", file=sys.stderr)
