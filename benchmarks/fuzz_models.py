"""Model folders that someone else wrote, hashes right: thousands of them, loaded and scored with.

    python -m benchmarks.fuzz_models [--models 20000] [--seed 0] [--case N] [--json FILE]

Every case is a valid model, of vectors or of images, with a few values of its description or of its
tensors changed to what an attacker or an accident would write. The hash is computed again, so that
nothing but the checks of `load` stands in the way. A model is refused with the documented
ValueError, or it loads and then scores, judges, explains and saves tiny samples without an error.
Everything else is a failure: another exception, scores that are not finite, a hang, the death of
the process, or more than 1 GiB of memory beyond what a good model takes.

Cases run in child processes, a batch each, whose memory is limited. A case depends on the seed and
its number alone: --case N repeats it, with its traceback.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from skhgad import HGADDetector
from skhgad.storage.model_folder import model_hash

from .fuzz import MODEL, SIDE, Halves, Hang, mutate_values, peak_memory, split_model, time_limit

LIMIT = 60.0  # seconds a case may take, on a machine with other work
MEMORY = 1 << 30  # bytes beyond those of a good model
BATCH = 250  # cases in a child process
# What load cannot know: the maps that a module gives.
LOOSE = (
    "backbone it was fitted with",
    "the backbone gives sizes",
    "the module returns",
    "the module takes no images",
)

NUMBERS = (
    *(0, 1, -1, 2, 3, 50, 200, 2000, 8192, 1 << 24, 67108864, 10**12, 2**63, 10**400, True),
    *(0.5, -0.5, 1e-320, 1e-12, 1e5, 1e30, 1e300, -1e300, 1.7e308),
)
OTHERS = (
    *(None, False, "", "auto", "cross", "x", "meta", "cuda:7", "mps", "nan", "\u202e\n\x1b[2J"),
    *([], {}, [[]], {"a": 1}, ["a", "b"], [None], [0.0, 1e-320], ["0", "1"]),
    *([8192, 8192], [67108864, 1], [1, 67108864], [1, 1 << 24], [4096, 4096], [16384, 1024]),
    *([100], [1.0] * 50, [8.0] * 16, [1e-300], [0.001] * 16, [1e300], [0, 0], [1, 0], [0, 255]),
)
FILL = (0, 1, -1, 1e-320, 1e-30, 1e-3, 30, 1e6, 1e18, 1e30, 1e300, math.nan, math.inf, -math.inf)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
          torch.bool, torch.complex64)  # fmt: skip


def good_models():
    """Fit models of every kind that a file can describe; returns a list of (detector, samples)."""
    rng = np.random.default_rng(0)
    tiny = {"n_blocks": 1, "random_state": 0}
    X, y = rng.normal(size=(40, 3)), np.repeat(["a", "b"], 20)
    wide = rng.integers(0, 4000, (12, 20)) / 8  # rows of 12 bits, which the axes are sums of
    images = rng.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8)
    of_images = {"out_indices": (0, 1), "image_size": SIDE, "position_channels": 4}
    products = ["a", "b"] * 12
    models = [
        (HGADDetector(max_iter=1, n_components=2, **tiny).fit(X, y), X[:6]),
        (HGADDetector(**tiny).fit(X), X[:6]),
        (HGADDetector(n_components=3, unknown_rate=0.2, **tiny).fit(X, y), X[:6]),
        (HGADDetector(**tiny).fit(wide), wide[:6]),
        (HGADDetector(max_iter=1, class_covariance=False, **tiny).fit(X, y), X[:6]),
        (HGADDetector(Halves(), **of_images, **tiny).fit(images, products), images[:3]),
        (
            HGADDetector(Halves(), max_iter=1, image_scales=(0.5, 1.0), max_features=4, **of_images,
                         **tiny).fit(images, products),
            images[:3],
        ),
        (
            HGADDetector(Halves(), max_iter=1, map_normalization="exponential", **of_images,
                         **tiny).fit(images, products),
            images[:3],
        ),
    ]  # fmt: skip
    named = HGADDetector(image_size=64, **tiny).fit(images, products)
    return [*models, (named, images[:2])]


def hostile_value(rng):
    """Draw a JSON value."""
    values = NUMBERS if rng.random() < 0.6 else OTHERS
    return values[rng.integers(len(values))]


def change_parameter(rng, description, tensors):
    """Write another value of a parameter."""
    parameters = description.get("parameters")
    if not isinstance(parameters, dict):  # another change has replaced it
        return
    names = sorted(parameters)
    favourites = ["image_size", "image_scales", "out_indices", "blur_sigma", "value_range"]
    pool = favourites if rng.random() < 0.25 else names
    parameters[pool[rng.integers(len(pool))]] = hostile_value(rng)


def change_fitted(rng, description, tensors):
    """Write another value of what fit found."""
    fitted = description.get("fitted")
    if not isinstance(fitted, dict):
        return
    names = sorted(fitted)
    fitted[names[rng.integers(len(names))]] = hostile_value(rng)


def change_anything(rng, description, tensors):
    """Replace, remove or double a value anywhere in the description."""
    mutate_values(rng, description)


def _chosen(rng, tensors):
    names = sorted(name for name in tensors if not name.startswith("extractor.backbone"))
    return names[rng.integers(len(names))]


def fill_tensor(rng, description, tensors):
    """Set one number of a tensor, or all, to an extreme value."""
    name = _chosen(rng, tensors)
    tensor = tensors[name].clone()
    value = FILL[rng.integers(len(FILL))]
    if not tensor.is_floating_point():
        value = int(rng.choice([0, 1, -1, 2, 7, 2**31, -(2**63)]))
    value = torch.tensor(value, dtype=torch.float64 if tensor.is_floating_point() else torch.int64)
    value = value.to(tensor.dtype)  # what is too large becomes infinite
    if tensor.numel() and rng.random() < 0.6:
        tensor.view(-1)[rng.integers(tensor.numel())] = value
    else:
        tensor.fill_(value)
    tensors[name] = tensor


def scale_tensor(rng, description, tensors):
    """Multiply a tensor by a number."""
    name = _chosen(rng, tensors)
    if tensors[name].is_floating_point():
        tensors[name] = tensors[name] * float(rng.choice([-1, 1e-12, 1e-3, 1e3, 1e12, 1e36]))


def reshape_tensor(rng, description, tensors):
    """Cut, repeat, turn or empty a tensor."""
    name = _chosen(rng, tensors)
    tensor = tensors[name]
    kind = rng.integers(5)
    if kind == 0 or not tensor.ndim:
        tensor = tensor.reshape(-1)
    elif kind == 1:
        tensor = tensor[: len(tensor) // 2]
    elif kind == 2:
        tensor = torch.cat([tensor, tensor])
    elif kind == 3:
        tensor = tensor.transpose(0, -1)
    else:
        tensor = tensor[:0]
    tensors[name] = tensor.clone()


def recast_tensor(rng, description, tensors):
    """Give a tensor another dtype."""
    name = _chosen(rng, tensors)
    tensors[name] = tensors[name].to(DTYPES[rng.integers(len(DTYPES))])


def lose_tensor(rng, description, tensors):
    """Remove a tensor, give it another name, or exchange it with another."""
    name = _chosen(rng, tensors)
    kind = rng.integers(3)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name + "x"] = tensors.pop(name)
    else:
        other = _chosen(rng, tensors)
        tensors[name], tensors[other] = tensors[other], tensors[name]


CHANGES = (
    *(change_parameter,) * 5, *(change_fitted,) * 2, change_anything, *(fill_tensor,) * 4,
    scale_tensor, reshape_tensor, recast_tensor, lose_tensor,
)  # fmt: skip


class ModelFuzzer:
    """Cases by their number; `folder` takes the model of the present one."""

    def __init__(self, seed, folder):
        self.seed, self.folder = seed, Path(folder)
        self.models = []
        for detector, samples in good_models():
            detector.save(self.folder / "model")
            content = (self.folder / "model" / MODEL).read_bytes()
            _, description, _ = split_model(content)
            description["saved"] = "2025-01-01T00:00:00+00:00"
            self.models.append((description, load(content), samples))

    def write(self, number):
        """Write the model of a case; returns the samples to score and the names of the changes."""
        rng = np.random.default_rng([self.seed, number])
        # The last model has a whole backbone: as much work as the others together.
        kind = len(self.models) - 1 if rng.random() < 0.02 else rng.integers(len(self.models) - 1)
        description, tensors, samples = self.models[kind]
        description, tensors = json.loads(json.dumps(description)), dict(tensors)
        names = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            change = CHANGES[rng.integers(len(CHANGES))]
            change(rng, description, tensors)
            names.append(change.__name__)
        self._save(description, tensors)
        return samples, names

    def write_good(self, kind):
        """Write a model without any change; returns its samples."""
        description, tensors, samples = self.models[kind]
        self._save(description, tensors)
        return samples

    def _save(self, description, tensors):
        text = json.dumps(description)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"description": text, "sha256": model_hash(text, tensors)}
        (self.folder / "model" / MODEL).write_bytes(save(tensors, metadata))

    def case(self, number):
        """Write, load and use one model; returns what came of it."""
        samples, _ = self.write(number)
        return self.judge(samples)

    def judge(self, samples):
        """Load the present model, and use it if it loads; returns "refused" or "scored"."""
        try:
            detector = HGADDetector.load(self.folder / "model", backbone=Halves())
        except ValueError as error:
            assert str(self.folder) in str(error), f"does not name the folder: {error}"
            _require_memory(error)
            return "refused"
        try:
            use(detector, samples, self.folder / "again")
        except ValueError as error:
            _require_memory(error)
            if not any(text in str(error) for text in LOOSE):
                raise AssertionError(f"loaded, and then: {error}") from error
            return "another backbone"
        return "scored"


def _require_memory(error):
    """Raise MemoryError where an error says that there was none: it must not pass as documented."""
    if "allocate" in str(error):
        raise MemoryError(str(error)) from error


def use(detector, samples, folder):
    """Do with a detector what a user does."""
    scores = detector.score_samples(samples)
    assert np.isfinite(scores).all(), f"scores {scores}"
    assert np.isfinite(detector.decision_function(samples)).all()
    assert set(detector.predict(samples).tolist()) <= {-1, 1}
    assert ((detector.p_values(samples) > 0) & (detector.p_values(samples) <= 1)).all()
    detector.predict_class(samples)
    label = detector.classes_.tolist()[0]
    assert np.isfinite(detector.score_samples(samples, class_labels=[label] * len(samples))).all()
    json.loads(detector.inspect(samples).to_json())
    repr(detector)
    detector.explain(samples[:1])
    detector.set_threshold(false_alarm_rate=0.2)
    detector.save(folder)


def limit_memory(n_bytes):
    """Limit what this process may map beyond what it has; where the system can."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        return False
    return True


