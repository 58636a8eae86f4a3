"""Model folders: what `load` refuses, and what `save` leaves behind when it fails or is killed."""

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import tracemalloc
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import skhgad
from skhgad import HGADDetector
from skhgad.features import extractor
from skhgad.storage import model_folder as storage
from skhgad.storage import untrusted
from skhgad.storage.detector_state import pack
from skhgad.storage.model_folder import load_state, model_hash, save_state, saved_hash

FILE = "model.safetensors"
FILES = ["MODEL_CARD.md", FILE]
LIMIT = 8 << 20  # bytes of a header
X = np.random.default_rng(0).normal(size=(20, 3))


@pytest.fixture(scope="module")
def detector():
    return HGADDetector(max_iter=0, n_blocks=1, n_components=2, random_state=0).fit(X)


@pytest.fixture
def model_folder(detector, tmp_path):
    detector.save(tmp_path / "model")
    return tmp_path / "model"


def split(folder):
    """Take a model file apart: (header, description, bytes of the tensors)."""
    content = (folder / FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["description"]), content[8 + length :]


def join(folder, header, data):
    text = json.dumps(header).encode()
    (folder / FILE).write_bytes(len(text).to_bytes(8, "little") + text + data)


def put_description(folder, text, tensors=None):
    """Write another description, and other tensors, with the hash that goes with them."""
    tensors = safetensors.torch.load_file(folder / FILE) if tensors is None else tensors
    metadata = {"description": text, "sha256": model_hash(text, tensors)}
    (folder / FILE).write_bytes(safetensors.torch.save(tensors, metadata))


def edit(folder, change):
    description = split(folder)[1]
    change(description)
    put_description(folder, json.dumps(description))


def edit_header(folder, change):
    """Change the header and nothing else: the hash stays."""
    header, _, data = split(folder)
    change(header)
    join(folder, header, data)


