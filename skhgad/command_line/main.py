"""The command line: ``python -m skhgad demo | fit | score | evaluate | report``.

Each command is a module of this folder with two functions: `add_options` adds the command to the
parser, and `run` does the work.

torch, numpy and scikit-learn take seconds to import. No module of this folder imports them, or a
module that needs them, at its top: such imports stand inside functions that `run` calls, or in
the ``demo_*`` modules, which only `demo.run` imports. So ``--help`` answers at once, and `main`
catches a Ctrl-C that comes during these imports.

Exit status: 0 done; 1 the work failed; 2 wrong usage or unusable input; 130 interrupted; 141 the
program that read the output has ended (shells report the same number).
"""

import argparse
import os
import sys
import warnings

from ..version import installed_version
from . import demo, evaluate, fit, report, score

# What skhgad raises for wrong parameters, images and folders. Each message says what to do.
_INPUT_ERRORS = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv=None):
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None = those of the process.

    Returns
    -------
    int
        0 done; 1 the work failed; 2 unusable input; 130 interrupted; 141 nobody reads the output.

    Raises
    ------
    SystemExit
        From argparse: 0 after ``--help`` and ``--version``, 2 for wrong usage.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # File names may hold characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _fail(args, "interrupted", 130)
        except BrokenPipeError:
            # The program that read the output has ended (`| head`). Python flushes stdout once
            # more at exit, which must not raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except _INPUT_ERRORS as error:
            return _fail(args, f"error: {error}", 2)
        except (RuntimeError, MemoryError) as error:
            return _fail(args, f"failed: {type(error).__name__}: {error}", 1)
    return 0


def build_parser():
    """Build the parser of all commands; the parsed arguments have the command's `run`."""
    parser = argparse.ArgumentParser(
        prog="skhgad",
        description="Find anomalies in images of many product classes with one model.",
        epilog="Exit status: 0 done (also when anomalies are found); 1 the work failed; 2 wrong "
        "usage or unusable input; 130 interrupted.",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="show the version")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, fit, score, evaluate, report):
        command.add_options(commands)
    return parser


class _PrintVersion(argparse.Action):
    # argparse's own action takes the version when the parser is built, which costs every command
    # the search for the installed metadata.
    def __call__(self, parser, namespace, values, option_string=None):
        print(f"skhgad {installed_version()}")
        parser.exit()


def _fail(args, message, status):
    if args.traceback:
        import traceback

        traceback.print_exc()
    print(f"skhgad: {message}", file=sys.stderr)
    return status


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"skhgad: warning: {message}", file=sys.stderr)
