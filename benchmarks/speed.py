"""Speed of skhgad beside the published method and beside the bare backbone, in one process.

    python -m benchmarks.speed [--part train fit score latency] [--json FILE] [--markdown FILE]
    python -m benchmarks.speed --part sizes            # fits of up to 4,000 images
    python -m benchmarks.speed --part quality          # long: the reference trains 16 whole passes
    python -m benchmarks.speed --device cuda --backbone tf_efficientnet_b6 --weights none \\
        --image-size 1024 --configuration paper --part train fit score

What the parts measure; every figure is the median of repeated pairs, the side that goes first in
turn:

train    One training pass with the features at hand: same levels, flows, mixtures and batches,
         second stage (92 % of the schedule). Yardstick: `benchmarks.reference` on feature maps in
         memory. skhgad: its own training loop on its own cache, all positions in every step.
fit      The same with the backbone counted, from nothing to a trained model: --passes passes. The
         reference runs the backbone in each of them, as published; skhgad extracts once, and its
         time is that of a whole `HGADDetector.paper().fit`, checks and calibration included.
score    `score_samples` on a stream at batch 32 beside the bare backbone (timm's feature extractor
         up to the last stage needed, channels_last, the same resizing and normalisation, decoding
         on both sides or on none), and the published evaluation beside skhgad's.
latency  The same for one image a call.
sizes    A whole fit of `HGADDetector()` on --sizes images of four products, beside one pass of the
         bare backbone over the same files at the same scales. One pair a size.
quality  Seconds of `fit` until the AUROC is reached that the reference has after --passes of a
         schedule of 48, mean over classes of the benchmark's test images. The target is the better
         of the reference's two figures: by its own protocol (class given, maxima over the test
         set) and by the honest one, which is the only one for skhgad. No scoring is counted.

Images are decoded arrays of the wanted size unless "files" is said. Without a benchmark folder they
are drawn, which `quality` cannot use. images/s of several passes count an image once a pass.
"""

import argparse
import logging
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from skhgad import HGADDetector
from skhgad.features.backbones import EMBEDDED_BACKBONE
from skhgad.fitting.feature_cache import FeatureCache
from skhgad.fitting.samples import LabelledSamples
from skhgad.fitting.schedule import training_plan
from skhgad.fitting.training import train_levels
from skhgad.metrics import image_metrics
from skhgad.model.level import empty_level

from .measurement import Comparison, environment, merge_json, table, timed
from .pictures import DEFAULT_DATA, load_pictures
from .reference_maps import anomaly_maps
from .scaling import write_varied
from .sides import (
    backbone_beside,
    from_arrays,
    from_files,
    make_detector,
    make_encoder,
    make_reference,
    run_bare,
)

BATCH = 32  # of a stream
SCHEDULE = 48  # passes, of which the reference does --passes
N_PRODUCTS = 4  # of the fits of `sizes`
MAP_SIZE = (256, 256)  # of the published anomaly maps


def part_train(options):
    """One pass with the features at hand."""
    pictures = load_pictures(options.data, options.image_size, options.images)
    labels = torch.from_numpy(pictures.codes())
    n_classes, n_images = int(labels.max()) + 1, len(labels)
    encoder = make_encoder(options)
    blocks = [encoder(block) for block in torch.from_numpy(pictures.pixels).split(8)]
    maps = [torch.cat(level).cpu() for level in zip(*blocks, strict=True)]
    n_steps = 10**6
    reference = make_reference(options, n_classes, n_steps, channels=[m.shape[1] for m in maps])
    reference.step = n_steps // 2  # in the second stage

    detector = make_detector(options, "paper", max_iter=1, first_stage_fraction=0.0)
    parameters = detector.get_params(deep=False)
    generator = torch.Generator().manual_seed(0)
    vectors = [m.permute(0, 2, 3, 1).flatten(1, 2).contiguous() for m in maps]
    levels = [
        empty_level(parameters, m.shape[1], tuple(m.shape[2:]), n_classes, generator) for m in maps
    ]
    rows, device = np.arange(n_images), torch.device(options.device)
    plan = training_plan(parameters, n_images, [(m.shape[1], *m.shape[2:]) for m in maps], device)
    with FeatureCache(n_images, [tuple(v.shape[1:]) for v in vectors]) as cache:
        cache.write(0, vectors)
        samples = LabelledSamples(cache, rows, labels.numpy(), n_classes)
        shapes = ", ".join("x".join(map(str, m.shape[1:])) for m in maps)
        return [
            Comparison(
                f"training pass, features at hand ({shapes}; {options.n_blocks} blocks, "
                f"K = {n_classes})",
                "reference",
                2.5,
                images=n_images,
            ).run(
                lambda: reference.fit(maps, labels, 1),
                lambda: train_levels(levels, samples, plan, generator, device),
                options.repeats,
                device,
            )
        ]


