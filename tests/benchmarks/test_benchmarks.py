"""The benchmarks: peers against independent formulas, data, protocols, tables and whole runs."""

import json
import re
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks import (
    _data,
    _figures,
    ablation,
    accuracy,
    add_class,
    cold_start,
    defect_groups,
    gaussianity,
    peers,
    pixel_memory,
    repeats,
    robustness,
    update,
)
from benchmarks._features import Features, extract
from benchmarks._methods import Bench, runs_of
from benchmarks._paper_protocol import PaperProtocolDetector
from skhgad import HGADDetector
from skhgad.features.extractor import build_extractor
from skhgad.fitting.feature_cache import FeatureCache
from skhgad.metrics import pixel_metrics


def features_of(*levels, map_size, blur_sigma=0.0):
    """Features from arrays (n, height, width, d)."""
    flat = [torch.from_numpy(level.reshape(len(level), -1, level.shape[-1])) for level in levels]
    cache = FeatureCache(
        len(flat[0]), [x.shape[1:] for x in flat], flat[0].numpy().dtype, budget=1 << 30
    )
    cache.write(0, flat)
    shapes = [(level.shape[3], *level.shape[1:3]) for level in levels]
    return Features(cache, shapes, map_size, blur_sigma, torch.device("cpu"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    """Feature table of two classes whose anomalies lie far from both."""
    rng = np.random.default_rng(0)
    X, class_name, split, y = [], [], [], []
    for name, center in (("bolt", 0.0), ("nut", 8.0)):
        for part, label, n, shift in (
            ("train", 0, 40, 0.0),
            ("test", 0, 12, 0.0),
            ("test", 1, 8, 30.0),
        ):
            X.append(rng.normal(center + shift, 1, (n, 5)))
            class_name += [name] * n
            split += [part] * n
            y += [label] * n
    path = tmp_path_factory.mktemp("tables") / "toy.npz"
    np.savez(path, X=np.concatenate(X).astype(np.float32), class_name=class_name, split=split, y=y)
    return path


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Two classes in the MVTec AD layout; an anomaly has a white square, and a mask of it."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("images")
    for name, level in (("dark", 60), ("light", 160)):
        for kind, n in (("train/good", 6), ("test/good", 3), ("test/spot", 3)):
            for index in range(n):
                pixels = rng.normal(level, 8, (64, 64, 3))
                mask = np.zeros((64, 64), dtype=np.uint8)
                if kind == "test/spot":
                    mask[20:40, 24:44] = 255
                    pixels[mask > 0] = rng.choice([0, 255], (400, 3))
                    save(root / name / "ground_truth/spot" / f"{index}_mask.png", mask)
                save(root / name / kind / f"{index}.png", pixels.clip(0, 255).astype(np.uint8))
    return root


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class TestPeers:
    def test_coreset_is_the_greedy_k_center(self, rng):
        vectors = rng.normal(size=(80, 6)).astype(np.float32)
        found = peers.greedy_coreset(
            torch.from_numpy(vectors), 12, torch.Generator().manual_seed(3)
        ).tolist()
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        expected = found[:1]
        while len(expected) < 12:
            expected.append(int(distances[:, expected].min(1).argmax()))
        assert found == expected
        assert len(set(found)) == 12

    def test_coreset_takes_no_vector_twice(self):
        copies = torch.ones(5, 3)
        chosen = peers.greedy_coreset(copies, 5, torch.Generator().manual_seed(0))
        assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]

    def test_nearest_neighbours_join_levels_at_the_finest_grid(self, rng):
        fine = rng.normal(size=(9, 4, 4, 3)).astype(np.float32)
        coarse = rng.normal(size=(9, 2, 2, 5)).astype(np.float32)
        features = features_of(fine, coarse, map_size=(4, 4))
        train, test = np.arange(6), np.array([8, 6])
        peer = peers.NearestNeighbours(coreset=1.0).fit(features, train, 0)
        found = peer.maps(features, test).numpy()

        upsampled = torch.nn.functional.interpolate(
            torch.from_numpy(coarse).permute(0, 3, 1, 2), (4, 4), mode="bilinear"
        ).permute(0, 2, 3, 1)
        joined = np.concatenate([fine / 3**0.5, upsampled.numpy() / 5**0.5], axis=3)
        index = NearestNeighbors(n_neighbors=1).fit(joined[train].reshape(-1, 8))
        expected = index.kneighbors(joined[test].reshape(-1, 8))[0].reshape(2, 4, 4)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_coreset_share_and_candidates_bound_the_bank(self, rng):
        features = features_of(rng.normal(size=(10, 4, 4, 3)).astype(np.float32), map_size=(4, 4))
        rows = np.arange(10)
        assert len(peers.NearestNeighbours(0.1).fit(features, rows, 0).bank) == 16
        few = peers.NearestNeighbours(0.5, max_candidates=30)
        assert len(few.fit(features, rows, 0).bank) == 30
        small = peers.NearestNeighbours(1.0, max_bank=7)
        assert len(small.fit(features, rows, 0).bank) == 7

    def test_padim_is_a_gaussian_at_each_position(self, rng):
        x = rng.normal(size=(30, 2, 3, 4)) @ rng.normal(size=(4, 4))
        features = features_of(x, map_size=(2, 3))
        train, test = np.arange(25), np.arange(25, 30)
        peer = peers.PaDiM(n_dims=4, regularisation=0.01).fit(features, train, 0)
        found = peer.maps(features, test).numpy()
        for row, column in np.ndindex(2, 3):
            vectors = x[:, row, column]
            covariance = np.cov(vectors[train], rowvar=False) + 0.01 * np.eye(4)
            gaussian = multivariate_normal(vectors[train].mean(0), covariance)
            at_mean = gaussian.logpdf(gaussian.mean)
            squared = 2 * (at_mean - gaussian.logpdf(vectors[test]))
            np.testing.assert_allclose(found[:, row, column], np.sqrt(squared), rtol=1e-8)

    def test_padim_draws_as_many_channels_as_asked_and_by_seed(self, rng):
        features = features_of(
            rng.normal(size=(6, 2, 2, 9)), rng.normal(size=(6, 1, 1, 7)), map_size=(2, 2)
        )
        drawn = [peers.PaDiM(5).fit(features, np.arange(6), seed).dims for seed in (0, 0, 1)]
        assert all(sum(len(own) for own in dims) == 5 for dims in drawn)
        as_lists = [[own.tolist() for own in dims] for dims in drawn]
        assert as_lists[0] == as_lists[1] != as_lists[2]

    def test_mahalanobis_is_ledoit_wolf_standardised_on_training_maps(self, rng):
        x = rng.normal(size=(12, 3, 3, 5)) @ rng.normal(size=(5, 5)) + 2
        features = features_of(x, map_size=(3, 3))
        train, test = np.arange(9), np.array([11, 10])
        peer = peers.Mahalanobis().fit(features, train, 0)
        model = LedoitWolf().fit(x[train].reshape(-1, 5))
        own = model.mahalanobis(x[train].reshape(-1, 5))
        expected = (model.mahalanobis(x[test].reshape(-1, 5)) - own.mean()) / own.std()
        found = peer.maps(features, test).numpy()
        np.testing.assert_allclose(found, expected.reshape(2, 3, 3), rtol=1e-6)

    def test_mahalanobis_sums_levels(self, rng):
        one, two = rng.normal(size=(8, 2, 2, 3)), rng.normal(size=(8, 2, 2, 4))
        rows = np.arange(8)
        maps = [
            peers.Mahalanobis().fit(features, rows, 0).maps(features, rows)
            for features in (
                features_of(one, two, map_size=(2, 2)),
                features_of(one, map_size=(2, 2)),
                features_of(two, map_size=(2, 2)),
            )
        ]
        torch.testing.assert_close(maps[0], maps[1] + maps[2])

    def test_reconstruction_finds_what_breaks_a_relation(self, rng):
        angle = rng.uniform(0, 2 * np.pi, (40, 4, 4, 1))
        circle = np.concatenate([np.cos(angle), np.sin(angle)], axis=3)
        one, two = circle @ rng.normal(size=(2, 24)), circle @ rng.normal(size=(2, 16))
        one[-1, 1, 2] = rng.normal(size=24)  # as long, but off the plane of the others
        arrays = [x.astype(np.float32) for x in (one, two)]
        features = features_of(*arrays, map_size=(4, 4))
        train, test = np.arange(36), np.arange(36, 40)
        state = torch.get_rng_state()
        peer = peers.Reconstruction(n_steps=150, batch_size=64).fit(features, train, 0)
        assert torch.equal(state, torch.get_rng_state())
        maps = peer.maps(features, test)
        assert maps.shape == (4, 4, 4) and maps.argmax() == 3 * 16 + 1 * 4 + 2
        again = peers.Reconstruction(n_steps=150, batch_size=64).fit(features, train, 0)
        torch.testing.assert_close(again.maps(features, test), maps)
        other = peers.Reconstruction(n_steps=150, batch_size=64).fit(features, train, 1)
        assert not torch.equal(other.maps(features, test), maps)
        scaled = features_of(arrays[0] * 100, arrays[1], map_size=(4, 4))  # units say nothing
        own = peers.Reconstruction(n_steps=150, batch_size=64).fit(scaled, train, 0)
        torch.testing.assert_close(own.maps(scaled, test), maps, rtol=1e-2, atol=1e-3)

    def test_scores_are_minus_the_maximum_of_the_blurred_map(self, rng):
        features = features_of(
            rng.normal(size=(6, 4, 4, 3)).astype(np.float32), map_size=(8, 8), blur_sigma=1.0
        )
        peer = peers.Mahalanobis().fit(features, np.arange(4), 0)
        scores, maps = peers.scores_and_maps(peer, features, np.array([5, 4]))
        assert maps.shape == (2, 8, 8)
        np.testing.assert_allclose(scores, -maps.numpy().max((1, 2)), rtol=1e-6)
        sharp = peer.maps(features, np.array([5, 4]))
        assert (maps.std((1, 2)) < sharp.std((1, 2))).all()


class TestFeatures:
    def test_are_those_of_the_detector(self, image_folder, tmp_path):
        part = _data.load_parts([str(image_folder)], "folder")[0]
        detector = HGADDetector(image_size=64, memory=tmp_path, cache_budget=1 << 30)
        with extract(detector, part.X_test, is_images=True) as features:
            (_, levels), *more = features.blocks(np.array([3, 0]))
            assert not more
            assert features.map_size == (16, 16)
            assert features.blur_sigma == pytest.approx(16 / 256)
        extractor = build_extractor(detector.get_params(deep=False), weights="auto")
        pixels = np.stack([np.asarray(Image.open(part.X_test[i])) for i in (3, 0)])
        pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        for found, expected in zip(levels, extractor(pixels), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class TestData:
    def test_images_know_class_label_and_mask(self, image_folder):
        (part,) = _data.load_parts([str(image_folder)], "folder")
        assert part.is_images
        assert part.class_train.tolist() == ["dark"] * 6 + ["light"] * 6
        assert part.y.tolist() == ([1] * 3 + [-1] * 3) * 2
        assert [mask is not None for mask in part.masks] == (part.y == -1).tolist()
        assert part.codes(["light", "dark"]).tolist() == [1, 0]

    def test_table_keeps_anomalies_out_of_training(self, table_file, tmp_path):
        with np.load(table_file) as table:
            arrays = dict(table)
        arrays["y"][:3] = 1  # of the training split
        np.savez(tmp_path / "t.npz", **arrays)
        (part,) = _data.load_parts([str(tmp_path / "t.npz")])
        assert len(part.X_train) == 77
        assert not part.is_images and part.masks is None
        assert part.y.tolist() == ([1] * 12 + [-1] * 8) * 2

    def test_a_folder_of_images_and_tables_has_several_parts(
        self, image_folder, table_file, tmp_path
    ):
        (tmp_path / "images").symlink_to(image_folder)
        (tmp_path / "features").symlink_to(table_file.parent)
        parts = _data.load_parts([str(tmp_path)])
        assert [(part.name, part.is_images) for part in parts] == [("images", True), ("toy", False)]
        (part,) = _data.load_parts([str(tmp_path)], classes=["nut"])
        assert part.name == "toy" and set(part.class_test) == {"nut"}

    def test_union_names_classes_by_data_set(self, image_folder):
        (part,) = _data.load_parts([f"folder={image_folder}"], "union")
        assert part.classes.tolist() == ["folder/dark", "folder/light"]

    def test_limited_keeps_a_few_of_each_class_and_kind(self, table_file):
        part = _data.load_parts([str(table_file)])[0].limited(2)
        assert part.class_train.tolist() == ["bolt"] * 2 + ["nut"] * 2
        assert part.y.tolist() == [1, 1, -1, -1] * 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y": None}, r"lacks the arrays \['y'\]"),
            ({"split": np.repeat("val", 120)}, r"split must be one of .* got \['val'\]"),
            ({"y": np.full(120, -1)}, r"y must be one of \[0, 1\], got \[-1\]"),
            ({"X": np.zeros((3, 5))}, "X must have shape"),
        ],
    )
    def test_bad_tables_are_refused(self, table_file, tmp_path, changes, message):
        with np.load(table_file) as table:
            arrays = {**table, **changes}
        path = tmp_path / "bad.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        with pytest.raises(ValueError, match=message):
            _data.load_parts([str(path)])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "nowhere"], "'nowhere' does not exist"),
            (["--data", "{folder}"], "neither images/ nor features"),
            (["--data", "{folder}", "{folder}"], "give one folder or file"),
            (["--data", "mine={folder}", "--loader", "union"], "NAME one of mvtec_ad"),
            (["--data", "{table}", "--classes", "gear"], r"\['gear'\] are not in the data"),
            (["--data", "{table}", "--part", "images"], "--data has toy"),
            (["--data", "{table}", "--methods", "padim"], "padim: nothing to run on toy"),
            (["--data", "{table}", "--set", "n_block=1"], "did you mean 'n_blocks'"),
            (["--data", "{table}", "--set", "n_blocks=-1"], "n_blocks"),
            (["--data", "{table}", "--set", "random_state=3"], "set by --memory and --seeds"),
            (["--data", "{table}", "--json", "/nowhere/x.json"], "no folder '/nowhere'"),
        ],
    )
    def test_wrong_usage_is_told(self, arguments, message, image_folder, table_file, capsys):
        places = {"folder": image_folder, "table": table_file}
        with pytest.raises(SystemExit) as stop:
            accuracy.parse_arguments([text.format(**places) for text in arguments])
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)


