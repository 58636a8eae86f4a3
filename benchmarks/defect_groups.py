"""Groups of detected defect regions, found without labels, against the true defect types.

    python -m benchmarks.defect_groups --data DIR [--product magnetic_tile] [--json FILE]

DIR (default: the environment variable SKHGAD_BENCH, then ../shared/bench) holds `images/` in the
MVTec AD layout. One model is fitted on the normal images of all classes. Regions are what it finds,
by its own threshold, in the anomalous test images of one product; the type of a region is that of
its image. No type and no mask is used before the comparison, but "types known" is told the number
of types. NMI rises with the number of groups, so permuted labels of the same group sizes stand
beside it, and the adjusted mutual information (AMI), which chance leaves at 0.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from skhgad import HGADDetector
from skhgad.datasets import load_folder
from skhgad.regions import embed_regions, find_regions, group_defects

_N_PERMUTATIONS = 100


def detected_regions(detector, images):
    """Regions of each image above the detector's threshold, an image in memory at a time."""
    return [find_regions(detector.anomaly_maps([image])[0], -detector.offset_) for image in images]


def agreement(types, labels, rng):
    """NMI and AMI of a grouping with the true types, and the NMI of permuted labels."""
    chance = [
        normalized_mutual_info_score(types, rng.permutation(labels)) for _ in range(_N_PERMUTATIONS)
    ]
    return {
        "groups": len(np.unique(labels)),
        "NMI": normalized_mutual_info_score(types, labels),
        "NMI of permuted labels": float(np.mean(chance)),
        "AMI": adjusted_mutual_info_score(types, labels),
    }


def compare_groupings(features, regions, types, seed):
    """Agreement of each way of grouping: {method: figures}."""
    rng = np.random.default_rng(seed)
    n_types = len(np.unique(types))
    groupings = {
        "features, number of groups found": group_defects(features),
        "features, types known": group_defects(features, n_types),
        "features and shape, number of groups found": group_defects(features, regions=regions),
        "features and shape, types known": group_defects(features, n_types, regions=regions),
    }
    return {name: agreement(types, labels, rng) for name, labels in groupings.items()}


def run(data, product, parameters, seed):
    """Fit, detect, group and compare: {what is grouped: {method: figures}}, and counts."""
    train = data.split == "train"
    anomalous = (data.split == "test") & (data.y == -1) & (data.class_label == product)
    images, types = data.images[anomalous], data.defect[anomalous]
    with tempfile.TemporaryDirectory() as memory:
        detector = HGADDetector(**parameters, random_state=seed, memory=memory, n_jobs=2)
        detector.fit(data.images[train], data.target[train])
        regions = detected_regions(detector, images)
        features = embed_regions(detector, list(images), regions)
    if not any(regions):
        raise SystemExit(f"no region found in {len(images)} anomalous images of {product}")
    owner = np.repeat(np.arange(len(images)), [len(found) for found in regions])
    every = [region for found in regions for region in found]
    largest = np.unique(owner, return_index=True)[1]  # regions of an image: highest peak first
    counts = {
        "anomalous images": len(images),
        "with a region": len(largest),
        "regions": len(every),
        "of these, by type": {
            str(t): int(np.sum(types[owner[largest]] == t)) for t in np.unique(types)
        },
    }
    return counts, {
        "all regions": compare_groupings(features, every, types[owner], seed),
        "highest peak of each image": compare_groupings(
            features[largest], [every[i] for i in largest], types[owner[largest]], seed
        ),
    }


def thin_out(data, n_each):
    """Keep the first `n_each` images of each class, split and defect."""
    kept, seen = [], {}
    for index, key in enumerate(zip(data.class_label, data.split, data.defect, strict=True)):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= n_each:
            kept.append(index)
    for name in ("images", "class_label", "y", "target", "defect", "mask", "split"):
        data[name] = data[name][kept]
    return data


def render(counts, figures):
    """A Markdown table of each set of regions."""
    lines = [", ".join(f"{name} {value}" for name, value in counts.items()), ""]
    for name, methods in figures.items():
        columns = list(next(iter(methods.values())))
        lines += [f"### {name}", "", f"| grouped by | {' | '.join(columns)} |"]
        lines += ["| --- " * (len(columns) + 1) + "|"]
        for method, row in methods.items():
            cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main():
    """Run the benchmark and print its tables."""
    default = os.environ.get("SKHGAD_BENCH", "../shared/bench")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the benchmark")
    parser.add_argument("--product", default="magnetic_tile", help="class whose defects to group")
    parser.add_argument("--classes", nargs="+", help="classes to fit on (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the fit and the permutations")
    parser.add_argument("--max-iter", type=int, help="passes of the fit (default: the detector's)")
    parser.add_argument("--n-each", type=int, help="images kept of each class, split and defect")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    if not (arguments.data / "images").is_dir():
        parser.error(f"--data: no folder {arguments.data / 'images'}; set it or SKHGAD_BENCH.")
    data = load_folder(arguments.data / "images", classes=arguments.classes)
    if arguments.product not in data.class_label:
        parser.error(f"--product: no class {arguments.product} among {data.classes.tolist()}.")
    if arguments.n_each is not None:
        data = thin_out(data, arguments.n_each)
    parameters = {} if arguments.max_iter is None else {"max_iter": arguments.max_iter}
    counts, figures = run(data, arguments.product, parameters, arguments.seed)
    print(render(counts, figures), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"counts": counts, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
