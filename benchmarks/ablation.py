"""What each part of HGAD is worth, by parameters alone, under the honest protocol.

    python -m benchmarks.ablation --data DIR [--only parts centers] [--json FILE]

With --json, finished runs are kept after every run and not repeated by the next call.
"""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from skhgad import HGADDetector
from skhgad.parameters import FAST

from ._features import extract
from ._figures import summary, write_json, write_markdown
from ._methods import SINGLE_GAUSSIAN, Bench
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    repeats,
    say_run,
)

_CENTERS = (1, 2, 5, 10, 20)
_LAMBDA_2 = (0.0, 1.0, 10.0, 100.0)
# Parts of the detector of images that are taken away one at a time.
_WITHOUT = {
    "nothing": {},
    "weights of levels": {"synthetic_anomalies": "none"},
    "kept normal vectors": {"bank_size": 0},
    "a background": {"background_weight": 0.0},
    "a second image scale": FAST,
    "signed square roots": {"feature_power": 1.0},
    "a scale for each class": {"class_calibration": False},
}
_DATA_OPTIONS = ("data", "loader", "classes", "limit", "no_pixels", "pixel_size")


class Row(NamedTuple):
    """One configuration: what it changes in the parameters of the run."""

    group: str
    name: str
    changes: dict
    labels: bool = True  # False: fitted without y

    @property
    def title(self):
        """How tables and files call it."""
        return f"{self.group}: {self.name}"


def ablation_rows(base):
    """List the configurations.

    Parameters
    ----------
    base : dict
        Parameters of HGADDetector; what a part adds is taken from here.

    Returns
    -------
    list of Row
        What the detector of images is worth without one of its parts; the parts of the paper one
        upon the other, with unit covariances and with those of the classes; the number of centers;
        lambda 2; one stage or two.
    """
    rows = [Row("without", name, changes) for name, changes in _WITHOUT.items()]
    rows += [
        Row(group, name, {**changes, "class_covariance": own}, labels)
        for group, own in (("parts", False), ("parts with class covariances", True))
        for name, changes, labels in _cumulative_parts(base)
    ]
    rows += [Row("centers", f"M = {n}", {"n_components": n}) for n in _CENTERS]
    rows += [Row("lambda2", f"{value:g}", {"lambda_mi": value}) for value in _LAMBDA_2]
    rows += [
        Row("stages", "two", {"first_stage_fraction": base["first_stage_fraction"] or 0.08}),
        Row("stages", "one", {"first_stage_fraction": 0.0}),
    ]
    return rows


def _cumulative_parts(base):
    """Yield (name, changes, labels) of the paper's parts, each with all before it."""
    changes = {**SINGLE_GAUSSIAN, "lambda_mi": 0.0, "lambda_entropy": 0.0}
    yield "single Gaussian", changes, False
    yield "+ inter-class mixture", changes, True
    for name, part in (
        ("+ mutual information", ("lambda_mi", "lambda_entropy")),
        ("+ intra-class centers", ("n_components", "lambda_intra")),
    ):
        changes = {**changes, **{parameter: base[parameter] for parameter in part}}
        yield name, changes, True
    yield "+ entropy criterion", {**changes, "criterion": "likelihood_entropy"}, True


def chosen_rows(rows, patterns):
    """Rows whose group, or whose title by shell pattern, is among `patterns` (None = all).

    Raises
    ------
    ValueError
        If a pattern names nothing.
    """
    if patterns is None:
        return rows
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in rows):
            titles = ", ".join(repr(row.title) for row in rows)
            raise ValueError(f"--only {pattern!r} names no row; there are {titles}.")
    return [row for row in rows if any(_matches(row, pattern) for pattern in patterns)]


def _matches(row, pattern):
    return row.group == pattern or fnmatch(row.title, pattern)


class Ledger:
    """Records of finished runs, kept in a JSON file.

    Parameters
    ----------
    path : str or None
        None keeps them in memory alone.
    header : dict
        What the run is: `describe_run` and the options that say which data.

    Raises
    ------
    ValueError
        If the file holds runs of other data or parameters, or is no such file.
    """

    def __init__(self, path, header):
        self.path = path
        header = json.loads(json.dumps(header))  # as it will be read back: lists, no tuples
        self.content = {**header, "parts": {}}
        if path is None or not Path(path).exists():
            return
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            same = all(stored[key] == header[key] for key in ("data", "parameters"))
            self.content["parts"] = stored["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--json {path!r} was not written by this benchmark.") from error
        if not same:
            raise ValueError(
                f"--json {path!r} holds runs of other data or parameters: choose another file."
            )

    def find(self, part, configuration, seed):
        """Return the record of a configuration, whichever row had it, or None."""
        for entry in self.content["parts"].get(part, {}).values():
            if entry["configuration"] == configuration:
                for record in entry["runs"]:
                    if record["seed"] == seed:
                        return record
        return None

    def add(self, part, title, configuration, record):
        """Keep a record, unless it is there."""
        entry = (
            self.content["parts"]
            .setdefault(part, {})
            .setdefault(title, {"configuration": configuration, "runs": []})
        )
        if record["seed"] not in [known["seed"] for known in entry["runs"]]:
            entry["runs"].append(record)
            write_json(self.path, self.content)


def run_part(part, rows, parameters, seeds, pixel_size, ledger, memory):
    """Run what the ledger does not have of one part; return {title: list of records}."""
    bench = Bench(part, None, None, {**parameters, "memory": memory}, pixel_size=pixel_size)
    finished, extracted = {row.title: [] for row in rows}, False
    for seed in range(seeds):
        for row in rows:
            configuration = {
                name: value for name, value in row.changes.items() if value != parameters[name]
            }
            configuration["labels"] = row.labels
            record = ledger.find(part.name, configuration, seed)
            if record is None:
                if not extracted:
                    _extract_all(bench)
                    extracted = True
                record = bench.fit_and_score(seed, labels=row.labels, **row.changes)
                say_run(f"{part.name}, {row.title}", record)
            ledger.add(part.name, row.title, configuration, record)
            finished[row.title].append(record)
    return finished


def _extract_all(bench):
    """Put the features of all images into the memory, so that no fit pays for the backbone."""
    detector = HGADDetector(**bench.parameters)
    for X in (bench.part.X_train, bench.part.X_test) if bench.part.is_images else ():
        with extract(detector, X, is_images=True):
            pass


def parse_arguments(arguments=None):
    """Return the options, the parts, the parameters and the rows; exit on wrong usage."""
    parser = benchmark_parser("ablation", __doc__, pixels=True)
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help="groups or titles, * for any text (default: all)"
    )
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    header = describe_run(parameters)
    header["data"] = {name: getattr(args, name) for name in _DATA_OPTIONS}
    try:
        rows = chosen_rows(ablation_rows(parameters), args.only)
        ledger = Ledger(args.json, header)
    except ValueError as error:
        parser.error(str(error))
    return args, parts, parameters, rows, ledger


def main(arguments=None):
    """Run the ablation, print its tables and write them."""
    args, parts, parameters, rows, ledger = parse_arguments(arguments)
    pixel_size = None if args.no_pixels else args.pixel_size
    tables = []
    with memory_folder(args) as memory:
        for part in parts:
            runs = run_part(part, rows, parameters, args.seeds, pixel_size, ledger, memory)
            title = f"### {part.name}, ablation, {repeats(args.seeds)}"
            tables.append("\n".join([title, "", *summary("row", runs), ""]))
            print(tables[-1], flush=True)
    write_markdown(args.markdown, tables)


if __name__ == "__main__":
    main()