@pytest.fixture(scope="module")
def watched(table_file):
    """A detector that watched the test set of the table, and a plain one of the same seed."""
    (part,) = _data.load_parts([str(table_file)])
    parameters = dict(max_iter=3, n_blocks=1, criterion="likelihood", random_state=0)
    plain = HGADDetector(**parameters).fit(part.X_train, part.class_train)
    detector = PaperProtocolDetector(**parameters)
    with extract(detector, part.X_test, is_images=False) as features:
        detector.watch(features, part.codes(part.class_test), part.y)
        detector.fit(part.X_train, part.class_train)
    return part, detector, plain


class TestPaperProtocol:
    def test_changes_nothing_in_the_fit(self, watched):
        part, detector, plain = watched
        np.testing.assert_array_equal(
            detector.score_samples(part.X_test), plain.score_samples(part.X_test)
        )
        assert detector.offset_ == plain.offset_

    def test_takes_maxima_over_the_test_set_of_each_class(self, table_file):
        (part,) = _data.load_parts([str(table_file)])
        codes = part.codes(part.class_test)
        detector = PaperProtocolDetector(max_iter=0, criterion="likelihood", random_state=0)
        with extract(detector, part.X_test, is_images=False) as features:
            detector.watch(features, codes, part.y).fit(part.X_train, part.class_train)
        vectors = torch.from_numpy(part.X_test.astype(np.float64))[:, None]
        evidence = detector.model_.model.evidence([vectors], torch.from_numpy(codes))
        own = evidence.likelihoods[0][:, 0].numpy()
        top = np.array([own[codes == code].max() for code in (0, 1)])
        np.testing.assert_allclose(detector.best_["scores"], np.exp(own - top[codes]) - 1)
        assert [detector.best_["scores"][codes == code].max() for code in (0, 1)] == [0, 0]

    def test_looks_after_each_pass_and_keeps_the_best(self, table_file, monkeypatch):
        (part,) = _data.load_parts([str(table_file)])
        aurocs, seen = iter([0.4, 0.9, 0.6, 0.9]), []

        def metrics(y, scores, codes):
            seen.append(scores)
            figures = type("Figures", (), {"auroc": next(aurocs)})
            return type("Metrics", (), {"per_class": {0: figures, 1: figures}})

        monkeypatch.setattr("benchmarks._paper_protocol.image_metrics", metrics)
        detector = PaperProtocolDetector(max_iter=3, n_blocks=1, random_state=0)
        with extract(detector, part.X_test, is_images=False) as features:
            detector.watch(features, part.codes(part.class_test), part.y)
            detector.fit(part.X_train, part.class_train)
        assert len(seen) == 4  # three passes and the finished model
        assert detector.best_["n_pass"] == 2
        np.testing.assert_array_equal(detector.best_["scores"], seen[1])


