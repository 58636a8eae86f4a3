"""One fit by two processes against the same fit by one.

The module is also the program of those processes, ``python test_processes.py RANK FOLDER``, which
run every scenario below together and leave what they found in FOLDER. They meet in a file. With
a third argument, "kill" or "stop", the second process ends in the middle of a fit.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed, nn

from skhgad import HGADDetector, hgad_loss, images
from skhgad.callbacks import Callback
from skhgad.command_line.main import main
from skhgad.devices import resolve_device
from skhgad.fitting import synthetic_anomalies
from skhgad.fitting.feature_cache import FeatureCache
from skhgad.fitting.fit import fit_detector
from skhgad.fitting.processes import ALONE, Processes, launched, leave_group
from skhgad.fitting.same_call import comparable

pytestmark = pytest.mark.once
SIZE = 2
TIMEOUT = 280  # seconds
SHORT_TIMEOUT = 15  # of a group that loses a process
# bfloat16 rounds the gradient of each process's images by itself; where it is near zero, its sign,
# and with it Adam's first step, may differ.
EXACT = {"mixed_precision": False}


class TwoStages(nn.Module):
    """A random backbone with maps of strides 8 and 16, whose weights differ in each process."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 6, 8, 8), nn.Conv2d(6, 8, 2, 2)])

    def forward(self, x):
        fine = torch.tanh(self.stages[0](x))
        return [fine, torch.tanh(self.stages[1](fine))]


def write_images(folder):
    """41 files of three products, one of them with so few that it cannot be calibrated."""
    rng = np.random.default_rng(0)
    for product, n in {"bolt": 19, "nut": 19, "clip": 3}.items():
        color = rng.uniform(60, 180, 3)
        place = folder / "products" / product / "train" / "good"
        place.mkdir(parents=True)
        for i in range(n):
            pixels = np.clip(rng.normal(color, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02}.png")


def files_of(folder):
    paths = sorted((folder / "products").glob("*/train/good/*.png"))
    return paths, [path.parts[-4] for path in paths]


def vectors(n_per_class=30):
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(6 * k, 1 + k / 2, (n_per_class, 4)) for k in range(3)])


# ---------------------------------------------------------------- scenarios


def fitted_state(detector, X):
    """Everything a fit leaves, as arrays; the order of calibration samples means nothing."""
    state = {f"model.{name}": t.numpy() for name, t in detector.model_.model.state_dict().items()}
    order = np.lexsort(
        (detector.model_.calibration.given_scores, detector.model_.calibration.codes)
    )
    for name, values in detector.model_.calibration._asdict().items():
        state[f"calibration.{name}"] = values[order]
    for name in detector.history_[0] if detector.history_ else ():
        state[f"history.{name}"] = np.array([record[name] for record in detector.history_])
    return state | {"offset": detector.offset_, "scores": detector.score_samples(X)}


def fit_images(folder, roi=None, n_known=0, n_each=None, **parameters):
    """Batches of two, so that every other step leaves a process without an image of its own.

    The first `n_known` images are known anomalies. `n_each` in a row are of one part; None = each.
    """
    paths, labels = files_of(folder)
    groups = None if n_each is None else [f"{y} {i // n_each}" for i, y in enumerate(labels)]
    labels[:n_known] = ["-1"] * n_known
    torch.manual_seed(Processes.current().rank)  # the first process has the weights that count
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = HGADDetector(
            TwoStages(), out_indices=(0, 1), image_size=32, batch_size=2, n_blocks=2,
            position_channels=8, random_state=0,
            **(EXACT | {"n_components": 3, "max_iter": 1} | parameters),
        ).fit(paths, labels, roi=roi, groups=groups)  # fmt: skip
    assert not n_known or sum(found.n_anomalies for found in detector.known_anomalies_) == n_known
    found = fitted_state(detector, paths)
    return found | {"n_warnings": sum("fewer than 5" in str(w.message) for w in caught)}


def fit_vectors(folder, groups=None, **parameters):
    parameters = {"random_state": 0, "max_iter": 4, "batch_size": 16, **EXACT, **parameters}
    return fitted_state(HGADDetector(**parameters).fit(vectors(), groups=groups), vectors())


def fit_known_anomalies():
    known = vectors()[:12] + [3, 0, 0, 0]
    X = np.concatenate([vectors()[:30], vectors()[30:60], known])
    y = np.repeat(["bolt", "nut", "-1"], [30, 30, 12])
    detector = HGADDetector(random_state=0, n_components=1).fit(X, y)
    state = fitted_state(detector, X)
    assert "model.defect_terms.0.directions" in state
    return state