def part_fit(options):
    """Whole fits, backbone counted."""
    pictures = load_pictures(options.data, options.image_size, options.images)
    labels, pixels = torch.from_numpy(pictures.codes()), torch.from_numpy(pictures.pixels)
    n_classes, n_steps = int(labels.max()) + 1, options.passes * (len(labels) // 8)

    def reference():
        model = make_reference(options, n_classes, n_steps, make_encoder(options))
        model.fit(pixels, labels, options.passes)

    def skhgad():
        detector = make_detector(options, "paper", max_iter=options.passes)
        detector.fit(pictures.pixels, pictures.labels)

    comparison = Comparison(
        f"fit of {options.passes} passes from images, published architecture",
        "reference",
        4.5,
        images=len(labels) * options.passes,
    )
    # A few images warm both sides up.
    reference_step = make_reference(options, n_classes, 10, make_encoder(options))
    reference_step.fit(pixels[:8], labels[:8], 1)
    make_detector(options, "paper", max_iter=1).fit(pictures.pixels[:8], pictures.labels[:8])
    return [comparison.run(reference, skhgad, options.repeats, options.device, warm_up=False)]


def fitted(options, configuration):
    """A detector fitted shortly: its speed does not depend on what it learned."""
    pictures = load_pictures(options.data, options.image_size, options.fitting_images)
    overrides = {} if configuration == "default" else {"max_iter": 1}
    detector = make_detector(options, configuration, **overrides)
    return detector.fit(pictures.pixels, pictures.labels)


def beside_backbone(options, pictures, batch_size, repeats, name, target, *, throughput):
    """Comparisons of score_samples with the bare backbone, on arrays and on files."""
    detector = fitted(options, options.configuration)
    model, mean, std = backbone_beside(options, detector)
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures.files(folder)
        sources = {
            "arrays": (pictures.pixels, lambda: from_arrays(pictures.pixels, batch_size)),
            "files": (paths, lambda: from_files(paths, options.image_size, batch_size)),
        }
        return [
            Comparison(
                f"{name}, {kind}",
                "bare backbone",
                target,
                yardstick_over_skhgad=throughput,
                images=len(paths) if throughput else None,
            ).run(
                lambda batches=batches: run_bare(
                    model, mean, std, detector.image_scales, batches(), options.device
                ),
                lambda images=images: detector.score_samples(images),
                repeats,
                options.device,
            )
            for kind, (images, batches) in sources.items()
        ]


def part_score(options):
    """A stream of images: beside the bare backbone, and beside the published evaluation."""
    pictures = load_pictures(options.data, options.image_size, options.images, split="test")
    name = f"scoring at batch {BATCH}, {options.configuration} configuration"
    found = beside_backbone(options, pictures, BATCH, options.repeats, name, 0.75, throughput=True)
    detector = fitted(options, "paper")
    labels, pixels = torch.from_numpy(pictures.codes()), torch.from_numpy(pictures.pixels)
    reference = make_reference(options, int(labels.max()) + 1, 1, make_encoder(options))

    def evaluate():
        likelihoods, entropies, _ = reference.evidence(pixels, labels)
        anomaly_maps(likelihoods, entropies, MAP_SIZE)

    found.append(
        Comparison(
            "scoring, published architecture (the reference one by one, class given, as published)",
            "reference",
            images=len(labels),
        ).run(
            evaluate,
            lambda: detector.score_samples(pictures.pixels),
            options.repeats,
            options.device,
        )
    )
    return found


def part_latency(options):
    """One image a call."""
    picture = load_pictures(options.data, options.image_size, 1, split="test")
    name = f"latency of one image, {options.configuration} configuration"
    repeats = 10 * options.repeats
    return beside_backbone(options, picture, 1, repeats, name, 1.2, throughput=False)


def part_sizes(options):
    """Fits of a few and of many images."""
    return [fit_beside_backbone(options, n_images) for n_images in options.sizes]


def fit_beside_backbone(options, n_images):
    """Comparison of a whole fit of so many images with the bare backbone."""
    with tempfile.TemporaryDirectory() as folder:
        write_varied(folder, options.data, n_images, options.image_size)
        paths = sorted(Path(folder).glob("*.jpg"))
        labels = np.arange(n_images) % N_PRODUCTS
        detector = HGADDetector(
            backbone=options.backbone,
            device=options.device,
            image_size=options.image_size,
            random_state=0,
        )
        side = backbone_beside(options, detector.fit(paths[:16], labels[:16]))
        scales = detector.model_.extractor.spec["image_scales"]

        def bare():
            batches = from_files(paths, options.image_size, BATCH)
            run_bare(*side, scales, batches, options.device)

        comparison = Comparison(
            f"fit of {n_images} images, default parameters",
            "bare backbone",
            1.6,
            yardstick_over_skhgad=False,
            images=n_images,
        ).run(bare, lambda: detector.fit(paths, labels), 1, options.device, warm_up=False)
    print(comparison.row(), file=sys.stderr, flush=True)
    return comparison


def part_quality(options):
    """Time until skhgad is as good as the reference after some passes."""
    train, test = (
        load_pictures(options.data, options.image_size, options.quality_images, split=split)
        for split in ("train", "test")
    )
    labels, pixels = torch.from_numpy(train.codes()), torch.from_numpy(train.pixels)
    n_steps = SCHEDULE * (len(labels) // 8)
    comparison = Comparison(
        f"fit to the reference's AUROC after {options.passes} of {SCHEDULE} passes",
        "reference",
        10.0,
    )

    def train_reference():
        nonlocal reference
        encoder = make_encoder(options)
        reference = make_reference(options, int(labels.max()) + 1, n_steps, encoder)
        reference.fit(pixels, labels, options.passes)

    reference = None
    seconds = timed(train_reference, options.device)
    published, honest = reference_auroc(reference, train, test)
    target = max(published, honest)
    print(
        f"reference: {seconds:.0f} s, AUROC {published:.3f} by its own protocol, {honest:.3f} by "
        "the honest one",
        flush=True,
    )
    for max_iter in options.our_passes:
        detector = make_detector(options, "default", max_iter=max_iter)
        own = timed(lambda d=detector: d.fit(train.pixels, train.labels), options.device)
        figures = image_metrics(test.y, detector.score_samples(test.pixels), test.labels)
        reached = figures.mean.auroc >= target
        print(
            f"skhgad, max_iter={max_iter} ({detector.n_iter_} passes): {own:.0f} s, AUROC "
            f"{figures.mean.auroc:.3f}, pooled {figures.pooled.auroc:.3f}"
            f"{'' if reached else ', target not reached'}",
            flush=True,
        )
        if reached:
            comparison.name += f" ({target:.3f}; skhgad {figures.mean.auroc:.3f}, {max_iter=})"
            comparison.yardstick_seconds.append(seconds)
            comparison.skhgad_seconds.append(own)
            return [comparison]
    comparison.name += f" ({target:.3f}: not reached with max_iter in {options.our_passes})"
    comparison.yardstick_seconds.append(seconds)
    comparison.skhgad_seconds.append(math.inf)
    return [comparison]


def reference_auroc(reference, train, test, batch_size=8):
    """AUROC of the reference, mean over classes: by the published protocol and by the honest one.

    Honest: the class is inferred, and the maxima of the maps are those of the class's training
    images. An image's score then depends on no other test image.
    """
    codes = torch.from_numpy(test.codes())
    trained = torch.from_numpy(train.codes())
    likelihoods, entropies, _ = reference.evidence(
        torch.from_numpy(train.pixels), trained, batch_size
    )
    constants = {
        code: anomaly_maps(*_of_class(trained, code, likelihoods, entropies), MAP_SIZE)[1]
        for code in trained.unique().tolist()
    }
    aurocs = []
    for given, frozen in ((codes, {}), (None, constants)):
        likelihoods, entropies, own = reference.evidence(
            torch.from_numpy(test.pixels), given, batch_size
        )
        scores = np.empty(len(own))
        for code in own.unique().tolist():
            maps, _ = anomaly_maps(
                *_of_class(own, code, likelihoods, entropies), MAP_SIZE, frozen.get(code)
            )
            scores[(own == code).numpy()] = -maps.max((1, 2))
        aurocs.append(image_metrics(test.y, scores, test.labels).mean.auroc)
    return aurocs


def _of_class(codes, code, *evidence):
    return [[level[codes == code] for level in kind] for kind in evidence]


PARTS = {
    "train": part_train,
    "fit": part_fit,
    "score": part_score,
    "latency": part_latency,
    "sizes": part_sizes,
    "quality": part_quality,
}


def parse(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=["train", "fit", "score", "latency"])
    add("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark")
    add("--device", default="cpu")
    add("--backbone", default=EMBEDDED_BACKBONE)
    add("--weights", choices=("auto", "none"), default="auto", help="none = random")
    add("--image-size", type=int, default=256)
    add("--configuration", choices=("default", "paper"), default="default",
        help="of the detector whose scoring is compared with the bare backbone")  # fmt: skip
    add("--images", type=int, default=64, help="of a pass and of a stream")
    add("--fitting-images", type=int, default=160, help="a detector is fitted on before it scores")
    add("--sizes", nargs="+", type=int, default=[100, 1000, 4000], help="images of a fit")
    add("--passes", type=int, default=16)
    add("--our-passes", nargs="+", default=["auto"], metavar="MAX_ITER",
        help="tried in turn until the quality is reached")  # fmt: skip
    add("--quality-images", type=int, help="of each split, for trying out; default: all")
    add("--n-blocks", type=int, default=12, help="of the published architecture, for trying out")
    add("--repeats", type=int, default=5)
    add("--threads", type=int, help="of torch; default: torch's")
    add("--json", type=Path, help="write every figure here, beside the parts already there")
    add("--markdown", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    options.our_passes = [n if n == "auto" else int(n) for n in options.our_passes]
    return options


def main():
    """Measure and print."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    # timm warns of the classifier weights that a feature extractor leaves out.
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
    found = []
    for part in options.part:
        start = time.perf_counter()
        comparisons = PARTS[part](options)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if options.json:
            settings = {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(options).items()
            }
            merge_json(
                options.json,
                part,
                {
                    "environment": environment(options.device),
                    "options": settings,
                    "comparisons": [c.record() for c in comparisons],
                },
            )
        found += comparisons
    described = ", ".join(f"{k} {v}" for k, v in environment(options.device).items())
    text = f"{described}\n\n{table(found)}\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