def figures(auroc, **more):
    names = ("auroc", "ap", "f1_max")
    image = {
        "per_class": {"nut": dict.fromkeys(names, auroc), "bolt": dict.fromkeys(names, 1.0)},
        "mean": dict.fromkeys(names, auroc),
        "pooled": dict.fromkeys(names, 0.5),
    }
    return {"seed": 0, "image": image, "pixel": None, "fit_seconds": 2.0, **more}


class TestTables:
    def test_show_mean_and_half_the_range(self):
        rows = {"HGAD": [figures(0.9), figures(0.8)], "Mahalanobis": [figures(0.75)]}
        text = _figures.render("toy", "honest", rows, ["A note."])
        lines = text.splitlines()
        assert lines[0] == "### toy, honest protocol"
        assert lines[2] == "| method | mean AUROC | pooled AUROC | mean AP | mean F1-max | fit s |"
        assert "| HGAD | 0.850 ± 0.050 | 0.500 ± 0.000 |" in text
        assert "| Mahalanobis | 0.750 | 0.500 |" in text
        assert "A note." in lines
        assert "| bolt | 1.000 ± 0.000 | 1.000 |" in lines
        assert "| nut | 0.850 ± 0.050 | 0.750 |" in lines
        assert lines.index("| bolt | 1.000 ± 0.000 | 1.000 |") < lines.index(
            "| nut | 0.850 ± 0.050 | 0.750 |"
        )

    def test_a_figure_that_a_method_lacks_is_a_dash(self):
        pixel = {"mean": {"auroc": 0.7, "aupro": float("nan")}}
        rows = {"with": [figures(0.9, pixel=pixel)], "without": [figures(0.9)]}
        lines = _figures.summary("method", rows)
        assert "| pixel AUROC | fit s |" in lines[0]  # nobody has AUPRO: no column
        assert lines[2].endswith("| 0.700 | 2.0 |") and lines[3].endswith("| - | 2.0 |")

    def test_nan_is_null_in_json(self, tmp_path):
        _figures.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0], "b": {"c": 2}})
        text = (tmp_path / "a.json").read_text(encoding="utf-8")
        assert json.loads(text) == {"a": [None, 1.0], "b": {"c": 2}}

    def test_pixel_figures_are_those_of_the_masked_classes(self, image_folder):
        part = _data.load_parts([str(image_folder)], "folder")[0]
        part.masks[part.class_test == "light"] = None  # class without masks: left out
        maps = torch.rand(len(part.y), 64, 64, generator=torch.Generator().manual_seed(0))
        found = _figures.pixel_figures(part, maps, (64, 64))
        dark = part.class_test == "dark"
        expected = pixel_metrics(part.masks[dark], maps[dark].numpy(), y=part.y[dark])
        assert found["per_class"] == {"dark": dict(expected.pooled)}
        part.masks[:] = None
        assert _figures.pixel_figures(part, maps, (64, 64)) is None


