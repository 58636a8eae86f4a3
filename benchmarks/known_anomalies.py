"""Known anomalies in fit: what they add, on other anomalies and on types not among them.

    python -m benchmarks.known_anomalies --data DIR [--known 1 5 10 20] [--draws 5] [--only other]

Of the anomalies of every class, so many are drawn and given to fit with the label -1; all other
test samples are scored. "Same types": drawn from all anomalies. "Other types": drawn from one or
some of the types of a class, tested on the others; where a class has one folder of defects, three
clusters of them stand in for types. The gain is the AUROC less that of
``known_anomalies="ignore"``, mean over the classes.

The normals are fitted once for all draws; each draw is corrected and scored as by a fit of its own.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.features.reader import FeatureReader
from skhgad.fitting.feature_cache import cached_features
from skhgad.fitting.fit import fit_detector
from skhgad.fitting.known_defects import KnownDefects, correct_by_known_defects, judged
from skhgad.fitting.samples import LabelledSamples
from skhgad.parameters import plain_parameters
from skhgad.validation import check_X

from ._figures import markdown, write_json, write_markdown
from ._options import (
    benchmark_parser,
    describe_run,
    memory_folder,
    positive_int,
    read_parameters,
    read_parts,
    say,
)

SAME, OTHER = "same types", "other types"
_N_CLUSTERS = 3  # of the defects of a class that has one folder of them
_N_STARTS = 50  # with 3, runs ended in different clusters


def draw_same(codes, kinds, n, rng):
    """Draw `n` anomalies of each class; return their rows, and the rows not to be tested."""
    rows = [rng.permutation(np.flatnonzero(codes == code))[:n] for code in np.unique(codes)]
    return np.concatenate(rows), np.concatenate(rows)


def draw_other(codes, kinds, n, rng):
    """Draw `n` anomalies of each class from less than half of its types.

    No anomaly of these types is tested. Returns as `draw_same`.
    """
    known, left_out = [], []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        types = rng.permutation(np.unique(kinds[rows]))
        rows = rows[np.isin(kinds[rows], types[: max(1, len(types) // 2)])]
        known.append(rng.permutation(rows)[:n])
        left_out.append(rows)
    return np.concatenate(known), np.concatenate(left_out)


DRAWS = {SAME: draw_same, OTHER: draw_other}


def kinds_of(model, defects, codes, names):
    """Return the type of each anomaly: its folder, or its cluster where a class has one folder."""
    vectors = []
    for index, places in enumerate(defects.peak_places(model)):
        found = defects.vectors(model, index, places[:, :, :1])[:, 0]
        vectors.append(found / found.norm(dim=1, keepdim=True))
    vectors, kinds = torch.cat(vectors, 1).numpy(), np.array(names, dtype=object)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        if len(set(kinds[rows])) == 1:
            k_means = KMeans(_N_CLUSTERS, n_init=_N_STARTS, random_state=0)
            clusters = k_means.fit_predict(vectors[rows])
            kinds[rows] = [f"cluster {cluster}" for cluster in clusters]
    return kinds.astype(str)


class Study:
    """Stands in for `correct_by_known_defects` in one fit: tries all draws, keeps none."""

    def __init__(self, part, normals, protocols, numbers, n_draws):
        self.part, self.normals, self.protocols = part, normals, protocols
        self.numbers, self.n_draws = numbers, n_draws
        self.records = []

    def __call__(self, fitted, samples, known, parameters, classes):
        """Run all draws; return the uncorrected model."""
        model, _, calibration = fitted
        part = self.part
        codes = part.codes(part.class_test[part.y == -1])
        names = np.full(len(codes), "") if part.defects is None else part.defects[part.y == -1]
        defects = judged(model, known.samples)
        kinds = kinds_of(model, defects, codes, names)
        tests = [judged(model, self.normals), defects]
        before = [_scores(model, test) for test in tests]
        for protocol in self.protocols:
            draw = DRAWS[protocol]
            for n in self.numbers:
                for seed in range(self.n_draws):
                    chosen, left_out = draw(codes, kinds, n, np.random.default_rng(seed))
                    chosen = np.sort(chosen)
                    marked = known.marked
                    marked = None if marked is None else [level[chosen] for level in marked]
                    drawn = KnownDefects(known.samples.chosen(chosen), marked)
                    corrected, _, found = correct_by_known_defects(
                        fitted, samples, drawn, parameters, classes
                    )
                    after = before
                    if corrected is not model:
                        after = [_scores(corrected, test) for test in tests]
                    tested = np.setdiff1d(np.arange(len(codes)), left_out)
                    record = {"protocol": protocol, "known": n, "seed": seed}
                    for name, scores in (("ignore", before), ("auto", after)):
                        record[name] = self._auroc(scores, codes, tested)
                    record["kept"] = [bool(verdict.is_kept) for verdict in found]
                    self.records.append(record)
                    gain = np.subtract(record["auto"], record["ignore"])
                    say(f"{protocol}, {n} known, draw {seed}: {gain.mean():+.4f}, {gain.round(3)}")
        return model, calibration, None

    def _auroc(self, scores, codes, tested):
        """AUROC of each class, from the scores of normals and of anomalies."""
        part = self.part
        normal_codes = part.codes(part.class_test[part.y == 1])
        figures = []
        for code in range(len(part.classes)):
            normal = scores[0][normal_codes == code]
            defects = scores[1][tested[codes[tested] == code]]
            labels = np.repeat([0, 1], [len(normal), len(defects)])
            figures.append(roc_auc_score(labels, -np.concatenate([normal, defects])))
        return figures


@torch.no_grad()
def _scores(model, group):
    """Score JudgedSamples by evidence without, and by terms with the correction."""
    if not len(model.defect_terms):
        return group.scores(model)
    codes, added = torch.from_numpy(group.codes), []
    for index, term in enumerate(model.defect_terms):
        if model.levels[index].has_one_position:
            nothing = np.zeros((len(codes), 1), dtype=np.int64)
            vectors = group.vectors(model, index, (group.rows[:, None], nothing))
            added.append(term(vectors.double(), codes.to(vectors.device)))
            continue
        directions = term.directions.double().T
        products = torch.cat([p for _, p in group.products(model, index, slice(None), directions)])
        own = codes.to(products.device)
        of_class = own[:, None, None].expand(-1, products.shape[1], 1)
        found = products.gather(2, of_class)[..., 0] + term.offsets[own, None]
        added.append(found.clamp_min(0))
    return group.scores(model, added)


def run_part(part, parameters, protocols, numbers, n_draws, *, with_masks):
    """Run all draws on a part; return the records."""
    is_normal = part.y == 1
    X = np.concatenate([part.X_train, part.X_test[~is_normal]])
    y = np.concatenate([part.class_train, np.repeat("-1", (~is_normal).sum())])
    masks = None
    if with_masks and part.masks is not None:
        masks = [*[None] * len(part.X_train), *part.masks[~is_normal]]
    detector = HGADDetector(**parameters, random_state=0)
    parameters = plain_parameters(detector.get_params(deep=False))
    X_normal = check_X(part.X_test[is_normal], value_range=parameters["value_range"])
    reader = FeatureReader.for_fit(parameters, X_normal)
    rows = np.arange(len(X_normal))
    with cached_features(reader, X_normal, rows, parameters["cache_budget"]) as cache:
        normals = LabelledSamples(cache, rows, np.zeros_like(rows), len(part.classes))
        study = Study(part, normals, protocols, numbers, n_draws)
        fit_detector(detector, X, y, masks=masks, correct=study)
    return study.records


def table(records):
    """Lines of a Markdown table: the gains of each protocol and number of known anomalies."""
    groups = {}
    for record in records:
        groups.setdefault((record["protocol"], record["known"]), []).append(record)
    rows = []
    for (protocol, n), found in groups.items():
        before, after = (
            np.array([record[name] for record in found]) for name in ("ignore", "auto")
        )
        gains = (after - before).mean(1)
        kept = np.mean([record["kept"] for record in found])
        rows.append(
            [
                f"{protocol}, {n}",
                f"{before.mean():.3f}",
                f"{after.mean():.3f}",
                f"{gains.mean():+.3f}",
                f"{gains.min():+.3f}",
                " ".join(f"{gain:+.3f}" for gain in (after - before).mean(0)),
                f"{kept:.2f}",
            ]
        )
    header = [
        "known anomalies of a class", "ignore", "auto", "gain", "smallest gain of a draw",
        "gain of each class", "share of classes corrected",
    ]  # fmt: skip
    return markdown(header, rows)


def main(arguments=None):
    """Run, print the tables and write them."""
    parser = benchmark_parser("known_anomalies", __doc__)
    parser.add_argument("--known", nargs="+", type=positive_int, default=[1, 5, 10, 20])
    parser.add_argument("--draws", type=positive_int, default=5)
    parser.add_argument("--only", choices=["same", "other"], help="types of one kind")
    parser.add_argument("--masks", action="store_true", help="give fit the masks, too")
    args = parser.parse_args(arguments)
    parts, parameters = read_parts(parser, args), read_parameters(parser, args)
    content, texts = {**describe_run(parameters), "parts": {}}, []
    with memory_folder(args) as memory:
        for part in parts:
            records = run_part(
                part,
                {**parameters, "memory": memory},
                [name for name in DRAWS if args.only is None or name.startswith(args.only)],
                args.known,
                args.draws,
                with_masks=args.masks,
            )
            content["parts"][part.name] = records
            title = f"### {part.name}, {args.draws} draws{', masks given' * args.masks}"
            texts.append("\n".join([title, "", *table(records), ""]))
            print(texts[-1], flush=True)
            write_json(args.json, content)
            write_markdown(args.markdown, texts)


if __name__ == "__main__":
    main()
