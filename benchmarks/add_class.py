"""A new product by `add_class` beside a fit on all products: accuracy and time.

    python -m benchmarks.add_class --data DIR [--part NAME] [--markdown FILE] [--json FILE]

Each class is left out of a fit in turn, then added.
"""

import time

import numpy as np

from skhgad import HGADDetector
from skhgad.metrics import image_metrics

from ._features import extract
from ._figures import markdown, row, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    repeats,
    say,
)

_COLUMNS = {
    "known, before": "known_before",
    "known, after": "known_after",
    "new, added": "new_added",
    "new, full fit": "new_full",
    "s to add": "add_seconds",
    "s to fit all": "full_seconds",
}


def compare_class(part, label, full, parameters, seed):
    """Leave one class out of the fit, add it, and measure.

    Parameters
    ----------
    part : Part
    label : str
    full : tuple (scores of the test samples, seconds)
        Of a fit on all classes.
    parameters : dict
    seed : int

    Returns
    -------
    dict of str to float
        AUROC, class inferred: the mean over the known classes before and after, with the test
        samples of the known classes; of the new class added and fitted with all. Seconds.
    """
    is_new = part.class_train == label
    tested = part.class_test == label
    detector = HGADDetector(**parameters, random_state=seed)
    detector.fit(part.X_train[~is_new], part.class_train[~is_new])
    before = detector.score_samples(part.X_test[~tested])
    start = time.perf_counter()
    detector.add_class(part.X_train[is_new], label)
    seconds = time.perf_counter() - start
    after = detector.score_samples(part.X_test)

    def auroc(scores, rows):
        return image_metrics(part.y[rows], scores, part.class_test[rows]).mean.auroc

    return {
        "known_before": auroc(before, ~tested),
        "known_after": auroc(after[~tested], ~tested),
        "new_added": auroc(after[tested], tested),
        "new_full": auroc(full[0][tested], tested),
        "add_seconds": seconds,
        "full_seconds": full[1],
    }


def run_part(part, parameters, seeds):
    """Run every class of a part; return {class: list of records, one a seed}."""
    records = {label: [] for label in part.classes.tolist()}
    if part.is_images:  # into the memory, so that neither side pays for the backbone
        for X in (part.X_train, part.X_test):
            with extract(HGADDetector(**parameters), X, is_images=True):
                pass
    for seed in range(seeds):
        detector = HGADDetector(**parameters, random_state=seed)
        start = time.perf_counter()
        detector.fit(part.X_train, part.class_train)
        seconds = time.perf_counter() - start
        full = detector.score_samples(part.X_test), seconds
        for label, runs in records.items():
            runs.append(compare_class(part, label, full, parameters, seed))
            say(f"{part.name}, {label}, seed {seed}: AUROC {runs[-1]['new_added']:.3f} added")
    return records


def table(records):
    """Return the lines of a Markdown table of `run_part`'s records, and their mean over classes."""
    seeds = zip(*records.values(), strict=True)
    means = [{key: np.mean([run[key] for run in runs]) for key in runs[0]} for runs in seeds]
    columns = [((key,), 2 if key.endswith("seconds") else 3) for key in _COLUMNS.values()]
    rows = [row(label, runs, columns) for label, runs in {**records, "mean": means}.items()]
    return markdown(["class", *_COLUMNS], rows)


def main(arguments=None):
    """Run, print the tables and write them."""
    parser = benchmark_parser("add_class", __doc__)
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    parts = [part for part in parts if len(part.classes) > 1]
    if not parts:
        parser.error("--data: with one class there is none to leave out.")
    content, texts = {**describe_run(parameters), "parts": {}}, []
    with memory_folder(args) as memory:
        for part in parts:
            records = run_part(part, {**parameters, "memory": memory}, args.seeds)
            content["parts"][part.name] = records
            title = f"### {part.name}, each class added, {repeats(args.seeds)}"
            note = "AUROC of images or vectors, class inferred; times without the backbone's."
            texts.append("\n".join([title, "", *table(records), "", note, ""]))
            print(texts[-1], flush=True)
            write_json(args.json, content)
            write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