class Trap:
    """Tells on whoever unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def set_parameters(**parameters):
    return lambda folder: edit(folder, lambda m: m["parameters"].update(parameters))


def set_fitted(**fitted):
    return lambda folder: edit(folder, lambda m: m["fitted"].update(fitted))


as_images = set_fitted(images=True, n_features_in=None)


def set_tensors(**tensors):
    """Change tensors and write the hash that goes with them."""

    def damage(folder):
        stored = safetensors.torch.load_file(folder / FILE)
        stored.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})
        stored = {name: tensor for name, tensor in stored.items() if tensor is not None}
        put_description(folder, json.dumps(split(folder)[1]), stored)

    return damage


def replace_content(content):
    return lambda folder: (folder / FILE).write_bytes(content)


def replace_description(text):
    return lambda folder: put_description(folder, text)


# ---------------------------------------------------------------- what load refuses


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_content(b"no"), "damaged, or no skhgad model: a header of"),
        (replace_content(b""), "damaged, or no skhgad model"),
        (replace_content(pickle.dumps(Trap())), "damaged, or no skhgad model"),
        (replace_content(safetensors.torch.save({"a": torch.ones(3)})), "has no description"),
        (lambda f: os.truncate(f / FILE, 500), "a header of .* too large"),
        (lambda f: os.truncate(f / FILE, (f / FILE).stat().st_size - 1), "declares"),
        (lambda f: join(f, [], b""), "damaged, or no skhgad model"),
        (lambda f: edit_header(f, lambda h: h.update(__metadata__=[])), "damaged, or no skhgad"),
        (lambda f: edit_header(f, lambda h: h["__metadata__"].pop("sha256")), "sha256"),
        (
            lambda f: edit_header(f, lambda h: h["__metadata__"].update(sha256="0")),
            "match the hash",
        ),
        (replace_content((10**6).to_bytes(8, "little") + b"[" * 10**6), "damaged, or no skhgad"),
        (lambda f: (f / FILE).unlink(), "is no skhgad model: model.safetensors is missing"),
        (lambda f: (f / FILE).rename(f / "other.safetensors"), "is no skhgad model"),
        (replace_description("{"), "damaged, or no skhgad model"),
        (replace_description("[1]"), "no JSON object"),
        (replace_description("{}"), "has no description"),
        (replace_description("[" * 100_000), "damaged, or no skhgad model"),
        (lambda f: edit(f, lambda m: m.update(version=12)), "version 12; this .* versions 7 to 11"),
        (lambda f: edit(f, lambda m: m.update(format="other")), "unknown format 'other'"),
        (lambda f: edit(f, lambda m: m.pop("parameters")), "inconsistent model"),
        (lambda f: edit(f, lambda m: m.update(fitted=[])), "inconsistent model"),
        (lambda f: edit(f, lambda m: m.update(n_classes=2)), "n_classes .* not those stored"),
        (lambda f: edit(f, lambda m: m.update(n_calibration_samples=1)), "not those stored"),
        (lambda f: edit(f, lambda m: m["fitted"].pop("offset")), "inconsistent model"),
        (
            lambda f: edit(f, lambda m: m["fitted"].update(class_offsets=[["no", 1.0]])),
            "class_offsets names the class 'no'",
        ),
        (
            lambda f: edit(
                f, lambda m: m["fitted"].update(class_offsets=[[m["fitted"]["classes"][0], "1"]])
            ),
            "are no thresholds",
        ),
        (set_parameters(evil=1), "inconsistent model"),
        (set_parameters(n_blocks=-1), "cannot be loaded: n_blocks"),
        (set_parameters(backbone=None), "fitted with a module as its backbone"),
        (set_fitted(n_features_in=4), "not those of feature vectors"),
        (set_fitted(classes=["b", "a"]), "not sorted"),
        (set_fitted(classes=[]), "cannot be loaded"),
        (set_fitted(offset=[1]), "offset must be a finite number"),
        (set_fitted(offset=1e999), "Infinity is not finite"),
        (set_fitted(offset=float("nan")), "NaN is not finite"),
        (set_fitted(offset="nan"), "offset must be a finite number, is 'nan'"),
        (set_fitted(offset="inf"), "offset must be a finite number"),
        (set_fitted(offset=True), "offset must be a finite number"),
        (set_fitted(offset=10**400), "offset must be a finite number"),
        (lambda f: edit(f, lambda m: m["parameters"].pop("clamp")), "lacks the parameters clamp"),
        (lambda f: edit(f, lambda m: m["parameters"].clear()), "lacks .* backbone, .* weights"),
        (set_tensors(model__score_scale=torch.zeros(1)), "score_scale must be positive, is 0"),
        (set_tensors(model__likelihood_scale=-torch.ones(1, 1)), "likelihood_scale must be pos"),
        (set_tensors(model__log_entropy_scale=torch.tensor([torch.nan])), "scale holds nan"),
        (set_tensors(model__score_scale=torch.tensor([torch.inf])), "score_scale is not finite"),
        (set_tensors(model__score_location=torch.tensor([-torch.inf])), "location is not finite"),
        (set_tensors(model__levels__0__start__log_det=torch.tensor(torch.nan)), "det holds nan"),
        (set_tensors(calibration__scores=torch.full((20,), torch.nan).double()), "is not finite"),
        (set_tensors(calibration__typicality=torch.full((20,), -torch.inf).double()), "not finite"),
        (replace_description('{"offset": -1e999}'), "-1e999 is not finite"),
        (set_fitted(history=[3]), "is no list of passes"),
        (set_tensors(model__score_scale=None), "inconsistent model"),
        (set_tensors(model__score_scale=torch.ones(7).double()), "inconsistent model"),
        (set_tensors(model__likelihood_profile_0=torch.ones(7)), "likelihood_profile_0 has shape"),
        (set_tensors(stranger=torch.ones(7)), "inconsistent model"),
        (
            set_tensors(
                model__levels__0__nearest__vectors=torch.zeros(0, 3, dtype=torch.int16),
                model__levels__0__nearest__counts=torch.zeros(1, dtype=torch.int64),
            ),
            "rows of a table are kept, but there are none",
        ),
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
        lambda f: (
            set_parameters(image_size=10**7)(f),
            as_images(f),
        ),
        lambda f: (
            set_parameters(image_scales=[1e9])(f),
            as_images(f),
        ),
        # 350 million weights, of which none is stored
        lambda f: (
            set_parameters(backbone="convnext_xlarge")(f),
            as_images(f),
        ),
    ],
)
def test_sizes_that_are_only_declared_take_no_memory(model_folder, damage):
    resource = pytest.importorskip("resource")
    damage(model_folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="cannot be loaded|inconsistent"):
        HGADDetector.load(model_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


@contextmanager
def at_most(n_bytes):
    """Check how much memory the block takes at a time, of what Python asks for."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


