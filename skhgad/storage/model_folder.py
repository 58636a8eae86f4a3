"""State to and from a folder: safetensors for arrays, JSON for the rest, nothing executable."""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

FORMAT = "skhgad-model"
VERSION = 3
_MANIFEST, _TENSORS = "model.json", "model.safetensors"
_FILES = (_MANIFEST, _TENSORS)
_LITTER = {".ds_store", "desktop.ini", "thumbs.db"}  # left by file managers
_LARGEST_MANIFEST = 64 << 20  # bytes; parsed JSON takes many times its size
# Processes that save to one place take turns; a further try means that another was quicker.
_TRIES = 50
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.EACCES}  # EACCES is what Windows says
_LOOKS = 20
_PAUSE = 0.005  # seconds until the next look at a folder that may be changing hands


def save_state(folder, tensors, description):
    """Write a model folder; an older one at the same place is replaced at the very end.

    The new folder is written beside the old one, flushed to the disk, and renamed. Of several
    processes that save to one place the last wins, and its model is whole.

    Parameters
    ----------
    folder : str or path
        A link is followed.
    tensors : dict of str to Tensor
    description : dict
        JSON-serialisable.

    Raises
    ------
    ValueError
        If the place is taken by something else than a model, see `check_place`.
    OSError
        If it cannot be written; the older model is then still whole.
    """
    folder = _real(folder)
    check_place(folder)
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": {_TENSORS: hashlib.sha256(content).hexdigest()},
        "model": description,
    }
    text = json.dumps(manifest, indent=1, allow_nan=False)
    staging = folder.with_name(f".skhgad-{uuid.uuid4().hex}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        staging.mkdir()
        _write(staging / _TENSORS, content)
        _write(staging / _MANIFEST, text.encode())
        _install(staging, folder)
    except OSError as error:
        name_place(error, folder)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_place(folder):
    """Check that `save_state` may write to `folder`: it is free, an empty folder or a model.

    Raises
    ------
    ValueError
        Something else is there, or lies beside the model's own files and would be lost.
    """
    _steadily(_check_place, _real(folder))


def load_state(folder):
    """Read a model folder written by `save_state`.

    Reads the two files of the folder and no others, each once.

    Returns
    -------
    tensors : dict of str to Tensor
    description : dict

    Raises
    ------
    FileNotFoundError
        No such folder.
    ValueError
        Not a model, a newer or unknown format, a hash that does not match, a broken file.
    OSError
        A file that cannot be read.
    """
    return _steadily(_read, Path(folder))


def is_model(folder):
    """Whether the folder holds the two files of a model."""
    return all((folder / name).is_file() for name in _FILES)


def name_place(error, path):
    """Let the message of an OSError name `path`, which the user knows, and no temporary file."""
    if error.errno is not None:
        error.filename = str(path)


def _write(path, content):
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        # A full or failing disk may tell only now, and must tell before the old model goes.
        os.fsync(file.fileno())


def _install(staging, folder):
    """Rename `staging` to `folder`, whatever other processes do there meanwhile."""
    retired = staging.with_name(f"{staging.name}-old")
    try:
        for _ in range(_TRIES):
            try:
                os.replace(staging, folder)
                return
            except OSError as error:
                if error.errno not in _OCCUPIED:
                    raise
            shutil.rmtree(retired, ignore_errors=True)
            try:
                os.replace(folder, retired)
            except FileNotFoundError:
                pass  # another process has just retired it
        raise OSError(f"{str(folder)!r} was replaced by others {_TRIES} times: save again.")
    except BaseException:  # also Ctrl-C
        with suppress(OSError):  # nothing was retired, or another process has put its model there
            os.replace(retired, folder)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _real(folder):
    # Not Path.resolve: a link that leads to itself is no RuntimeError here.
    return Path(os.path.realpath(folder))


def _steadily(look, folder):
    """Return `look(folder)`; an error counts if it comes twice of a folder nobody replaced."""
    failed = None
    for _ in range(_LOOKS):
        try:
            return look(folder)
        except (FileNotFoundError, ValueError):
            now = _identity(folder)
            if now is not None and now == failed:
                raise
            failed = now
            time.sleep(_PAUSE)
    return look(folder)


def _identity(folder):
    """Return what tells this folder from one renamed to its place; None where there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _check_place(folder):
    if not folder.exists():
        return
    names = set(os.listdir(folder)) if folder.is_dir() else {folder.name}
    if not names:
        return
    if not is_model(folder):
        raise ValueError(f"{str(folder)!r} exists and is no skhgad model: choose another folder.")
    others = sorted(name for name in names.difference(_FILES) if name.lower() not in _LITTER)
    if others:
        raise ValueError(
            f"{str(folder)!r} holds {others[0]!r} beside a model, and saving replaces the whole "
            "folder: move that elsewhere, or choose another folder."
        )


def _read(folder):
    if not folder.exists():
        raise FileNotFoundError(f"no model folder at {str(folder)!r}.")
    if not is_model(folder):
        raise ValueError(f"{str(folder)!r} is no skhgad model: {_MANIFEST} or {_TENSORS} missing.")
    for name in _FILES:
        if _real(folder / name).parent != _real(folder):
            raise ValueError(
                f"{str(folder / name)!r} is a link to a file outside the folder, which is not "
                "followed: copy the file there."
            )
    if (folder / _MANIFEST).stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"{str(folder / _MANIFEST)!r} is too large for a model description.")
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        kind, version = manifest["format"], manifest["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{str(folder / _MANIFEST)!r} is no model description.") from error
    if kind != FORMAT:
        raise ValueError(
            f"{str(folder)!r} has the unknown format {kind!r:.80}, expected {FORMAT!r}."
        )
    if version != VERSION:
        raise ValueError(
            f"{str(folder)!r} has format version {version!r:.80}; this skhgad reads version "
            f"{VERSION}. Install a matching skhgad, or fit and save again."
        )
    content = (folder / _TENSORS).read_bytes()
    expected = manifest.get("sha256")
    found = hashlib.sha256(content).hexdigest()
    if not isinstance(expected, dict) or expected.get(_TENSORS) != found:
        raise ValueError(
            f"{str(folder / _TENSORS)!r} does not match the hash in {_MANIFEST}: the model was "
            "damaged or changed. Copy it again from its source."
        )
    if not isinstance(manifest.get("model"), dict):
        raise ValueError(f"{str(folder / _MANIFEST)!r} is no model description.")
    try:
        return load(content), manifest["model"]
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{str(folder / _TENSORS)!r} is no safetensors file: {error}") from error