class TestRuns:
    def test_table_end_to_end(self, table_file, tmp_path, capsys):
        out = tmp_path / "out.json", tmp_path / "out.md"
        accuracy.main(
            f"--data {table_file} --seeds 2 --protocol both --set max_iter=1 --set n_blocks=1 "
            f"--json {out[0]} --markdown {out[1]}".split()
        )
        content = json.loads(out[0].read_text(encoding="utf-8"))
        assert content["parameters"]["max_iter"] == 1
        assert content["versions"]["torch"] == torch.__version__
        protocols = content["parts"]["toy"]["protocols"]
        names = [
            "PatchCore", "Mahalanobis", "flow, one Gaussian", "isolation forest",
            "local outlier factor", "one-class SVM", "Gaussian mixture",
        ]  # fmt: skip
        forms = {"honest": ("no labels", "class given"), "paper": ("class given",)}
        for protocol, rows in protocols.items():
            assert list(rows) == [
                "HGAD, class inferred" if protocol == "honest" else "HGAD, class given",
                *(f"{name}, {form}" for name in names for form in forms[protocol]),
            ]
            for name, runs in rows.items():
                random = not name.startswith(("PatchCore", "Maha", "local", "one-class"))
                assert [run["seed"] for run in runs] == list(range(1 + random)), name
        # Anomalies of class bolt lie far from all training samples, and so do those of nut.
        perfect = [
            run["image"]["pooled"]["auroc"] for run in protocols["honest"]["HGAD, class inferred"]
        ]
        assert perfect == [1.0, 1.0]
        assert protocols["honest"]["HGAD, class inferred"][0]["class_found"] > 0.5
        assert (
            "false_alarm_rate" in protocols["honest"]["HGAD, class inferred"][0]["image"]["pooled"]
        )
        printed = capsys.readouterr().out
        assert "### toy, honest protocol" in printed and "### toy, paper protocol" in printed
        assert out[1].read_text(encoding="utf-8").strip() == printed.strip()

    def test_images_end_to_end(self, image_folder, tmp_path):
        accuracy.main(
            f"--data {image_folder} --loader folder --seeds 1 --image-size 64 --pixel-size 64 "
            f"--set max_iter=1 --set n_blocks=1 --device cpu --json {tmp_path / 'a.json'} "
            f"--memory {tmp_path / 'memory'} --methods hgad nn padim mahalanobis".split()
        )
        content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        rows = content["parts"]["folder"]["protocols"]["honest"]
        forms = ("no labels", "class given", "class given, scales summed")
        names = ("PatchCore", "PaDiM", "Mahalanobis")
        assert list(rows) == [
            "HGAD, class inferred",
            *(f"{name}, {form}" for name in names for form in forms),
        ]
        for name in (f"{name}, {form}" for name in names for form in forms[1:]):
            (run,) = rows[name]
            assert ("false_alarm_rate" in run["image"]["pooled"]) == ("summed" in name)
            assert run["image"]["mean"]["auroc"] == 1.0, name
            assert run["pixel"]["mean"]["auroc"] > 0.75, name
        assert set(rows["HGAD, class inferred"][0]["pixel"]["per_class"]) == {"dark", "light"}

    @pytest.mark.filterwarnings("ignore:class 'bolt'")
    def test_class_given_scores_each_sample_by_its_own_class(self, table_file):
        (part,) = _data.load_parts([str(table_file)])
        part.class_test[:12], part.y[:12] = "nut", -1  # bolts among the nuts
        parameters = HGADDetector().get_params(deep=False)
        with (
            extract(HGADDetector(), part.X_train, False) as train,
            extract(HGADDetector(), part.X_test, False) as test,
        ):
            bench = Bench(part, train, test, parameters)
            runs = {title: record for _, title, record in runs_of("mahalanobis", bench, 3)}
        free, given = runs["Mahalanobis, no labels"], runs["Mahalanobis, class given"]
        assert given["image"]["per_class"]["nut"]["auroc"] == 1
        assert free["image"]["per_class"]["nut"]["auroc"] < 0.9

    @pytest.mark.filterwarnings("ignore:class 'bolt'")
    def test_a_class_without_anomalies_has_no_figure(self, table_file, tmp_path, capsys):
        with np.load(table_file) as table:
            arrays = dict(table)
        kept = (arrays["class_name"] == "nut") | (arrays["y"] == 0)
        path = tmp_path / "t.npz"
        np.savez(path, **{name: array[kept] for name, array in arrays.items()})
        accuracy.main(["--data", str(path), "--methods", "mahalanobis"])
        printed = capsys.readouterr()
        assert "| Mahalanobis, no labels | 1.000 |" in printed.out
        assert "| bolt | - | - |" in printed.out
        assert "mean AUROC -, pooled 1.000" in printed.err

    def test_hgad_variants_run_on_request(self, table_file, tmp_path):
        accuracy.main(
            f"--data {table_file} --seeds 1 --methods hgad-given hgad-unlabelled hgad-alone "
            f"--set max_iter=1 --set n_blocks=1 --json {tmp_path / 'a.json'}".split()
        )
        content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        rows = content["parts"]["toy"]["protocols"]["honest"]
        assert list(rows) == ["HGAD, class given", "HGAD, no labels", "HGAD, one model a class"]
        alone = rows["HGAD, one model a class"][0]["image"]
        assert set(alone["per_class"]) == {"bolt", "nut"}
        assert alone["mean"]["auroc"] > 0.9 and alone["mean"]["false_alarm_rate"] < 0.5
        assert "class_found" not in rows["HGAD, no labels"][0]