def declare(folder, n_bytes):
    """Let the header declare one tensor of that size."""
    header, _, data = split(folder)
    entry = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}
    join(folder, {"a": entry, "__metadata__": header["__metadata__"]}, data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: os.truncate(f / FILE, 2 << 30),  # sparse: takes nothing on the disk
        lambda f: declare(f, 10**12),
        lambda f: (declare(f, 10**12), os.truncate(f / FILE, 2 << 30)),
        lambda f: edit_header(f, lambda h: h.update(a={"data_offsets": [0, 2 << 30]})),
    ],
)
def test_a_file_of_another_size_than_declared_takes_no_memory(model_folder, damage):
    damage(model_folder)
    with at_most(1 << 20), pytest.raises(ValueError, match=r"declares \d+ bytes of tensors"):
        HGADDetector.load(model_folder)


def test_tensors_of_every_type_come_back(tmp_path):
    # Older versions of safetensors cannot write some.
    names = "bool uint8 int8 int16 int32 int64 bfloat16 float16 float32 float64"
    if tuple(map(int, version("safetensors").split(".")[:2])) >= (0, 8):
        names += " uint16 uint32 uint64 complex64 float8_e4m3fn float8_e5m2"
    tensors = {name: torch.ones(3).to(getattr(torch, name)) for name in names.split()}
    save_state(tmp_path / "model", {**tensors, "none": torch.zeros(0, 2)}, {"a": 1})
    loaded, _ = load_state(tmp_path / "model")
    assert len(loaded) == len(tensors) + 1
    assert all(loaded[name].dtype == t.dtype for name, t in tensors.items())


def test_a_table_whose_rows_are_not_kept_is_saved(tmp_path):
    # More rows of a class than a model keeps. Its tensors of one number then have a stride of 0.
    rows = np.random.default_rng(0).normal(size=(4200, 2))
    detector = HGADDetector(n_components=1, random_state=0).fit(rows)
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(rows[:9]), detector.score_samples(rows[:9]))


def test_the_hash_does_not_depend_on_strides():
    number = torch.tensor([5])
    assert model_hash("{}", {"a": number.as_strided((1,), (0,))}) == model_hash("{}", {"a": number})


def test_a_file_of_another_hash_is_read_in_parts(model_folder):
    declare(model_folder, 1 << 26)
    header_size = 8 + int.from_bytes((model_folder / FILE).read_bytes()[:8], "little")
    os.truncate(model_folder / FILE, header_size + (1 << 26))
    with at_most(4 << 20), pytest.raises(ValueError, match="does not match the hash"):
        HGADDetector.load(model_folder)


def test_tensors_that_share_bytes_are_refused_before_they_are_read(model_folder):
    header, _, data = split(model_folder)
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    join(model_folder, {"a": entry, "b": entry, "__metadata__": header["__metadata__"]}, data)
    with pytest.raises(ValueError, match="declares tensors that overlap"):
        HGADDetector.load(model_folder)


