"""State to and from a folder: safetensors for arrays, JSON for the rest, nothing executable."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ._features import file_sha256

FORMAT = "skhgad-model"
VERSION = 1
_MANIFEST, _TENSORS = "model.json", "model.safetensors"


def save_state(folder, tensors, description):
    """Write a model folder; an older one at the same place is replaced at the very end.

    Parameters
    ----------
    folder : str or path
    tensors : dict of str to Tensor
    description : dict
        JSON-serialisable.

    Raises
    ------
    ValueError
        If the place is taken by a file, or by a folder that is not a model.
    OSError
        If it cannot be written; the older model is then still whole.
    """
    folder = Path(folder)
    if folder.exists() and not is_model(folder) and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists and is no skhgad model: choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()},
                  staging / _TENSORS)  # fmt: skip
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "sha256": {_TENSORS: file_sha256(staging / _TENSORS)},
            "model": description,
        }
        text = json.dumps(manifest, indent=1, allow_nan=False)
        (staging / _MANIFEST).write_text(text, encoding="utf-8")
        staging.chmod(0o777 & ~_umask())
        if folder.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) / "old"
            os.replace(folder, retired)
            os.replace(staging, folder)
            shutil.rmtree(retired.parent, ignore_errors=True)
        else:
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_state(folder):
    """Read a model folder written by `save_state`.

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
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no model folder at {str(folder)!r}.")
    if not is_model(folder):
        raise ValueError(f"{str(folder)!r} is no skhgad model: {_MANIFEST} or {_TENSORS} missing.")
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        kind, version = manifest["format"], manifest["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{str(folder / _MANIFEST)!r} is no model description.") from error
    if kind != FORMAT:
        raise ValueError(f"{str(folder)!r} has the unknown format {kind!r}, expected {FORMAT!r}.")
    if version != VERSION:
        raise ValueError(
            f"{str(folder)!r} has format version {version!r}; this skhgad reads version {VERSION}. "
            "Install a matching skhgad, or fit and save again."
        )
    found = file_sha256(folder / _TENSORS)
    expected = manifest.get("sha256")
    if not isinstance(expected, dict) or expected.get(_TENSORS) != found:
        raise ValueError(
            f"{str(folder / _TENSORS)!r} does not match the hash in {_MANIFEST}: the model was "
            "damaged or changed. Copy it again from its source."
        )
    if not isinstance(manifest.get("model"), dict):
        raise ValueError(f"{str(folder / _MANIFEST)!r} is no model description.")
    try:
        return load_file(folder / _TENSORS), manifest["model"]
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{str(folder / _TENSORS)!r} is no safetensors file: {error}") from error


def is_model(folder):
    """Whether the folder holds the two files of a model."""
    return (folder / _MANIFEST).is_file() and (folder / _TENSORS).is_file()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
