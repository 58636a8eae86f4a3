"""Model folders: what `load` refuses, and what `save` leaves behind when it fails."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from skhgad import HGADDetector
from skhgad.features import extractor
from skhgad.features.backbones import file_sha256
from skhgad.storage import model_folder as model_folder_module
from skhgad.storage import untrusted
from skhgad.storage.model_folder import load_state, save_state

X = np.random.default_rng(0).normal(size=(20, 3))


@pytest.fixture(scope="module")
def detector():
    return HGADDetector(max_iter=0, n_blocks=1, n_components=2, random_state=0).fit(X)


@pytest.fixture
def model_folder(detector, tmp_path):
    detector.save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    manifest = json.loads((folder / "model.json").read_text())
    change(manifest)
    (folder / "model.json").write_text(json.dumps(manifest))


def store(folder, content):
    """Put other tensors there, with the hash that goes with them."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    edit(folder, lambda m: m["sha256"].update({path.name: file_sha256(path)}))


class Trap:
    """Tells on whoever unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def set_parameters(**parameters):
    return lambda folder: edit(folder, lambda m: m["model"]["parameters"].update(parameters))


def set_fitted(**fitted):
    return lambda folder: edit(folder, lambda m: m["model"]["fitted"].update(fitted))


def set_tensors(**tensors):
    """Change tensors and write the hash that goes with them."""

    def damage(folder):
        path = folder / "model.safetensors"
        stored = safetensors.torch.load_file(path)
        stored.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})
        store(folder, safetensors.torch.save({n: t for n, t in stored.items() if t is not None}))

    return damage


# ---------------------------------------------------------------- what load refuses


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "does not match the hash"),
        (lambda f: os.truncate(f / "model.safetensors", 500), "does not match the hash"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "does not match the hash"),
        (lambda f: (f / "model.safetensors").unlink(), "no skhgad model"),
        (lambda f: (f / "model.json").rename(f / "config.json"), "no skhgad model"),
        (lambda f: (f / "model.json").write_text("{"), "no model description"),
        (lambda f: (f / "model.json").write_text("[1]"), "no model description"),
        (lambda f: (f / "model.json").write_bytes(pickle.dumps(Trap())), "no model description"),
        (lambda f: store(f, pickle.dumps(Trap())), "no safetensors file"),
        (lambda f: (f / "model.json").write_text("[" * 100_000), "no model description"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\xfa"), "no model description"),
        (lambda f: os.truncate(f / "model.json", (64 << 20) + 1), "too large for a model desc"),
        (lambda f: edit(f, lambda m: m.update(version=9)), "format version 9"),
        (lambda f: edit(f, lambda m: m.update(format="other")), "unknown format 'other'"),
        (lambda f: edit(f, lambda m: m.pop("sha256")), "does not match the hash"),
        (lambda f: edit(f, lambda m: m.update(model=[])), "no model description"),
        (lambda f: edit(f, lambda m: m["model"]["fitted"].pop("offset")), "inconsistent model"),
        (set_parameters(evil=1), "inconsistent model"),
        (set_parameters(n_blocks=-1), "cannot be loaded: n_blocks"),
        (set_parameters(backbone=None), "fitted with a module as its backbone"),
        (set_fitted(n_features_in=4), "not those of feature vectors"),
        (set_fitted(classes=["b", "a"]), "not sorted"),
        (set_fitted(classes=[]), "cannot be loaded"),
        (set_fitted(offset=[1]), "inconsistent model"),
        (set_fitted(n_iter=1e999), "inconsistent model"),
        (set_fitted(history=[3]), "inconsistent model"),
        (set_tensors(model__score_scale=None), "inconsistent model"),
        (set_tensors(model__score_scale=torch.ones(7)), "inconsistent model"),
        (set_tensors(model__likelihood_profile_0=torch.ones(7)), "likelihood_profile_0 has shape"),
        (set_tensors(stranger=torch.ones(7)), "inconsistent model"),
        (set_tensors(calibration__codes=torch.full((4,), 5)), "calibration"),
        (set_tensors(calibration__scores=torch.ones(3, dtype=torch.float64)), "calibration"),
    ],
)
def test_damaged_models_are_refused(model_folder, damage, message):
    damage(model_folder)
    with pytest.raises(ValueError, match=message) as caught:
        HGADDetector.load(model_folder)
    assert str(model_folder) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        set_parameters(n_blocks=10**9),
        set_parameters(n_components=10**9),
        set_parameters(hidden_ratio=1e9),
        set_fitted(levels=[[10**7, 1, 1]]),
        set_fitted(levels=[[3, 10**6, 10**6]]),
        set_fitted(levels=[[3, 1, 1]] * 10**4),
        set_fitted(classes=list(range(10**5))),
        lambda f: (
            set_parameters(n_components=1)(f),
            set_fitted(classes=list(range(10**6)))(f),
            set_tensors(model__levels__0__mixture__offsets=torch.empty(10**6, 0, 3))(f),
        ),
        set_tensors(model__levels__0__mixture__offsets=torch.empty(0, 10**12, 3)),
        lambda f: (
            set_parameters(n_blocks=10**9)(f),
            set_tensors(model__levels__0__flow__blocks__hidden_weight=torch.empty(10**9, 0, 2))(f),
        ),
        lambda f: (set_parameters(image_size=10**7)(f), set_fitted(images=True)(f)),
        lambda f: (set_parameters(image_scales=[1e9])(f), set_fitted(images=True)(f)),
        # 350 million weights, of which none is stored
        lambda f: (set_parameters(backbone="convnext_xlarge")(f), set_fitted(images=True)(f)),
    ],
)
def test_sizes_that_are_only_declared_take_no_memory(model_folder, damage):
    resource = pytest.importorskip("resource")
    damage(model_folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="cannot be loaded|inconsistent"):
        HGADDetector.load(model_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_a_giant_tensor_is_refused_by_its_header(model_folder):
    giant = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    store(model_folder, len(giant).to_bytes(8, "little") + giant + bytes(64))
    with pytest.raises(ValueError, match="no safetensors file"):
        HGADDetector.load(model_folder)


def test_files_outside_the_folder_are_not_read(model_folder, tmp_path):
    shutil.move(model_folder / "model.safetensors", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", model_folder / "model.safetensors")
    with pytest.raises(ValueError, match="link to a file outside the folder"):
        HGADDetector.load(model_folder)
    os.rename(tmp_path / "elsewhere", model_folder / "inside")
    (model_folder / "model.safetensors").unlink()
    os.symlink("inside", model_folder / "model.safetensors")
    assert HGADDetector.load(model_folder).n_features_in_ == 3
    os.symlink(model_folder, tmp_path / "link")
    assert HGADDetector.load(tmp_path / "link").n_features_in_ == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_model(model_folder):
    (model_folder / "model.json").unlink()
    os.mkfifo(model_folder / "model.json")
    with pytest.raises(ValueError, match="no skhgad model"):
        HGADDetector.load(model_folder)


@pytest.mark.parametrize(
    "backbone", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "/etc/passwd", "../weights"]
)
def test_a_backbone_is_a_name_and_no_place(model_folder, backbone):
    set_parameters(backbone=backbone)(model_folder)
    set_fitted(images=True)(model_folder)
    with pytest.raises(ValueError, match="not a timm model"):
        HGADDetector.load(model_folder)


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory):
    """A detector whose backbone makes index tables, which its files do not hold."""
    images = np.random.default_rng(1).random((8, 64, 64, 3))
    detector = HGADDetector(
        "tiny_vit_5m_224", weights=None, out_indices=(2, 3), image_size=64, max_iter=0
    ).fit(images)
    folder = tmp_path_factory.mktemp("transformer") / "model"
    detector.save(folder)
    loaded = HGADDetector.load(folder)
    np.testing.assert_array_equal(loaded.score_samples(images), detector.score_samples(images))
    return folder


@pytest.mark.parametrize(
    ("backbone", "difference"),
    [
        ("tiny_vit_11m_224", r"\(5, 196\) is stored, \(8, 196\) is needed"),
        ("resnet10t", r"none is stored, \(.+\) is needed"),
    ],
)
def test_another_backbone_than_the_stored_weights(
    transformer_folder, tmp_path, monkeypatch, backbone, difference
):
    folder = shutil.copytree(transformer_folder, tmp_path / "model")
    set_parameters(backbone=backbone)(folder)
    monkeypatch.delattr(extractor.FeatureExtractor, "__init__")  # it would be the wrong one
    with pytest.raises(ValueError, match=f"does not fit the stored weights.*{difference}"):
        HGADDetector.load(folder)


def test_tables_of_a_backbone_are_limited(transformer_folder, monkeypatch):
    monkeypatch.setattr(untrusted, "LARGEST_TABLES", 1000)
    with pytest.raises(ValueError, match="image_size=64 is too large for 'tiny_vit_5m_224'"):
        HGADDetector.load(transformer_folder)


_watched = []  # what happened while a list stands here; audit hooks cannot be removed


def watch(event, arguments):
    if _watched and event in {
        "open", "os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "os.system", "os.exec",
        "socket.connect", "socket.getaddrinfo", "exec", "pickle.find_class",
    }:  # fmt: skip
        _watched[-1].append((event, str(arguments[0])))


def test_load_touches_nothing_but_the_folder(model_folder, tmp_path):
    set_parameters(memory=str(tmp_path / "planted"), weights=str(tmp_path / "w"))(model_folder)
    HGADDetector.load(model_folder)  # imports are over
    sys.addaudithook(watch)
    happened = []
    _watched.append(happened)
    try:
        loaded = HGADDetector.load(model_folder)
    finally:
        _watched.clear()
    opened = {str(model_folder / name) for name in ("model.json", "model.safetensors")}
    assert {what for _, what in happened} == opened
    assert loaded.memory is None  # joblib would unpickle what a stranger put there
    loaded.score_samples(X)
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_another_module_as_backbone_is_told(tmp_path):
    class Pool(nn.Module):
        def __init__(self, side):
            super().__init__()
            self.side = side

        def forward(self, x):
            return [nn.functional.avg_pool2d(x, self.side)]

    images = np.random.default_rng(1).random((8, 16, 16, 3))
    fitted = HGADDetector(Pool(8), out_indices=(0,), image_size=16, max_iter=0).fit(images)
    fitted.save(tmp_path / "model")
    same = HGADDetector.load(tmp_path / "model", backbone=Pool(8))
    np.testing.assert_array_equal(same.score_samples(images), fitted.score_samples(images))
    other = HGADDetector.load(tmp_path / "model", backbone=Pool(4))
    with pytest.raises(ValueError, match="load the model with the backbone it was fitted with"):
        other.score_samples(images)


# ---------------------------------------------------------------- what save leaves behind


def test_save_replaces_models_and_nothing_else(model_folder, tmp_path):
    other = HGADDetector(max_iter=0).fit(np.random.default_rng(1).normal(size=(20, 5)))
    other.save(model_folder)
    assert HGADDetector.load(model_folder).n_features_in_ == 5
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ValueError, match="is no skhgad model"):
        other.save(tmp_path / "letters")
    with pytest.raises(ValueError, match="is no skhgad model"):
        other.save(tmp_path / "letters" / "a.txt")
    (model_folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes.txt' beside a model"):
        other.save(model_folder)
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"
    assert (model_folder / "notes.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError):
        HGADDetector.load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a b", "modèle ünï 模型", "x" * 250, "new/and/deep"])
def test_awkward_names(detector, tmp_path, name):
    for _ in range(2):
        detector.save(tmp_path / name)
        loaded = HGADDetector.load(tmp_path / name)
        np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert os.listdir(tmp_path) == [name.split("/")[0]]


def test_a_link_to_a_model_stays_one(detector, model_folder, tmp_path, monkeypatch):
    os.symlink("model", tmp_path / "current")
    detector.save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    monkeypatch.chdir(model_folder)
    detector.save(".")
    assert sorted(os.listdir(tmp_path)) == ["current", "model"]
    assert HGADDetector.load(tmp_path / "current").n_features_in_ == 3


def fail_at(monkeypatch, function, number, error):
    """Make the `number`-th call of os.<function> raise `error` in place of doing its work."""
    calls, true = [], getattr(os, function)

    def failing(*args):
        calls.append(args)
        if len(calls) == number:
            raise error
        return true(*args)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("function", "number"),
    [("fsync", 1), ("fsync", 2), ("replace", 2), ("replace", 3)],
)
def test_a_failed_save_leaves_the_old_model_whole(
    detector, model_folder, tmp_path, monkeypatch, function, number, error
):
    before = (model_folder / "model.safetensors").read_bytes()
    newer = HGADDetector(max_iter=0).fit(X[:, :2])
    fail_at(monkeypatch, function, number, error)
    with pytest.raises(type(error)):
        newer.save(model_folder)
    assert (model_folder / "model.safetensors").read_bytes() == before
    assert HGADDetector.load(model_folder).offset_ == detector.offset_
    assert os.listdir(tmp_path) == ["model"]
    newer.save(model_folder)
    assert HGADDetector.load(model_folder).n_features_in_ == 2


def test_a_full_disk_leaves_the_old_model_whole(detector, model_folder, tmp_path):
    resource = pytest.importorskip("resource")
    newer = HGADDetector(max_iter=0).fit(np.random.default_rng(1).normal(size=(20, 9)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond 1000 bytes
    try:
        for place in (model_folder, tmp_path / "other"):
            with pytest.raises(OSError, match=f"File too large: '{place}'"):
                newer.save(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert HGADDetector.load(model_folder).offset_ == detector.offset_
    assert os.listdir(tmp_path) == ["model"]


def test_unwritable_places(detector, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match=f"'{tmp_path / 'file'}'"):
        detector.save(tmp_path / "file" / "model")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="locked"):
            detector.save(tmp_path / "locked" / "model")
    assert (tmp_path / "file").read_text() == "text"


def test_the_folder_has_the_rights_of_any_new_folder(detector, tmp_path):
    detector.save(tmp_path / "model")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---------------------------------------------------------------- several at once


def save_often(folder, number, times):
    for _ in range(times):
        save_state(folder, {"number": torch.full((50,), number)}, {"number": number})


def check_whole(folder):
    tensors, description = load_state(folder)
    assert (tensors["number"] == description["number"]).all()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("existing", [True, False])
def test_saving_from_several_processes_leaves_one_whole_model(tmp_path, existing):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    folder = tmp_path / "model"
    if existing:
        save_often(folder, 0, 1)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=save_often, args=(folder, n, 40)) for n in (1, 2, 3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if existing or folder.exists():
            check_whole(folder)  # also in the middle of it: a reader finds a model, and no mix
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    check_whole(folder)
    assert os.listdir(tmp_path) == ["model"]
    assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]


def test_saving_from_several_threads_leaves_one_whole_model(tmp_path):
    threads = [
        threading.Thread(target=save_often, args=(tmp_path / "model", n, 15)) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_whole(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_that_others_replace_without_end_is_an_error(tmp_path, monkeypatch):
    save_often(tmp_path / "model", 0, 1)

    def occupied(*_):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    def retired(source, target):
        return occupied() if "old" not in str(target) else None

    monkeypatch.setattr(model_folder_module.os, "replace", retired)
    with pytest.raises(OSError, match="replaced by others 50 times"):
        save_often(tmp_path / "model", 1, 1)