@pytest.mark.parametrize("length", [LIMIT + 1, 2 << 30, 2**64 - 1])
def test_a_header_has_a_limit_that_is_checked_before_it_is_read(model_folder, length):
    with open(model_folder / FILE, "r+b") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(3 << 30)
    with at_most(1 << 20), pytest.raises(ValueError, match=f"a header of {length} bytes is too"):
        HGADDetector.load(model_folder)
    with at_most(1 << 20), pytest.raises(ValueError, match="damaged, or no skhgad model"):
        storage.check_place(model_folder)


def test_what_could_not_be_loaded_is_not_saved(detector, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_state(tmp_path / "model", {}, {"offset": float("inf")})
    monkeypatch.setattr(storage, "_LARGEST_HEADER", 1000)
    with pytest.raises(ValueError, match="too many to be loaded again"):
        detector.save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_the_header_of_a_large_model_is_far_below_the_limit(detector, tmp_path):
    """500 classes with names of 200 characters outside ASCII, 15,000 calibration samples."""
    tensors, description = pack(detector)
    for name in ("scores", "codes", "inferred", "given_scores", "typicality"):
        tensors[f"calibration.{name}"] = torch.zeros(15_000, dtype=torch.float64)
    description["fitted"]["classes"] = [f"{i:03} " + "ß" * 196 for i in range(500)]
    description["fitted"]["history"] = [{f"term {i}": 0.1 + 0.2 for i in range(10)}] * 200
    save_state(tmp_path / "model", tensors, description)
    assert load_state(tmp_path / "model")[1]["fitted"] == description["fitted"]
    header = int.from_bytes((tmp_path / "model" / FILE).read_bytes()[:8], "little")
    assert header < LIMIT / 4


def test_a_file_does_not_choose_threads_and_places(model_folder, tmp_path):
    set_parameters(n_jobs=8006, memory=str(tmp_path))(model_folder)
    loaded = HGADDetector.load(model_folder)
    assert (loaded.n_jobs, loaded.memory) == (None, None)


def replace_text(old, new):
    def change(folder):
        content = (folder / FILE).read_bytes()
        assert len(old) == len(new) and content.count(old) == 1
        (folder / FILE).write_bytes(content.replace(old, new))

    return change


def swap_names(header):
    first, second = "calibration.codes", "calibration.inferred"
    header[first], header[second] = header[second], header[first]
    header["calibration.odd"] = header.pop("model.log_entropy_scale")


@pytest.mark.parametrize(
    "change",
    [
        replace_text(b'\\"n_components\\": 2', b'\\"n_components\\": 3'),
        replace_text(b'\\"n_iter\\": 0', b'\\"n_iter\\": 7'),
        replace_text(b'\\"version\\": 11', b' \\"version\\":11'),
        lambda f: edit_header(f, swap_names),
        lambda f: edit_header(f, lambda h: h["calibration.codes"].update(dtype="F64")),
        lambda f: edit_header(f, lambda h: h["calibration.codes"].update(shape=[4, 5])),
    ],
)
def test_the_hash_covers_description_names_dtypes_and_shapes(model_folder, change):
    assert split(model_folder)[0]["calibration.codes"]["shape"] == [20]
    change(model_folder)
    with pytest.raises(ValueError, match="does not match the hash"):
        HGADDetector.load(model_folder)


def test_the_hash_covers_every_byte_of_every_tensor(model_folder):
    header, _, data = split(model_folder)
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] < entry["data_offsets"][1]:
            changed = bytearray(data)
            changed[entry["data_offsets"][1] - 1] ^= 1
            join(model_folder, header, changed)
            with pytest.raises(ValueError, match="does not match the hash"):
                HGADDetector.load(model_folder)
    join(model_folder, header, data)
    assert HGADDetector.load(model_folder).n_features_in_ == 3