def run_batch(fuzzer, numbers, pipe, allowance):
    """Run cases in this process and write one line of JSON for each to a pipe."""
    limit_memory(allowance)
    with os.fdopen(pipe, "w") as out:
        for number in numbers:
            print(json.dumps([number, "started"]), file=out, flush=True)
            message = ""
            try:
                with time_limit(LIMIT), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    outcome = fuzzer.case(number)
            except (Exception, Hang) as error:
                outcome = "FAILURE"
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{where.name}, {os.path.basename(where.filename)}:{where.lineno}"
                message = f"{type(error).__name__}: {str(error)[:300]} ({place})"
            print(json.dumps([number, outcome, message, peak_memory()]), file=out, flush=True)


def in_child(work):
    """Run work(pipe) in a forked process; yield the JSON of its lines, then its exit status."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            work(writer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            yield json.loads(line)
    yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fuzz_models(fuzzer, numbers, *, allowance, on_failure=print):
    """Run cases in batches; returns (Counter of outcomes, largest MiB of a process)."""
    outcomes, peak, numbers = Counter(), 0.0, list(numbers)
    while numbers:
        batch, running = numbers[:BATCH], None

        def work(pipe, batch=batch):
            run_batch(fuzzer, batch, pipe, allowance)

        for result in in_child(work):
            if isinstance(result, int):
                if running is not None:
                    outcomes["DEATH"] += 1
                    on_failure(f"case {running}: the process ended with {result}")
                    numbers = numbers[numbers.index(running) + 1 :]
                else:
                    numbers = numbers[len(batch) :]
            elif result[1] == "started":
                running = result[0]
            else:
                number, outcome, message, used = result
                running, peak = None, max(peak, used)
                outcomes[outcome] += 1
                if message:
                    on_failure(f"case {number}: {message}")
    return outcomes, peak


def good_memory(fuzzer):
    """Largest resident MiB of a process that loads and scores with every good model."""

    def work(pipe):
        with os.fdopen(pipe, "w") as out:
            for kind in range(len(fuzzer.models)):
                assert fuzzer.judge(fuzzer.write_good(kind)) == "scored"
            print(json.dumps(["good", peak_memory()]), file=out)

    first, status = in_child(work)
    if status:
        raise RuntimeError("a good model is refused")
    return first[1]


def main():
    """Run the cases and print what came of them; the exit status is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=20_000, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one alone and keep its files")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    arguments = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="skhgad-models-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzer = ModelFuzzer(arguments.seed, folder)
        if arguments.case is not None:
            samples, names = fuzzer.write(arguments.case)
            print(*names)
            print(fuzzer.judge(samples))
            return 0
        good = good_memory(fuzzer)
        start = time.perf_counter()
        numbers = range(arguments.first, arguments.first + arguments.models)
        # Threads and allocators reserve addresses that they never fill: twice the limit of what
        # is resident, which is judged at the end.
        outcomes, peak = fuzz_models(
            fuzzer, numbers, allowance=2 * MEMORY, on_failure=lambda text: print(text, flush=True)
        )
    failures = outcomes["FAILURE"] + outcomes["DEATH"]
    figures = {
        "models": arguments.models,
        "seed": arguments.seed,
        "deaths": outcomes["DEATH"],
        "undocumented errors": outcomes["FAILURE"],
        "seconds": round(time.perf_counter() - start),
        "good models, MiB": round(good),
        "peak memory, MiB": round(peak),
        "outcomes": dict(outcomes.most_common()),
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failures or peak - good > MEMORY / 2**20 else 0


if __name__ == "__main__":
    sys.exit(main())
