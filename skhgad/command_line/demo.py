"""The command `demo`."""

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from ..text import printable
from ..version import how_to_install
from .arguments import parse_natural

_PACKAGES = ("elpv-dataset", "matplotlib")
_LICENCE = """\
Data: elpv-dataset, CC BY-NC-SA 4.0 (non-commercial; what you derive from the images, the picture
  below included, under the same licence). In scientific work cite Buerhop-Lutz et al., EU PVSEC
  2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15; Deitsch et al., Solar Energy 185, 2019,
  doi:10.1016/j.solener.2019.02.067; Deitsch et al., Machine Vision and Applications 32, 2021,
  doi:10.1007/s00138-021-01191-9."""


def add_options(commands):
    """Add the command."""
    text = "Fit one model on two kinds of solar cell and show the defects it finds."
    command = commands.add_parser("demo", help=text, description=text)
    command.add_argument(
        "--out",
        metavar="DIR",
        default="skhgad-demo",
        help="folder for the picture and the model (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=parse_natural,
        default=0,
        help="random_state of the split and of the fit (default: %(default)s)",
    )
    command.set_defaults(run=run)


def run(args):
    """Fit, score, compare, draw and save."""
    from ..storage.files import check_folder_place
    from ..storage.model_folder import check_model_place

    start = time.perf_counter()
    out = Path(args.out)
    check_folder_place(out, "--out")
    check_model_place(out / "model", "--out")
    with _naming_extras():
        from .demo_data import describe, load_cells, split_cells
        from .demo_sheet import write_detections  # matplotlib is needed later: fail early

        cells = split_cells(*load_cells(), seed=args.seed)
    from .demo_baseline import compare, nearest_neighbour_scores

    print(describe(cells), _LICENCE, sep="\n", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skhgad-demo-") as memory:
        # `memory` keeps features: each cell passes the backbone once.
        detector = new_detector(memory, args.seed)
        with _timed(f"\nFitting one model on {len(cells.train)} normal cells of both products"):
            detector.fit(cells.train, cells.train_product)
        detector.set_params(verbose=0)
        with _timed(f"Scoring {len(cells.test)} other cells, whose product is not told"):
            inspection = detector.inspect(cells.test)
        with _timed("Nearest neighbours on the same features"):
            neighbour_scores = nearest_neighbour_scores(detector, cells, args.seed)
        print()
        print(compare(cells, inspection, neighbour_scores, detector.offset_))
        sheet = write_detections(out / "detections.png", detector, cells, inspection)
        detector.save(out / "model")
        largest = check_same(out / "model", memory, cells.test, inspection.score)
    print(
        f"\nModel: {printable((out / 'model').resolve())}\n"
        f"  read again, it gives the same scores (largest difference {largest:.1e})\n"
        f"Picture of the clearest detections: {printable(sheet.resolve())}\n"
        f"{time.perf_counter() - start:.0f} s in all"
    )


def new_detector(memory, seed):
    """Return an unfitted detector with default parameters."""
    from ..estimator import HGADDetector

    return HGADDetector(memory=memory, random_state=seed, verbose=1)


def check_same(model, memory, images, scores):
    """Return the largest difference of the saved model's scores.

    Raises RuntimeError if it exceeds float32 rounding.
    """
    from ..estimator import HGADDetector

    again = HGADDetector.load(model).set_params(memory=memory, verbose=0).score_samples(images)
    largest = float(abs(again - scores).max())
    if largest > 1e-4 * max(1.0, float(abs(scores).max())):
        raise RuntimeError(f"the saved model scores differently when read again, by {largest:.3g}.")
    return largest


@contextmanager
def _timed(task):
    print(f"{task} ...", flush=True)
    start = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


@contextmanager
def _naming_extras():
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the demo needs {' and '.join(_PACKAGES)} ({error}). Install them: "
            f"{how_to_install('demo', *_PACKAGES)}."
        ) from error
