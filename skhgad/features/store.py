"""Features of images in a folder, one file an image. No file is ever run."""

import contextlib
import os
import secrets
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

SUBFOLDER = "skhgad-features"


class FeatureStore:
    """Remembers the levels of features of an image under a key.

    An entry is a safetensors file, which holds numbers and no code. Entries that are damaged, of
    another image, of another shape or not finite count as missing. A folder that cannot be written
    costs time, not the result: the first failure is a UserWarning, then nothing is written.

    Parameters
    ----------
    folder : str or path
        Entries lie in its subfolder ``skhgad-features``, created when needed.
    shapes : list of tuple (n_positions, n_features)
        Of each level.
    """

    def __init__(self, folder, shapes):
        self.folder = Path(os.fspath(folder)) / SUBFOLDER
        self.shapes = [tuple(shape) for shape in shapes]
        self.is_writable = True

    def load(self, key):
        """Return the levels stored under a key, float32 arrays, or None."""
        path = self._path(key)
        if not os.path.isfile(path):  # reading a pipe would wait for ever
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("key") != key:
                    return None
                names = [f"level_{index}" for index in range(len(self.shapes))]
                levels = [file.get_tensor(name) for name in names]
        except (OSError, SafetensorError, ValueError, TypeError):
            return None
        return levels if all(map(self._is_sound, levels, self.shapes)) else None

    def save(self, key, levels):
        """Store the levels of one image, whole or not at all."""
        if not self.is_writable:
            return
        arrays = {f"level_{i}": np.ascontiguousarray(level) for i, level in enumerate(levels)}
        try:
            _replace(self._path(key), save(arrays, metadata={"key": key}))
        except OSError as error:
            self.is_writable = False
            warnings.warn(
                f"memory: features cannot be remembered in {str(self.folder)!r} ({error}). They "
                "are computed each time; free some space, or pass another folder.",
                UserWarning,
                stacklevel=2,
            )

    def _path(self, key):
        return self.folder / key[:2] / f"{key}.safetensors"

    @staticmethod
    def _is_sound(level, shape):
        return level.dtype == np.float32 and level.shape == shape and np.isfinite(level).all()


def _replace(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
