"""Groups of detected defect regions, found without labels, against the true defect types.

    python -m benchmarks.defect_groups --data DIR [--products NAME] [--markdown FILE] [--json FILE]

One model is fitted on the normal images of all classes. Regions are what it finds, by its own
threshold, in the anomalous test images of a product; the type of a region is that of its image. No
type and no mask is used before the comparison, but "types known" is told the number of types. NMI
rises with the number of groups, so permuted labels of the same group sizes stand beside it, and the
adjusted mutual information (AMI), which chance leaves at 0.
"""

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from skhgad import HGADDetector
from skhgad.regions import embed_regions, find_regions, group_defects

from ._figures import cell, markdown, row, values, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    read_parameters,
    read_parts,
    repeats,
    say,
)

_N_PERMUTATIONS = 100
_DIGITS = {"groups": 1, "NMI": 3, "NMI of permuted labels": 3, "AMI": 3}


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


def group_product(detector, images, types, seed):
    """Detect, group and compare the defects of one product.

    Parameters
    ----------
    detector : HGADDetector
        Fitted.
    images : ndarray of paths
        Anomalous images of the product.
    types : ndarray of str
        Their defect types.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        Counts, and "figures": {which regions: {method: figures}}; empty if the regions found are
        not of two types.
    """
    regions = detected_regions(detector, images)
    owner = np.repeat(np.arange(len(images)), [len(found) for found in regions])
    every = [region for found in regions for region in found]
    largest = np.unique(owner, return_index=True)[1]  # regions of an image: highest peak first
    record = {
        "seed": seed,
        "images": len(images),
        "with a region": len(largest),
        "regions": len(every),
        "of these, by type": {
            str(t): int(np.sum(types[owner[largest]] == t)) for t in np.unique(types)
        },
        "figures": {},
    }
    if len(np.unique(types[owner])) > 1:
        features = embed_regions(detector, list(images), regions)
        record["figures"] = {
            "all regions": compare_groupings(features, every, types[owner], seed),
            "highest peak of each image": compare_groupings(
                features[largest], [every[i] for i in largest], types[owner[largest]], seed
            ),
        }
    return record


def products_of(part):
    """Products with defects of two types or more."""
    anomalous = part.y == -1
    return [
        label
        for label in part.classes.tolist()
        if part.is_images
        and len(np.unique(part.defects[anomalous & (part.class_test == label)])) > 1
    ]


def run_part(part, products, parameters, seeds):
    """Fit on the part and group the defects of each product: {product: records, one a seed}."""
    records = {product: [] for product in products}
    for seed in range(seeds):
        detector = HGADDetector(**parameters, random_state=seed)
        detector.fit(part.X_train, part.class_train)
        for product, runs in records.items():
            chosen = (part.y == -1) & (part.class_test == product)
            runs.append(group_product(detector, part.X_test[chosen], part.defects[chosen], seed))
            say(f"{part.name}, {product}, seed {seed}: {runs[-1]['regions']} regions")
    return records


def tables(runs):
    """Lines of what was found in one product, and a Markdown table of each choice of regions."""
    with_region, regions = (cell(values(runs, (name,)), 0) for name in ("with a region", "regions"))
    lines = [
        f"{runs[0]['images']} anomalous images, {with_region} with a region, {regions} regions.",
        "",
    ]
    grouped = [run for run in runs if run["figures"]]
    if not grouped:
        return [*lines, "No regions of two types: nothing to group.", ""]
    for which, methods in grouped[0]["figures"].items():
        rows = [
            row(
                method,
                grouped,
                [(("figures", which, method, name), digits) for name, digits in _DIGITS.items()],
            )
            for method in methods
        ]
        lines += [f"{which.capitalize()}:", "", *markdown(["grouped by", *_DIGITS], rows), ""]
    return lines


def main(arguments=None):
    """Run, print the tables and write them."""
    parser = benchmark_parser("defect_groups", __doc__)
    parser.add_argument(
        "--products",
        nargs="+",
        metavar="NAME",
        help="whose defects to group (default: all with two types or more)",
    )
    args = parser.parse_args(arguments)
    parts = read_parts(parser, args, by_defect=True)
    parameters = read_parameters(parser, args)
    known = {part.name: products_of(part) for part in parts}
    names = [product for products in known.values() for product in products]
    missing = sorted(set(args.products or ()) - set(names))
    if missing or not names:
        parser.error(f"{missing or 'nothing'} to group: products with several defects are {names}.")
    content, texts = {**describe_run(parameters), "parts": {}}, []
    with memory_folder(args) as memory:
        for part in parts:
            products = [p for p in known[part.name] if args.products is None or p in args.products]
            if not products:
                continue
            records = run_part(part, products, {**parameters, "memory": memory}, args.seeds)
            content["parts"][part.name] = records
            for product, runs in records.items():
                title = f"### {product}, defect types, {repeats(args.seeds)}"
                texts.append("\n".join([title, "", *tables(runs)]))
                print(texts[-1], flush=True)
            write_json(args.json, content)
            write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
