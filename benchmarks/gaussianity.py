"""How Gaussian the classes of a fitted detector are: skewness and kurtosis of test normals.

    python -m benchmarks.gaussianity --data DIR [--part NAME]

Vectors are whitened as the model claims, under their true class. docs/benchmarks.rst explains the
figures.
"""

import numpy as np

from skhgad import HGADDetector
from skhgad.display.latent_points import class_gaussianity, latent_points

from ._figures import markdown, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    say,
)

HEADER = ("level", "class", "vectors", "axes", "kurtosis / Gaussian", "kurtosis, z", "skewness, z")


def measure(part, detector):
    """Return a list of (level, class, Gaussianity or None) of a detector fitted on a part."""
    normal = part.y == 1
    X, labels = part.X_test[normal], part.class_test[normal]
    records = []
    for level in range(len(detector.model_.model.levels)):
        points = latent_points(detector, X, labels, level, None, 0)
        found = class_gaussianity(points, detector.classes_)
        records += [(level, str(label), figures) for label, figures in found.items()]
    return records


def table(records):
    """Lines of a Markdown table of `measure`'s records, each level with its median."""
    rows = []
    for level in sorted({level for level, _, _ in records}):
        measured = []
        for label, found in (one[1:] for one in records if one[0] == level):
            if found is None:
                rows.append([level, label, "too few", *"----"])
                continue
            measured.append((found.kurtosis_ratio, found.kurtosis_z, found.skewness_z))
            counts = (found.n_vectors, found.n_axes)
            rows.append([level, label, *counts, *map(_cell, measured[-1])])
        if measured:
            medians = map(_cell, np.median(measured, axis=0))
            rows.append([level, "**median**", "", "", *medians])
    return markdown(HEADER, rows)


def _cell(value):
    return f"{value:.2f}"


def main(arguments=None):
    """Fit, measure, print and write."""
    parser = benchmark_parser("gaussianity", __doc__)
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    content, texts = {**describe_run(parameters), "parts": {}}, []
    with memory_folder(args) as memory:
        for part in parts:
            detector = HGADDetector(**parameters, memory=memory, random_state=0)
            detector.fit(part.X_train, part.class_train)
            say(f"{part.name}: fitted")
            records = measure(part, detector)
            content["parts"][part.name] = [
                {"level": level, "class": label, **({} if found is None else found._asdict())}
                for level, label, found in records
            ]
            texts.append("\n".join([f"### {part.name}", "", *table(records), ""]))
            print(texts[-1], flush=True)
    write_json(args.json, content)
    write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