def test_the_hash_is_the_one_that_is_documented():
    """SHA-256 of: the SHA-256 of the tensors in the order of names, a space, the description."""
    tensors = {"b": torch.tensor([[1, 2]]), "a": torch.tensor(0.5), "c": torch.empty(0, 3)}
    content = b"a torch.float32 ()\n" + np.float32(0.5).tobytes()
    content += b"b torch.int64 (1, 2)\n" + np.array([1, 2]).tobytes()
    content += b"c torch.float32 (0, 3)\n"
    expected = hashlib.sha256(f'{hashlib.sha256(content).hexdigest()} {{"ö": 1}}'.encode())
    assert model_hash('{"ö": 1}', tensors) == expected.hexdigest()


def test_the_description_tells_what_the_model_is(detector, model_folder, monkeypatch):
    assert sorted(os.listdir(model_folder)) == FILES
    description = split(model_folder)[1]
    assert (description["format"], description["version"]) == ("skhgad-model", 11)
    assert description["skhgad"] == version("skhgad") == skhgad.__version__
    age = datetime.now(timezone.utc) - datetime.fromisoformat(description["saved"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=10)
    assert (description["n_classes"], description["n_calibration_samples"]) == (1, 20)

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", not_installed)
    detector.save(model_folder)
    assert split(model_folder)[1]["skhgad"] == "unknown"
    assert HGADDetector.load(model_folder).offset_ == detector.offset_


def make_old(folder, version=3):
    """Turn a model into one of version 3: a file of tensors, and one with the description."""
    tensors, description = load_state(folder)
    content = safetensors.torch.save(tensors)
    manifest = {
        "format": "skhgad-model",
        "version": version,
        "sha256": {FILE: hashlib.sha256(content).hexdigest()},
        "model": {name: description[name] for name in ("parameters", "fitted")},
    }
    (folder / FILE).write_bytes(content)
    (folder / "model.json").write_text(json.dumps(manifest, indent=1))


def test_a_model_of_the_older_format_is_refused_by_name(detector, model_folder, tmp_path):
    make_old(model_folder)
    message = "version 3, .* of an older skhgad; .* versions 7 to 11. Fit and save again, or"
    with pytest.raises(ValueError, match=message) as caught:
        HGADDetector.load(model_folder)
    assert str(model_folder) in str(caught.value)
    make_old_version = json.loads((model_folder / "model.json").read_text()) | {"version": 2}
    (model_folder / "model.json").write_text(json.dumps(make_old_version))
    with pytest.raises(ValueError, match="version 2, .* of an older skhgad"):
        HGADDetector.load(model_folder)
    for content in (b"{", b"[]", b'{"format": "other"}', b"[" * 100_000):
        (model_folder / "model.json").write_bytes(content)
        with pytest.raises(ValueError, match="has no description"):
            HGADDetector.load(model_folder)
    os.truncate(model_folder / "model.json", LIMIT + 1)
    with at_most(1 << 20), pytest.raises(ValueError, match="has no description"):
        HGADDetector.load(model_folder)
    shutil.move(model_folder / "model.json", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text(json.dumps(make_old_version))
    os.symlink(tmp_path / "elsewhere", model_folder / "model.json")
    with pytest.raises(ValueError, match="has no description"):
        HGADDetector.load(model_folder)


def test_a_model_of_the_older_format_is_replaced(detector, model_folder):
    make_old(model_folder)
    storage.check_model_place(model_folder, "--out")
    detector.save(model_folder)
    assert sorted(os.listdir(model_folder)) == FILES
    assert HGADDetector.load(model_folder).offset_ == detector.offset_


def test_an_older_description_beside_a_new_model_is_ignored_and_removed(detector, model_folder):
    content = (model_folder / FILE).read_bytes()
    make_old(model_folder)
    (model_folder / FILE).write_bytes(content)  # as a save that is killed at its end leaves it
    assert HGADDetector.load(model_folder).offset_ == detector.offset_
    detector.save(model_folder)
    assert sorted(os.listdir(model_folder)) == FILES


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
    make_old(model_folder)
    for name in ("model.json", FILE):
        (model_folder / name).unlink()
        os.mkfifo(model_folder / name)
        with pytest.raises(ValueError, match="no skhgad model"):
            HGADDetector.load(model_folder)
    with pytest.raises(ValueError, match="no skhgad model"):
        storage.check_place(model_folder)


@pytest.mark.parametrize(
    "backbone", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "/etc/passwd", "../weights"]
)
def test_a_backbone_is_a_name_and_no_place(model_folder, backbone):
    set_parameters(backbone=backbone)(model_folder)
    set_fitted(images=True, n_features_in=None)(model_folder)
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
    assert happened == [("open", str(model_folder / FILE))]
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
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        HGADDetector.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a file: pass the folder of a model"):
        HGADDetector.load(model_folder / FILE)


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
@pytest.mark.parametrize(("function", "number"), [("fsync", 1), ("replace", 1)])
def test_a_failed_save_leaves_the_old_model_whole(
    detector, model_folder, tmp_path, monkeypatch, function, number, error
):
    newer = HGADDetector(max_iter=0).fit(X[:, :2])
    for place in (model_folder, tmp_path / "other"):
        with monkeypatch.context() as patched:
            fail_at(patched, function, number, error)
            with pytest.raises(type(error)):
                newer.save(place)
    assert os.listdir(tmp_path) == ["model"] and sorted(os.listdir(model_folder)) == FILES
    assert HGADDetector.load(model_folder).offset_ == detector.offset_
    newer.save(model_folder)
    assert HGADDetector.load(model_folder).n_features_in_ == 2


def test_a_model_is_flushed_before_its_rename_and_the_rename_after_it(
    detector, tmp_path, monkeypatch
):
    (tmp_path / "flushed").mkdir()
    happened, replace, fsync = [], os.replace, os.fsync

    def flushing(handle):
        happened.append(os.fstat(handle).st_ino)
        fsync(handle)

    def replacing(source, target):
        happened.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", replacing)
    detector.save(tmp_path / "model")
    file, folder, parent = (
        path.stat().st_ino for path in (tmp_path / "model" / FILE, tmp_path / "model", tmp_path)
    )
    if os.name == "posix":
        assert happened == [file, "replace", folder, "replace", parent]  # the second: the card


def test_a_folder_that_cannot_be_flushed_is_no_error(detector, model_folder, monkeypatch):
    """The new model is in place then; Ctrl-C at that moment leaves it there, too."""
    for error in (OSError(errno.EINVAL, "Invalid argument"), KeyboardInterrupt()):
        newer = HGADDetector(max_iter=0).fit(X[:, :2] * (1 + (type(error) is OSError)))
        with monkeypatch.context() as patched:
            fail_at(patched, "fsync", 2, error)
            try:
                newer.save(model_folder)
            except KeyboardInterrupt:
                assert type(error) is KeyboardInterrupt
        assert HGADDetector.load(model_folder).offset_ == newer.offset_
        assert sorted(os.listdir(model_folder)) == FILES


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
    with pytest.raises(OSError, match=f"'{tmp_path / 'file' / 'model'}'"):
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


def test_a_file_of_others_is_not_replaced(detector, model_folder, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / FILE).write_text("mine")
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "theirs" / FILE)
    for place in (tmp_path / "theirs", tmp_path / "text"):
        before = (place / FILE).read_bytes()
        with pytest.raises(ValueError, match="damaged, or no skhgad model: remove it, or"):
            detector.save(place)
        with pytest.raises(ValueError, match="--out: .* remove it, or choose another folder"):
            storage.check_model_place(place, "--out")
        assert (place / FILE).read_bytes() == before
    os.truncate(model_folder / FILE, (model_folder / FILE).stat().st_size - 1)
    detector.save(model_folder)  # damaged, and known as a model
    assert HGADDetector.load(model_folder).offset_ == detector.offset_


