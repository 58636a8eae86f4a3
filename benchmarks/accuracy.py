"""Accuracy of one HGAD model beside other detectors on the same features.

    python -m benchmarks.accuracy --data DIR [--loader mvtec_ad] [--protocol honest|paper|both]

Where DIR holds tables of one class, NAME.npz with X and y, this is `benchmarks.tables`, with its
options. docs/benchmarks.rst says how every method is configured, what the protocols are, and which
command reproduces which published table.
"""

import argparse

from skhgad import HGADDetector

from . import tables as one_class_tables
from ._features import extract
from ._figures import render, write_json, write_markdown
from ._methods import ON_REQUEST, TITLES, Bench, applicable, is_deterministic, runs_of
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    say,
    say_run,
)

PROTOCOLS = {"honest": ("honest",), "paper": ("paper",), "both": ("honest", "paper")}
_NOTES = {
    "honest": "HGAD is trained with class labels and not told the class of a test sample, except "
    'where a row says so. "class given": one model per class, and the class of each test sample '
    'is told. "scales summed": such a model for each image scale, its scores calibrated by class '
    "on left-out normals and summed as HGAD does with its levels.",
    "paper": "HGAD is told the class of each test image, takes the maxima of its maps over the "
    "test set of the class, and keeps the pass with the best test AUROC. Peers are told the class, "
    "nothing more.",
}


def parse_arguments(arguments=None):
    """Return the options, the parts and the detector's parameters; exit on wrong usage."""
    parser = benchmark_parser(
        "accuracy",
        __doc__,
        pixels=True,
        epilog="docs/benchmarks.rst explains methods and protocols.",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(TITLES),
        metavar="NAME",
        help=f"of {', '.join(TITLES)} (default: all that fit the data but {', '.join(ON_REQUEST)})",
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="honest",
        help="how HGAD is evaluated (default: honest)",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="the paper protocol evaluates after every N-th pass (default: 1)",
    )
    args = parser.parse_args(arguments)
    if args.every < 1:
        parser.error(f"--every must be at least 1, got {args.every}.")
    parts = read_parts(parser, args)
    kept = [part for part in parts if methods_of(part, args)]
    if not kept:
        names = " and ".join(part.name for part in parts)
        parser.error(
            f"--methods {' '.join(args.methods)}: nothing to run on {names} by the "
            f"{args.protocol} protocol."
        )
    return args, kept, read_parameters(parser, args)


def methods_of(part, args):
    """Keys of the methods to run on a part, in the order of the table."""
    keys = applicable(part)
    if args.protocol == "paper":
        # The classes of the first have no names to be told, the second knows no others.
        keys = [key for key in keys if key not in ("hgad-unlabelled", "hgad-alone")]
    if args.methods is None:
        return tuple(key for key in keys if key not in ON_REQUEST)
    return tuple(key for key in keys if key in args.methods)


def run_part(part, args, parameters, progress=None):
    """Run all methods on one part.

    Parameters
    ----------
    part : Part
    args : argparse.Namespace
        Of `parse_arguments`.
    parameters : dict
        Of HGADDetector, with `memory`.
    progress : callable, default=None
        Called with the results so far after each run.

    Returns
    -------
    dict
        "n_train", "n_test", "backbone_seconds" and "protocols": for each protocol, a dict from
        method to a list of records, one a seed.
    """
    detector = HGADDetector(**parameters)
    methods = methods_of(part, args)
    with (
        extract(detector, part.X_train, part.is_images) as train,
        extract(detector, part.X_test, part.is_images) as test,
    ):
        results = {
            "n_train": len(train),
            "n_test": len(test),
            "backbone_seconds": train.seconds + test.seconds,
            "protocols": {protocol: {} for protocol in PROTOCOLS[args.protocol]},
        }
        seconds = results["backbone_seconds"]
        say(f"{part.name}: features of {len(train)} + {len(test)} samples in {seconds:.0f} s")
        bench = Bench(
            part,
            train,
            test,
            parameters,
            methods,
            PROTOCOLS[args.protocol],
            None if args.no_pixels else args.pixel_size,
            args.every,
        )
        keys = [key for key in methods if key != "hgad-given"]
        if "hgad-given" in methods and "hgad" not in methods:
            keys.insert(0, "hgad")
        for key in keys:
            for protocol, title, record in runs_of(key, bench, args.seeds):
                results["protocols"][protocol].setdefault(title, []).append(record)
                say_run(f"{part.name}, {protocol}, {title}", record)
                if progress is not None:
                    progress(results)
    return results


def notes_of(part, protocol, results, seeds):
    """Sentences below a table."""
    fixed = [TITLES[key] for key in applicable(part) if is_deterministic(key, part)]
    repeats = f"{seeds} seeds: mean ± half of the range; nothing is random in {', '.join(fixed)}."
    return [
        f"{results['n_train']} samples to fit on, {results['n_test']} to test on, "
        f"{len(part.classes)} classes. {repeats if seeds > 1 else 'One seed.'}",
        _NOTES[protocol],
        f"Seconds are without the backbone ({results['backbone_seconds']:.0f} s for all images)."
        if part.is_images
        else "Feature vectors: no backbone.",
    ]


def main(arguments=None):
    """Run the benchmark, print its tables and write them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", nargs="*", default=[])
    data = parser.parse_known_args(arguments)[0].data
    if len(data) == 1 and one_class_tables.holds_tables(data[0]):
        one_class_tables.main(arguments)
        return
    args, parts, parameters = parse_arguments(arguments)
    content = {**describe_run(parameters), "seeds": args.seeds, "parts": {}}
    tables = []
    with memory_folder(args) as memory:
        for part in parts:

            def progress(results, name=part.name):
                content["parts"][name] = results
                write_json(args.json, content)

            results = run_part(part, args, {**parameters, "memory": memory}, progress)
            for protocol, rows in results["protocols"].items():
                notes = notes_of(part, protocol, results, args.seeds)
                tables.append(render(part.name, protocol, rows, notes))
                print(tables[-1], flush=True)
            write_markdown(args.markdown, tables)


if __name__ == "__main__":
    main()
