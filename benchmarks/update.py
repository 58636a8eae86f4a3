"""More normals by `update` beside a fit on all of them: accuracy, false alarms and time.

    python -m benchmarks.update --data DIR [--part NAME] [--share SHARE] [--markdown FILE]

A detector is fitted to a share of the normals of every class, then updated with the others.
"""

import copy
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
    "AUROC, share": "share",
    "AUROC, updated": "updated",
    "AUROC, full fit": "full",
    "false alarms, share": "share_alarms",
    "false alarms, updated": "updated_alarms",
    "false alarms, full fit": "full_alarms",
    "s to update": "update_seconds",
    "s to fit all": "full_seconds",
}


def compare(part, share, parameters, seed):
    """Fit a share of the normals of each class, update with the others, and fit all.

    Returns
    -------
    dict of str to float
        AUROC, class inferred, mean over the classes, and the share of normal test samples that is
        flagged, of the three detectors; seconds.
    """
    first = drawn(part.class_train, share, seed)
    fitted = HGADDetector(**parameters, random_state=seed)
    fitted.fit(part.X_train[first], part.class_train[first])
    updated, start = copy.deepcopy(fitted), time.perf_counter()
    updated.update(part.X_train[~first], part.class_train[~first])
    record = {"update_seconds": time.perf_counter() - start}
    full, start = HGADDetector(**parameters, random_state=seed), time.perf_counter()
    full.fit(part.X_train, part.class_train)
    record["full_seconds"] = time.perf_counter() - start
    for name, detector in (("share", fitted), ("updated", updated), ("full", full)):
        scores = detector.score_samples(part.X_test)
        record[name] = image_metrics(part.y, scores, part.class_test).mean.auroc
        record[f"{name}_alarms"] = float(np.mean(scores[part.y == 1] < detector.offset_))
    return record


def drawn(codes, share, seed):
    """Draw a share of the samples of each class; a bool ndarray."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        chosen[rows[: max(1, round(share * len(rows)))]] = True
    return chosen


def main(arguments=None):
    """Run, print the table and write it."""
    parser = benchmark_parser("update", __doc__)
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the normals, fitted first (default: 0.5)"
    )
    args = parser.parse_args(arguments)
    if not 0 < args.share < 1:
        parser.error("--share lies between 0 and 1.")
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    records = {part.name: [] for part in parts}
    with memory_folder(args) as memory:
        parameters = {**parameters, "memory": memory}
        for part in parts:
            if part.is_images:  # into the memory, so that neither side pays for the backbone
                for X in (part.X_train, part.X_test):
                    with extract(HGADDetector(**parameters), X, is_images=True):
                        pass
            for seed in range(args.seeds):
                found = compare(part, args.share, parameters, seed)
                records[part.name].append(found)
                say(f"{part.name}, seed {seed}: AUROC {found['updated']:.4f} updated")
    write_json(args.json, {**describe_run(parameters), "share": args.share, "parts": records})
    columns = [((key,), 1 if key.endswith("seconds") else 3) for key in _COLUMNS.values()]
    seeds = zip(*records.values(), strict=True)
    means = [{key: np.mean([run[key] for run in runs]) for key in runs[0]} for runs in seeds]
    rows = [row(name, runs, columns) for name, runs in {**records, "mean": means}.items()]
    title = f"### {args.share:.0%} of the normals, then update, {repeats(args.seeds)}"
    text = "\n".join([title, "", *markdown(["part", *_COLUMNS], rows), ""])
    print(text, flush=True)
    write_markdown(args.markdown, [text])


if __name__ == "__main__":
    main()