def test_a_link_to_a_file_is_replaced_and_not_followed(detector, model_folder, tmp_path):
    shutil.move(model_folder / FILE, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", model_folder / FILE)
    before = (tmp_path / "elsewhere").read_bytes()
    detector.save(model_folder)
    assert not (model_folder / FILE).is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == before
    assert HGADDetector.load(model_folder).offset_ == detector.offset_


# ---------------------------------------------------------------- several at once, and killed


def save_often(folder, number, times, size=50):
    for _ in range(times):
        tensor = torch.from_numpy(np.full(size, number))
        save_state(folder, {"number": tensor}, {"number": number})


def check_whole(folder):
    tensors, description = load_state(folder)
    assert (tensors["number"] == description["number"]).all()
    return description["number"]


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
        if existing or (folder / FILE).exists():
            check_whole(folder)  # also in the middle of it: a reader finds a model, and no mix
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    check_whole(folder)
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(folder) == [FILE]


def test_no_change_of_another_process_is_lost(tmp_path, monkeypatch):
    """All saved at the same time what they had made of the same model: the last won."""
    fcntl, folder = pytest.importorskip("fcntl"), tmp_path / "model"
    save_often(folder, 0, 1)
    before, content = saved_hash(folder), (folder / FILE).read_bytes()
    assert before == split(folder)[0]["__metadata__"]["sha256"]
    hash_of = storage.saved_hash

    def others_wait(place):
        """No other process saves between the look at the hash and the end."""
        handle = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(handle)
        return hash_of(place)

    monkeypatch.setattr(storage, "saved_hash", others_wait)
    tensors = {"number": torch.ones(50)}
    save_state(folder, tensors, {"number": 1}, replaces=before)
    assert check_whole(folder) == 1 and (folder / FILE).read_bytes() != content
    content = (folder / FILE).read_bytes()
    for place in (folder, tmp_path / "removed"):
        monkeypatch.setattr(storage, "saved_hash", hash_of)
        with pytest.raises(ValueError, match="changed meanwhile .* run this one again"):
            save_state(place, tensors, {"number": 1}, lambda _: "card", replaces=before)
    assert (folder / FILE).read_bytes() == content
    assert os.listdir(folder) == [FILE] and os.listdir(tmp_path) == ["model"]


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


KILL = getattr(signal, "SIGKILL", None)


def kill_at(module, name, *, after=False):
    """Return what lets this process die without a word when it calls the function."""

    def prepare():
        true = getattr(module, name)

        def deadly(*args, **kwargs):
            if after:
                true(*args, **kwargs)
            os.kill(os.getpid(), KILL)

        setattr(module, name, deadly)

    return prepare


def kill_while_writing():
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # ends the process when a file grows too large
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)