REGION = np.arange(32) * np.ones((32, 1)) < 20
SCENARIOS = {
    "images": fit_images,
    "region": lambda folder: fit_images(folder, REGION),
    "tiles": lambda folder: fit_images(
        folder,
        {"bolt": REGION, "clip": REGION.T},
        5,
        tile_size=20,
        max_iter=0,
        n_components=1,
        contamination=0.1,
    ),
    "synthetic": lambda folder: fit_with_synthetic_anomalies(folder),
    "synthetic, a region": lambda folder: fit_with_synthetic_anomalies(folder, REGION),
    "published": lambda folder: fit_images(
        folder, start="published", class_covariance=False, map_normalization="exponential"
    ),
    "mixed": lambda folder: fit_images(folder, mixed_precision=True),
    "vectors": lambda folder: fit_vectors(folder, contamination=0.05),
    "untrained": lambda folder: fit_vectors(folder, max_iter=0, n_components=1),
    "discovered": lambda folder: fit_vectors(folder, n_classes=3),
    "known anomalies": lambda folder: fit_known_anomalies(),
    "parts in pictures": lambda folder: fit_images(folder, n_each=2, max_iter=0, n_components=1),
    "parts": lambda folder: fit_vectors(folder, groups=np.arange(90) // 2, max_iter=0),
    "spilled": lambda folder: fit_vectors(folder, cache_budget=0),
}


# What a parameter is in the one process and in the other.
DIFFERENT = {
    "clamp": (1.9, 2.0),
    "out_indices": ((2, 3, 4), (2, 3)),
    "weights": ("/here/a.pth", "/there/b.pth"),
    "backbone": (TwoStages(), nn.Identity()),
    "random_state": (0, 1),
    "loss": (None, lambda step: step.z.square().mean()),
}


def reads(folder):
    """Numbers of the files that this process decodes in one fit."""
    seen, read = [], images.ImageSource.read

    def noted(source, i):
        seen.append(i)
        return read(source, i)

    images.ImageSource.read = noted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        HGADDetector(TwoStages(), out_indices=(0,), image_size=32, max_iter=0, n_blocks=0).fit(
            *files_of(folder)
        )
    images.ImageSource.read = read
    return seen


def message_of(*data, **parameters):
    """Type and text of the error that a fit raises, or ""."""
    try:
        HGADDetector(**{"max_iter": 1, "n_blocks": 1, **parameters}).fit(*data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class RaisesAtTheEnd(Callback):
    """Counts passes; raises at the end."""

    n_passes = 0

    def on_pass_end(self, info):
        self.n_passes += 1

    def on_fit_end(self, detector, info):
        raise OverflowError(f"told of {self.n_passes} passes and {info.n_normals}")


def fit_with_synthetic_anomalies(folder, roi=None):
    """Six of the 19 images of two products are enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_anomalies, "_NORMALS_FOR_ONE", 3)
        found = fit_images(folder, roi, fuse_stages=False, max_iter=0, n_components=1)
    assert (found["model.level_weights"] != 1).any()
    return found


def told():
    """What a fit raises whose callback raises, and the passes that this process was told of."""
    callback = RaisesAtTheEnd()
    message = message_of(vectors(), callbacks=callback, max_iter=2, random_state=0)
    return message, str(callback.n_passes)


def fit_on_the_command_line(folder, rank):
    """What ``torchrun -m skhgad fit`` prints in this process; the rendezvous is a file again."""
    join = distributed.init_process_group
    distributed.init_process_group = lambda **given: join(
        **rendezvous(folder / "second", rank), **given
    )
    os.environ["TORCHELASTIC_RUN_ID"] = "skhgad"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(
            ["fit", str(folder / "products"), "--out", str(folder / f"model{rank}"), "--classes",
             "bolt", "--image-size", "32", "--set", "max_iter=1", "--set", "n_blocks=1"]
        )  # fmt: skip
    return status, printed.getvalue()


def rendezvous(path, rank):
    return {"backend": "gloo", "init_method": path.as_uri(), "rank": rank, "world_size": SIZE}


def work(rank, folder):
    """Run everything as process `rank` of the group."""
    distributed.init_process_group(**rendezvous(folder / "first", rank))
    for name, scenario in SCENARIOS.items():
        np.savez(folder / f"{name}{rank}.npz", **scenario(folder))
    np.savez(folder / f"no_seed{rank}.npz", **fit_vectors(folder, random_state=None))
    paths, labels = files_of(folder)
    found = {"reads": reads(folder)}
    broken = folder / "broken.png"
    small = {"backbone": TwoStages(), "out_indices": (0,), "image_size": 32}
    found["broken"] = message_of([*paths[:7], broken], **small)  # 7 belongs to process 1
    found["too_few"] = message_of(vectors()[:1])
    found["shards"] = message_of(vectors()[rank::SIZE])
    found["shards_of_files"] = message_of(paths[rank:38:SIZE], labels[rank:38:SIZE], **small)
    found["one_is_wrong"] = message_of(vectors(), max_iter=-1 if rank else 1)
    for name, values in DIFFERENT.items():
        found[f"different_{name}"] = message_of(vectors(), **{name: values[rank]})
    found["own"] = message_of(vectors(), random_state=0, n_jobs=1 + rank, cache_budget=rank << 20)
    found["told"] = told()
    leave_group()
    found["status"], found["printed"] = fit_on_the_command_line(folder, rank)
    np.savez(folder / f"found{rank}.npz", **found)


def be_lost(rank, folder, end):
    """Fit until process 1 ends after the first pass; note what the fit of process 0 raises."""
    where = rendezvous(folder / "lost", rank)
    distributed.init_process_group(**where, timeout=timedelta(seconds=SHORT_TIMEOUT))

    def on_pass(info, levels):
        if rank:
            os.kill(os.getpid(), signal.SIGKILL if end == "kill" else signal.SIGSTOP)

    try:
        fit_detector(HGADDetector(random_state=0, max_iter=4), vectors(), on_pass=on_pass)
    except RuntimeError as error:
        (folder / "error").write_text(str(error))
    os._exit(0)  # torch would wait for the lost process


# ---------------------------------------------------------------- tests


def started(folder, *arguments):
    """Start the processes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # the machine may have no other
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(SIZE)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What both processes found: arrays by process and scenario; and the folder."""
    folder = tmp_path_factory.mktemp("distributed")
    write_images(folder)
    (folder / "broken.png").write_bytes(b"no image")
    workers = started(folder)
    try:
        said = [worker.communicate(timeout=TIMEOUT)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * SIZE, "\n".join(said)
    return folder, [
        {path.stem[:-1]: dict(np.load(path)) for path in folder.glob(f"*{rank}.npz")}
        for rank in range(SIZE)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_learn_what_one_learns(together, name):
    folder, (found, _) = together
    expected = SCENARIOS[name](folder)
    assert expected.keys() == found[name].keys()
    # Features in half precision are stored relative to a process's own first block.
    tolerance = 1e-2 if name in ("spilled", "mixed") else 1e-4
    for key, values in expected.items():
        # Rounded up by one process, and down by two; half precision is coarser than two bytes.
        unit = 16 if name == "spilled" else 1
        one = unit if key.endswith("nearest.vectors") else 1e-3 if key.endswith("whiteners") else 0
        np.testing.assert_allclose(
            found[name][key], values, rtol=tolerance, atol=tolerance + one, err_msg=key
        )


@pytest.mark.parametrize("name", [*SCENARIOS, "no_seed"])
def test_all_processes_hold_the_same_model(together, name):
    _, (first, second) = together
    for key, values in first[name].items():
        if key != "n_warnings":
            np.testing.assert_array_equal(second[name][key], values, err_msg=key)


def test_only_the_first_process_warns(together):
    _, (first, second) = together
    assert (first["images"]["n_warnings"], second["images"]["n_warnings"]) == (1, 0)


def test_each_image_is_decoded_by_one_process(together):
    _, found = together
    assert [sorted(own["found"]["reads"]) for own in found] == [
        [*range(0, 41, 2)],
        [*range(1, 41, 2)],
    ]


def messages(together, name):
    return [str(own["found"][name]) for own in together[1]]


def test_a_file_that_one_process_cannot_read_stops_all(together):
    first, second = messages(together, "broken")
    assert first.startswith("RuntimeError: process 1 of 2 failed with ValueError: X[7]")
    assert second.startswith("ValueError: X[7]") and "broken.png" in second


def test_the_first_process_alone_calls_callbacks_and_an_error_stops_all(together):
    first, second = (own["found"]["told"].tolist() for own in together[1])
    assert first == ["OverflowError: told of 2 passes and {0: 90}", "2"]
    assert second == [f"RuntimeError: process 0 of 2 failed with {first[0]}", "0"]


def test_a_parameter_that_is_wrong_in_one_process_stops_all(together):
    first, second = messages(together, "one_is_wrong")
    assert first.startswith("RuntimeError: process 1 of 2 failed with ValueError: max_iter")
    assert second.startswith("ValueError: max_iter")


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_parameter_that_differs_is_an_error_in_all_that_names_it(together, name):
    for message in messages(together, f"different_{name}"):
        assert message.startswith(f"ValueError: {name} is not the same in all processes: ")
        assert "in process 0, " in message and "in process 1. Give fit the same" in message


def test_what_belongs_to_a_machine_may_differ(together):
    assert messages(together, "own") == ["", ""]


def test_parameters_are_compared_by_what_they_mean():
    one, same, other = (np.random.RandomState(seed) for seed in (0, 0, 1))
    assert comparable("random_state", one) == comparable("random_state", same)
    assert comparable("random_state", one) != comparable("random_state", other)
    assert comparable("random_state", np.random) is comparable("random_state", None) is None
    assert comparable("loss", hgad_loss) == "skhgad.fitting.objective.hgad_loss"
    assert comparable("betas", [0.9, np.float64(0.5)]) == comparable("betas", (0.9, 0.5))
    assert comparable("weights", Path("/here/a")) == comparable("weights", "/there/a")


@pytest.mark.once
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_lost_process_is_an_error_in_the_others(tmp_path, end):
    first, second = workers = started(tmp_path, end)
    try:
        said = first.communicate(timeout=TIMEOUT)[0]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert (tmp_path / "error").exists(), said
    message = (tmp_path / "error").read_text()
    lost = "another one"
    if sys.platform == "linux":
        state = {"kill": "ended", "stop": "stopped"}[end]
        lost = f"process 1 ({state}, id {second.pid})"
    assert message.startswith(f"process 0 of 2 lost {lost}, which was killed, or let it wait")


def test_processes_of_torchrun_wait_as_long_as_documented(monkeypatch):
    joined = []
    monkeypatch.setattr(distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(distributed, "init_process_group", lambda **given: joined.append(given))
    monkeypatch.setattr("skhgad.fitting.processes.leave_group", lambda: None)
    with launched():
        assert joined == [{"timeout": timedelta(minutes=30)}]
    guide = (Path(__file__).parents[2] / "docs/guide.rst").read_text()
    assert "30 minutes" in guide


@pytest.mark.parametrize("name", ["shards", "shards_of_files"])
def test_data_cut_beforehand_is_refused(together, name):
    for message in messages(together, name):
        assert message.startswith("ValueError: X and y are not the same in all processes")


def test_fewer_samples_than_processes_are_refused(together):
    for message in messages(together, "too_few"):
        assert message.startswith("ValueError: X has 1 normal samples for 2 processes")


def test_command_line_prints_and_saves_once(together):
    folder, found = together
    assert [int(own["found"]["status"]) for own in found] == [0, 0]
    first, second = messages(together, "printed")
    assert "19 normal images" in first and "fitted in" in first
    assert second == ""
    assert not (folder / "model1").exists()
    paths, _ = files_of(folder)
    assert np.isfinite(HGADDetector.load(folder / "model0").score_samples(paths[:3])).all()


def test_without_a_group_one_process_is_alone():
    assert Processes.current() is ALONE
    with launched() as processes:
        assert processes is ALONE
    with pytest.raises(KeyError), ALONE.agree():
        raise KeyError


def test_shares_are_disjoint_and_complete():
    rows = np.random.default_rng(0).permutation(31)[:20]
    shares = [Processes(rank, 3).own(rows) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == sorted(rows)


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_cache_holds_a_share_under_the_numbers_of_the_whole(budget):
    x = torch.randn(11, 4, 3, generator=torch.Generator().manual_seed(0))
    for rank in range(3):
        processes = Processes(rank, 3)
        own = processes.own(np.arange(11))
        with FeatureCache(11, [(4, 3)], budget=budget, processes=processes) as cache:
            cache.write(0, [x[own]])
            assert len(cache) == 11
            torch.testing.assert_close(
                cache.read(0, own[::-1]), x[own[::-1].copy()], atol=3e-3, rtol=0
            )


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == torch.device("cuda")
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert resolve_device("auto") == torch.device("cuda", rank)


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        be_lost(rank, folder, sys.argv[3])
    work(rank, folder)