class TestAblation:
    def test_parts_are_cumulative(self):
        base = HGADDetector().get_params(deep=False)
        rows = [row for row in ablation.ablation_rows(base) if row.group == "parts"]
        single, inter, information, intra, entropy = (row.changes for row in rows)
        assert [row.labels for row in rows] == [False, True, True, True, True]
        assert single == inter
        assert (inter["lambda_mi"], inter["lambda_entropy"], inter["lambda_intra"]) == (0, 0, 0)
        assert (information["lambda_mi"], information["n_components"]) == (base["lambda_mi"], 1)
        assert (intra["n_components"], intra["lambda_intra"]) == (base["n_components"], 1)
        assert intra["criterion"] == "likelihood" != entropy["criterion"]
        assert not any(row.changes["class_covariance"] for row in rows)

    def test_every_row_is_a_valid_configuration(self):
        base = HGADDetector.paper().get_params(deep=False)
        for row in ablation.ablation_rows(base):
            assert set(row.changes) <= set(base), row.title
        titles = [row.title for row in ablation.ablation_rows(base)]
        assert len(set(titles)) == len(titles)
        assert [title for title in titles if title.startswith("centers")][-1] == "centers: M = 20"

    def test_only_names_groups_and_titles(self):
        rows = ablation.ablation_rows(HGADDetector().get_params(deep=False))
        chosen = ablation.chosen_rows(rows, ["stages", "centers: M = 1*"])
        assert [row.title for row in chosen] == [
            "centers: M = 1", "centers: M = 10", "stages: two", "stages: one",
        ]  # fmt: skip
        with pytest.raises(ValueError, match="'centres' names no row"):
            ablation.chosen_rows(rows, ["centres"])

    def test_finished_runs_are_not_repeated(self, table_file, tmp_path, monkeypatch, capsys):
        command = (
            f"--data {table_file} --set max_iter=1 --set n_blocks=1 --json {tmp_path / 'a.json'} "
            "--only stages lambda2 --seeds"
        ).split()
        ablation.main([*command, "1"])
        first = capsys.readouterr()
        # "lambda2: 10" and "stages: two" are the same configuration: one run.
        assert len(first.err.splitlines()) == 5
        assert first.out.count("| stages:") == 2 and first.out.count("| lambda2:") == 4

        calls = []
        original = Bench.fit_and_score

        def counting(self, seed, **changes):
            calls.append(seed)
            return original(self, seed, **changes)

        monkeypatch.setattr(Bench, "fit_and_score", counting)
        ablation.main([*command, "1"])
        assert capsys.readouterr().out == first.out and not calls
        ablation.main([*command, "2"])
        assert calls == [1] * 5
        with pytest.raises(SystemExit):
            ablation.main([*command, "1", "--set", "n_components=2"])
        assert "other data or parameters" in capsys.readouterr().err