def run_forked(function, *args):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=function, args=args)
    process.start()
    return process


def killed_save(prepare, folder):
    prepare()
    save_often(folder, 1, 1, size=100_000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("before", ["nothing", "model", "older format"])
@pytest.mark.parametrize(
    ("prepare", "survivor"),
    [
        (kill_while_writing, 0),
        (kill_at(os, "fsync"), 0),
        (kill_at(os, "replace"), 0),
        (kill_at(os, "replace", after=True), 1),
        (kill_at(storage.Path, "unlink"), 1),  # of the older description
    ],
)
def test_a_killed_save_leaves_the_old_or_the_new_model(tmp_path, before, prepare, survivor):
    folder = tmp_path / "model"
    if before != "nothing":
        save_state(folder, {"number": torch.zeros(3)}, {"number": 0, "parameters": 0, "fitted": 0})
    if before == "older format":
        make_old(folder)
    process = run_forked(killed_save, prepare, folder)
    process.join(60)
    assert process.exitcode in (-KILL, -signal.SIGXFSZ)
    if survivor == 1 or before == "model":
        assert check_whole(folder) == survivor
    else:
        message = "older skhgad" if before == "older format" else "model.safetensors is missing"
        with pytest.raises(ValueError, match=message):
            load_state(folder)
    is_left = any(name.startswith(".") for name in os.listdir(folder))
    assert is_left == (survivor == 0)
    storage.check_model_place(folder, "--out")
    save_often(folder, 2, 1)
    assert check_whole(folder) == 2
    assert os.listdir(tmp_path) == ["model"] and os.listdir(folder) == [FILE]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_saves_that_are_killed_at_any_time_leave_a_whole_model(tmp_path):
    folder, rng = tmp_path / "model", np.random.default_rng(0)
    save_often(folder, 0, 1)
    numbers = set()
    for number in range(1, 25):
        before, deadline = os.stat(folder / FILE).st_ino, time.monotonic() + 60
        process = run_forked(save_often, folder, number, 10**9, 300_000)
        while os.stat(folder / FILE).st_ino == before and time.monotonic() < deadline:
            time.sleep(0.002)  # until it has saved for the first time
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join(60)
        assert process.exitcode == -KILL
        numbers.add(check_whole(folder))
    assert numbers == set(range(1, 25))
    save_often(folder, 99, 1)
    assert os.listdir(folder) == [FILE]


def hidden(folder, age=0):
    """Plant what a killed save leaves; `age` in hours."""
    path = folder / ".model.safetensors.0123abcd.part"
    path.write_text("half")
    os.utime(path, (time.time() - 3600 * age,) * 2)
    return path


def test_hidden_files_of_killed_saves_never_matter(detector, model_folder, tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / "first").mkdir()
    for folder in (model_folder, tmp_path / "first"):
        hidden(folder)
        storage.check_model_place(folder, "--out")
        (folder / ".MODEL_CARD.md.0123abcd.part").write_text("half")
        detector.save(folder)
        assert sorted(os.listdir(folder)) == FILES
        hidden(folder)
        assert HGADDetector.load(folder).offset_ == detector.offset_
    (model_folder / ".model.safetensors.mine.part").touch()  # looks similar
    with pytest.raises(ValueError, match=r"holds '.model.safetensors.mine.part' beside a model"):
        detector.save(model_folder)


def test_a_save_spares_the_hidden_file_of_another_that_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    folder, flush = tmp_path / "model", os.fsync
    begun, go_on = threading.Event(), threading.Event()
    slow = threading.Thread(target=save_often, args=(folder, 1, 1))

    def waiting(handle):
        if threading.current_thread() is slow:
            begun.set()
            go_on.wait(60)
        flush(handle)

    monkeypatch.setattr(os, "fsync", waiting)
    save_often(folder, 0, 1)
    slow.start()
    assert begun.wait(60)
    left = hidden(folder)  # of a third one, killed; nobody can tell yet
    save_often(folder, 2, 1)
    assert check_whole(folder) == 2 and left.exists()
    go_on.set()
    slow.join(60)
    assert check_whole(folder) == 1  # the last wins
    save_often(folder, 3, 1)
    assert os.listdir(folder) == [FILE]


@pytest.mark.parametrize("system", ["without locks", "with a folder that cannot be locked"])
def test_without_locks_hidden_files_go_after_a_day(tmp_path, monkeypatch, system):
    folder = tmp_path / "model"
    save_often(folder, 0, 1)
    if system == "without locks":
        monkeypatch.setattr(storage, "fcntl", None)
    else:
        fcntl = pytest.importorskip("fcntl")

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
    for age, is_left in ((0, True), (23, True), (25, False)):
        path = hidden(folder, age)
        save_often(folder, age, 1)
        assert path.exists() == is_left
        assert check_whole(folder) == age