class TestAddClass:
    def test_every_class_is_left_out_and_added(self, table_file, tmp_path, capsys):
        out = tmp_path / "out.json", tmp_path / "out.md"
        add_class.main(f"--data {table_file} --seeds 2 --json {out[0]} --markdown {out[1]}".split())
        records = json.loads(out[0].read_text(encoding="utf-8"))["parts"]["toy"]
        assert list(records) == ["bolt", "nut"] and len(records["bolt"]) == 2
        for run in (*records["bolt"], *records["nut"]):
            aurocs = [value for name, value in run.items() if not name.endswith("seconds")]
            assert aurocs == [1.0] * 4  # anomalies lie far from both classes
        text = out[1].read_text(encoding="utf-8")
        assert capsys.readouterr().out.strip() == text.strip()
        assert "### toy, each class added, 2 seeds" in text
        assert re.search(r"^\| mean \|( 1\.000 ± 0\.000 \|){4}", text, re.M)

    def test_one_class_leaves_nothing_to_add(self, table_file, capsys):
        with pytest.raises(SystemExit):
            add_class.main(f"--data {table_file} --classes bolt".split())
        assert "with one class" in capsys.readouterr().err


def test_update_is_compared_with_a_fit_on_everything(table_file, tmp_path, capsys):
    out = tmp_path / "out.json", tmp_path / "out.md"
    command = f"--data {table_file} --seeds 1 --share 0.6 --json {out[0]} --markdown {out[1]}"
    update.main(command.split())
    (run,) = json.loads(out[0].read_text(encoding="utf-8"))["parts"]["toy"]
    assert run["share"] == run["updated"] == run["full"] == 1.0
    assert 0 <= run["updated_alarms"] <= 0.3
    text = out[1].read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert "### 60% of the normals, then update" in text and "| toy |" in text
    with pytest.raises(SystemExit):
        update.main(f"--data {table_file} --share 1".split())


def test_repeats_are_judged_with_and_without_groups(table_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(repeats, "SIMULATED", [(3, 12, 4, 0.05)])
    monkeypatch.setattr(repeats, "_FRESH", 100)
    out = tmp_path / "out.json", tmp_path / "out.md"
    command = f"--data {table_file} --seeds 1 --parts 20 --json {out[0]} --markdown {out[1]}"
    repeats.main(command.split())
    runs = json.loads(out[0].read_text(encoding="utf-8"))["runs"]
    assert list(runs) == ["3 features, 12 x 4, within 0.05", "toy, 20 x 3 of a class"]
    (simulated,), (toy,) = runs.values()
    assert simulated["groups"]["alarms"] < 0.4 < simulated["all"]["alarms"]
    assert toy["groups"]["alarms"] <= toy["all"]["alarms"]
    assert toy["groups"]["auroc"] > 0.9
    text = out[1].read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| toy, 20 x 3 of a class |" in text


@pytest.fixture(scope="module")
def defect_folder(tmp_path_factory):
    """A class whose plates have a red square or a row of white and black dots."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("defects")
    for kind, n in (("train/good", 30), ("test/good", 3), ("test/stain", 6), ("test/dots", 6)):
        for index in range(n):
            pixels = rng.normal(120, 8, (64, 64, 3))
            row, column = rng.integers(8, 36, 2)
            if kind == "test/stain":
                pixels[row : row + 16, column : column + 16] = (255, 0, 0)
            if kind == "test/dots":
                pixels[row : row + 16, column : column + 16] = rng.choice([0, 255], (16, 16, 1))
            save(root / "plate" / kind / f"{index}.png", pixels.clip(0, 255).astype(np.uint8))
    return root


class TestDefectGroups:
    def test_types_that_look_different_are_told_apart(self, defect_folder, tmp_path, capsys):
        out = tmp_path / "out.json", tmp_path / "out.md"
        defect_groups.main(
            f"--data {defect_folder} --loader folder --seeds 1 --image-size 64 --set max_iter=0 "
            f"--json {out[0]} --markdown {out[1]}".split()
        )
        (run,) = json.loads(out[0].read_text(encoding="utf-8"))["parts"]["folder"]["plate"]
        assert run["images"] == run["with a region"] == 12
        assert run["of these, by type"] == {"dots": 6, "stain": 6}
        found = run["figures"]["highest peak of each image"]["features, types known"]
        assert found["groups"] == 2 and found["NMI"] == found["AMI"] == 1
        assert found["NMI of permuted labels"] < 0.4
        text = out[1].read_text(encoding="utf-8")
        assert "12 anomalous images, 12 with a region" in text
        assert "| features, types known | 2.0 | 1.000 |" in text

    def test_the_limit_keeps_every_type(self, defect_folder):
        (part,) = _data.load_parts([str(defect_folder)], "folder")
        kept = part.limited(2, by_defect=True)
        assert sorted(kept.defects) == ["dots"] * 2 + ["good"] * 2 + ["stain"] * 2
        assert sorted(part.limited(2).defects) == ["dots"] * 2 + ["good"] * 2

    def test_products_with_one_type_have_nothing_to_group(self, image_folder, capsys):
        with pytest.raises(SystemExit):
            defect_groups.main(f"--data {image_folder} --loader folder".split())
        assert "nothing to group" in capsys.readouterr().err


class TestRobustness:
    @pytest.fixture
    def part(self, table_file):
        (part,) = _data.load_parts([str(table_file)])
        return part

    def test_normals_are_dealt_anew_within_their_class(self, part, rng):
        dealt = robustness.redraw(part, rng)
        assert not np.array_equal(dealt.X_train, part.X_train)
        normal = part.y == 1
        np.testing.assert_array_equal(dealt.X_test[~normal], part.X_test[~normal])
        for label in part.classes:
            before, after = (
                np.concatenate(
                    (p.X_train[p.class_train == label], p.X_test[(p.class_test == label) & normal])
                )
                for p in (part, dealt)
            )
            np.testing.assert_array_equal(np.sort(after[:, 0]), np.sort(before[:, 0]))

    def test_few_normals_are_drawn_from_each_class(self, part, rng):
        few = robustness.few_normals(part, 7, rng)
        assert np.unique(few.class_train, return_counts=True)[1].tolist() == [7, 7]
        again = robustness.few_normals(part, 7, rng)
        assert not np.array_equal(few.X_train, again.X_train)
        np.testing.assert_array_equal(few.X_test, part.X_test)
        assert len(robustness.few_normals(part, 1000, rng).X_train) == len(part.X_train)

    def test_contamination_moves_anomalies_from_the_test_to_the_training(self, part, rng):
        clean, dirty = robustness.contaminate(part, 0.05, rng)
        assert len(dirty.X_train) == len(dirty.class_train) == 80 + 2 * 3  # 3 of 43 are 7 %, 2 4 %
        assert (dirty.X_train[80:] > 20).all()  # anomalies
        assert dirty.class_train[80:].tolist() == ["bolt"] * 3 + ["nut"] * 3
        np.testing.assert_array_equal(clean.X_train, part.X_train)
        np.testing.assert_array_equal(clean.X_test, dirty.X_test)
        assert (clean.y == -1).sum() == 10 and (clean.y == 1).sum() == 24
        moved = {tuple(row) for row in dirty.X_train[80:]}
        assert not moved & {tuple(row) for row in dirty.X_test}
        _, half = robustness.contaminate(part, 0.5, rng)
        assert len(half.X_train) == 80 + 2 * 4  # never more than half of a class's anomalies

    def test_the_long_class_has_many_normals_and_is_not_tested(self, part, rng):
        part = part.taking(part.class_train != "", part.class_test != "")
        more = part.class_train == "bolt"
        part.X_train = np.concatenate((part.X_train, part.X_train[more][:1]))
        part.class_train = np.append(part.class_train, "bolt")  # now the longest
        tail, equal = robustness.long_tail(part, 100, (6, 6), rng)
        assert (tail.class_train == "bolt").sum() == 100
        assert (equal.class_train == "bolt").sum() == 6
        small = [one.X_train[one.class_train == "nut"] for one in (tail, equal)]
        assert len(small[0]) == 6
        np.testing.assert_array_equal(*small)
        assert set(tail.class_test) == set(equal.class_test) == {"nut"}
        real = {tuple(row) for row in part.X_train}
        bolts = tail.X_train[tail.class_train == "bolt"]
        drawn = np.array([row for row in bolts if tuple(row) not in real])
        assert len(drawn) == 100 - 41
        spread = part.X_train[part.class_train == "bolt"].std(0).mean()
        assert abs(drawn.mean() - bolts.mean()) < spread
        fewer, _ = robustness.long_tail(part, 20, (6, 6), rng)
        assert {tuple(row) for row in fewer.X_train} <= real

    def test_gains_of_the_long_tail_are_over_each_setting(self):
        def setting(*values):
            return {
                "HGAD, class inferred": [{"image": {"mean": {"auroc": value}}} for value in values]
            }

        settings = {
            "equal numbers": setting(0.8), "long tail": setting(0.85), "each alone": setting(0.6)
        }  # fmt: skip
        figures = {"mean": robustness.FIGURES["mean"]}
        lines = robustness._tail_table(settings, figures, with_losses=False)
        assert lines[2:] == [
            "| equal numbers | 0.800 | 0.050 |", "| long tail | 0.850 |  |",
            "| each alone | 0.600 | 0.250 |",
        ]  # fmt: skip

    def test_losses_and_margins_are_differences_seed_by_seed(self):
        def runs(*values):
            return [{"image": {"mean": {"auroc": value}}} for value in values]

        path = robustness.FIGURES["mean"]
        np.testing.assert_allclose(
            robustness.losses(runs(0.9, 0.8), runs(0.7, 0.85), path), [0.2, -0.05]
        )
        records = {
            "HGAD, class inferred": runs(0.8, 0.9),
            "HGAD, class given": runs(1.0, 1.0),  # no peer
            "PaDiM, class given": runs(0.7, 0.95),
            "PatchCore, class given": runs(0.75, 0.6),
        }
        np.testing.assert_allclose(robustness.margins(records, path), [0.05, -0.05])

    def test_end_to_end(self, table_file, tmp_path, capsys):
        robustness.main(
            f"--data {table_file} --seeds 2 --few 6 20 --methods hgad mahalanobis --set max_iter=1 "
            f"--set n_blocks=1 --json {tmp_path / 'r.json'} --markdown {tmp_path / 'r.md'}".split()
        )
        text = capsys.readouterr().out
        assert (tmp_path / "r.md").read_text(encoding="utf-8") == text.rstrip("\n") + "\n"
        studies = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["parts"]["toy"]
        assert list(studies) == [
            "redraw",
            "alone",
            "pairs",
            "few",
            "tail",
            "contamination",
            "discovery",
        ]
        assert list(studies["tail"]) == ["equal numbers", "long tail", "each alone"]
        (alone,) = studies["tail"]["each alone"].values()
        assert [list(run["image"]["per_class"]) for run in alone] == [["nut"], ["nut"]]
        assert list(studies["few"]) == ["6 normals", "20 normals"]
        assert list(studies["contamination"]) == ["clean", "contaminated"]
        for in_one in studies["pairs"].values():  # both classes of the table
            assert list(in_one) == ["modes", "one Gaussian"]
            assert [run["n_classes"] for runs in in_one.values() for run in runs] == [1] * 4
        assert list(studies["discovery"]) == ["labels given", "number given", "discovered"]
        for setting in (*studies["few"].values(), *studies["contamination"].values()):
            assert list(setting) == ["HGAD, class inferred", "Mahalanobis, class given"]
            assert [run["seed"] for run in setting["HGAD, class inferred"]] == [0, 1]
        (found,) = studies["discovery"]["discovered"].values()
        assert [run["n_classes"] for run in found] == [2, 2]
        assert text.count("| HGAD, class inferred - best peer |") == 3
        rates = re.search(r"normals dealt anew: false alarms.*\n.*\n(.*)\n(.*)", text)
        assert "0.0" in rates[1].split("|")[4] and rates[2].split("|")[4:6] == [" - ", " - "]
        assert "| loss: mean | loss: pooled |" in text
        (row,) = re.findall(r"\| discovered \|.*", text)
        assert row.endswith("| 2.0 ± 0.0 | 1.000 ± 0.000 |")

    def test_one_study_alone(self, table_file, capsys):
        robustness.main(
            f"--data {table_file} --seeds 1 --only few --few 5 --methods mahalanobis".split()
        )
        text = capsys.readouterr().out
        assert "contamination" not in text and "best peer" not in text
        assert "| Mahalanobis, class given |" in text

    @pytest.mark.parametrize(
        "option, message",
        [("--few 0", "--few must be at least 1"), ("--share 0.7", "--share must lie in")],
    )
    def test_wrong_usage_is_told(self, option, message, table_file, capsys):
        with pytest.raises(SystemExit):
            robustness.main(f"--data {table_file} {option}".split())
        assert message in capsys.readouterr().err


class TestGaussianity:
    def test_figures_are_of_the_normals_of_each_class(self, table_file):
        (part,) = _data.load_parts([str(table_file)])
        detector = HGADDetector(n_components=1, random_state=0).fit(part.X_train, part.class_train)
        part.X_test = np.concatenate([part.X_train, part.X_test[part.y == -1]])
        part.class_test = np.concatenate([part.class_train, part.class_test[part.y == -1]])
        part.y = np.repeat([1, -1], [80, 16])
        bolt, nut = gaussianity.measure(part, detector)
        assert bolt[:2] == (0, "bolt") and nut[:2] == (0, "nut")
        assert bolt[2].n_vectors == 40 and bolt[2].n_axes == 4
        assert abs(bolt[2].kurtosis_z) < 3  # anomalies would make it far larger
        lines = gaussianity.table([bolt, nut])
        figures = bolt[2]
        assert lines[2] == (
            f"| 0 | bolt | 40 | 4 | {figures.kurtosis_ratio:.2f} | {figures.kurtosis_z:.2f} | "
            f"{figures.skewness_z:.2f} |"
        )
        median = (figures.kurtosis_ratio + nut[2].kurtosis_ratio) / 2
        assert lines[4].startswith(f"| 0 | **median** |  |  | {median:.2f} |")

    def test_few_normals_are_told(self, table_file, tmp_path, capsys):
        path = tmp_path / "g.json"
        gaussianity.main(f"--data {table_file} --json {path}".split())
        assert "| 0 | nut | too few | - | - | - | - |" in capsys.readouterr().out
        records = json.loads(path.read_text(encoding="utf-8"))["parts"]["toy"]
        assert records == [{"level": 0, "class": "bolt"}, {"level": 0, "class": "nut"}]


class TestPixelMemory:
    def test_exact_figures_are_those_of_scikit_learn(self, rng):
        normal, anomalous = rng.normal(size=400), rng.normal(1, 1, 150)
        truth = np.repeat([0, 1], [400, 150])
        scores = np.concatenate([normal, anomalous])
        found = pixel_memory.exact_figures(normal.copy(), anomalous, np.ones(150))
        precision, recall, _ = precision_recall_curve(truth, scores)
        assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
        assert found["ap"] == pytest.approx(average_precision_score(truth, scores))
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert found["f1_max"] == pytest.approx(f1.max())

    def test_streamed_figures_agree_with_exact_ones(self, capsys):
        assert pixel_memory.main(["--maps", "40"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
        assert [row[0] for row in rows] == ["auroc", "ap", "f1_max", "aupro"]
        assert all(abs(float(row[1]) - float(row[2])) < 1e-3 for row in rows)


class TestColdStart:
    def test_ratios_are_those_of_the_same_turn(self):
        seconds = {cold_start.TORCH: [2.0, 4.0], cold_start.BARE: [4.0, 6.0]}
        seconds[cold_start.SCORE] = [5.0, 9.0]
        assert cold_start.ratio(seconds, cold_start.SCORE, cold_start.BARE) == 1.375
        text = cold_start.table(seconds)
        assert f"| {cold_start.SCORE} | 7.00 | 2.38 |" in text
        assert "1.38, target <= 1.25: NOT met" in text

    def test_every_command_runs_in_its_own_process(self, tmp_path):
        sides = cold_start.commands(tmp_path)
        assert (tmp_path / "image.png").exists() and (tmp_path / "model").is_dir()
        seconds = cold_start.measure({"a": ["-c", "pass"], "b": sides["import skhgad"]}, 2)
        assert [len(values) for values in seconds.values()] == [2, 2]
        with pytest.raises(subprocess.CalledProcessError):
            cold_start.measure({"a": ["-c", "raise SystemExit(3)"]}, 1)
