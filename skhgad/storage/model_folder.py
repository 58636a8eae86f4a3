"""Save a model to a folder and load it: one safetensors file, nothing executable.

Its metadata hold a description (JSON), and a hash of that and all tensors.
"""

import hashlib
import json
import math
import os
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from ..features.extractor import tensors_sha256
from ..version import installed_version
from .files import (
    check_folder_place,
    flush_folder,
    is_part,
    name_place,
    remove_leftovers,
    replacement,
)
from .model_card import CARD_MARK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = "skhgad-model"
VERSION = 11
_READABLE = (7, 8, 9, 10, VERSION)
_READS = f"this skhgad reads versions 7 to {VERSION}"
MODEL_FILE = "model.safetensors"
CARD_FILE = "MODEL_CARD.md"
_OLD_DESCRIPTION = "model.json"  # the description up to version 3
_CLUTTER = {".ds_store", "desktop.ini", "thumbs.db"}  # left by file managers
# Bytes. Parsed JSON takes some 25 times its size, and 500 classes with long names have 1 MiB.
_LARGEST_HEADER = 8 << 20
_BLOCK = 1 << 20  # bytes that are hashed at once
# How safetensors and torch call the types of tensors.
_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_BROKEN = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError, TypeError,
    ValueError,
)  # fmt: skip


def save_state(folder, tensors, description, card=None, replaces=None):
    """Write a model to a folder in one step; the last of several processes wins.

    `card` takes the hash of the model and returns the text of the model card, which is written
    beside it; None = no card. After a crash between the two, the hash tells that the card is older.
    `replaces` is the `saved_hash` of the model from which this one was made: no other is replaced,
    because what another process saved meanwhile would be lost. None = replace any.

    A link is followed. Raises ValueError if `check_place` refuses the folder, it holds another
    model than `replaces`, or the description is too long, OSError if the file cannot be
    written; the older model is then still whole. Windows does not replace a file that another
    process is reading.
    """
    folder = _real(folder)
    check_place(folder)
    content, sha256 = _encode(tensors, description)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _saving(folder, alone=replaces is not None), ExitStack() as files:
            if replaces is not None and saved_hash(folder) != replaces:
                raise ValueError(
                    f"{str(folder)!r} was changed meanwhile by another command, whose work is "
                    "kept: run this one again."
                )
            if card is not None:  # written first, because the disk may be full; renamed last
                card_part = files.enter_context(replacement(folder / CARD_FILE))
                card_part.write_bytes(card(sha256).encode("utf-8", errors="backslashreplace"))
            part = files.enter_context(replacement(folder / MODEL_FILE, durable=True))
            with open(part, "xb") as file:
                file.write(content)
        (folder / _OLD_DESCRIPTION).unlink(missing_ok=True)
        if is_new:
            flush_folder(folder.parent)
    except BaseException as error:  # also Ctrl-C
        if is_new:
            with suppress(OSError):  # not empty: a model is there
                folder.rmdir()
        if isinstance(error, OSError):
            name_place(error, folder)
        raise


def load_state(folder):
    """Return the tensors and the description that `save_state` wrote.

    Takes about twice the file's size in memory, once that size is the one the header declares, and
    the hash is right; `lengthened` takes more.
    Raises FileNotFoundError if there is no such folder, ValueError for no model, another format or
    a damaged file, OSError if it cannot be read.
    """
    folder = Path(folder)
    path = folder / MODEL_FILE
    if not folder.exists():
        raise FileNotFoundError(f"no model folder at {str(folder)!r}.")
    if folder.is_file():
        raise ValueError(f"{str(folder)!r} is a file: pass the folder of a model.")
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is no skhgad model: {MODEL_FILE} is missing.")
    _check_inside(path)
    with open(path, "rb") as file:
        with _refusing(path):
            head, header = _read_head(file)
            description = _read_description(header)
        _check_format(folder, description)
        with _refusing(path):
            size, metadata = _size_of_tensors(file, head, header), header["__metadata__"]
            found = _hash_with(metadata["description"], _sha256_in(file, len(head), header))
            if metadata["sha256"] != found:
                raise ValueError("it does not match the hash in its header")
            file.seek(0)
            return load(file.read(len(head) + size)), description


def saved_hash(folder):
    """Return the hash in the header of a folder's model; None where there is no readable model."""
    try:
        with open(Path(folder) / MODEL_FILE, "rb") as file:
            return _read_head(file)[1]["__metadata__"]["sha256"]
    except (OSError, *_BROKEN):
        return None


def check_place(folder):
    """Raise ValueError unless `folder` is free, an empty folder or nothing but a model."""
    folder = _real(folder)
    if not folder.exists():
        return
    path = folder / MODEL_FILE
    names = os.listdir(folder) if folder.is_dir() else [folder.name]
    finals = (MODEL_FILE, CARD_FILE)
    names = {name for name in names if not any(is_part(name, final) for final in finals)}
    if not names:
        return
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} exists and is no skhgad model: choose another folder.")
    if _OLD_DESCRIPTION not in names and not _is_ours(path):
        raise ValueError(
            f"{str(path)!r} is damaged, or no skhgad model: remove it, or choose another folder."
        )
    names -= {name for name in (MODEL_FILE, _OLD_DESCRIPTION) if (folder / name).is_file()}
    if _is_our_card(folder / CARD_FILE):
        names.discard(CARD_FILE)
    others = sorted(name for name in names if name.lower() not in _CLUTTER)
    if others:
        raise ValueError(
            f"{str(folder)!r} holds {others[0]!r} beside a model, which needs a folder of its own: "
            "move that elsewhere, or choose another folder."
        )


def check_model_place(path, option):
    """Raise ValueError if `HGADDetector.save` would refuse `path`, before a fit."""
    place = Path(path).absolute()
    check_folder_place(place.parent, option)
    for folder in place.parents:
        if (folder / MODEL_FILE).is_file():
            raise ValueError(
                f"{option}: {str(place)!r} lies in the model {str(folder)!r}, which needs a folder "
                "of its own: choose a place outside."
            )
    try:
        check_place(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def file_signature(folder):
    """Return what tells the model file of a folder from the next one; None if there is none."""
    try:
        found = os.stat(Path(folder) / MODEL_FILE)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def model_hash(description, tensors):
    """SHA-256 of the description and of names, dtypes, shapes and values of the tensors."""
    return _hash_with(description, tensors_sha256(tensors))


def _hash_with(description, of_tensors):
    return hashlib.sha256(f"{of_tensors} {description}".encode()).hexdigest()


def _sha256_in(file, start, header):
    """Compute `tensors_sha256` of the tensors in a file, from `start`, a block at a time."""
    digest = hashlib.sha256()
    for name, entry in sorted(header.items()):
        if name == "__metadata__":
            continue
        kind, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        digest.update(f"{name} torch.{kind} {shape}\n".encode())
        begin, end = entry["data_offsets"]
        file.seek(start + begin)
        for position in range(begin, end, _BLOCK):
            digest.update(file.read(min(_BLOCK, end - position)))
    return digest.hexdigest()


def _encode(tensors, description):
    about = {
        "format": FORMAT,
        "version": VERSION,
        "skhgad": installed_version(),
        "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    text = json.dumps({**about, **description}, allow_nan=False)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    sha256 = model_hash(text, tensors)
    content = save(tensors, {"description": text, "sha256": sha256})
    if int.from_bytes(content[:8], "little") > _LARGEST_HEADER:
        raise ValueError(
            f"the model's description has {len(text)} characters, too many to be loaded again."
        )
    return content, sha256


@contextmanager
def _saving(folder, *, alone=False):
    """Remove the hidden files of killed saves, then hold a lock while this process saves.

    Every saving process holds a shared lock on the folder, or, with `alone`, waits until it has the
    only one. A process that can lock it alone removes all hidden files. Otherwise, and where
    folders cannot be locked (Windows, some network file systems), it removes those of a day ago.
    """
    if fcntl is None:
        _clean(folder)
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        is_alone = _lock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clean(folder, of_today=is_alone)
        if not alone:
            _lock(handle, fcntl.LOCK_SH)  # waits while another process is cleaning
        yield
    finally:
        os.close(handle)


def _clean(folder, **options):
    for name in (MODEL_FILE, CARD_FILE):
        remove_leftovers(folder / name, **options)


def _lock(handle, kind):
    try:
        fcntl.flock(handle, kind)
    except OSError:
        return False
    return True


def _real(folder):
    # Not Path.resolve: a link that leads to itself is no RuntimeError here.
    return Path(os.path.realpath(folder))


@contextmanager
def _refusing(path):
    """Turn errors about a file's content into a ValueError that names it."""
    try:
        yield
    except _BROKEN as error:
        raise ValueError(
            f"{str(path)!r} is damaged, or no skhgad model: {error}. Copy it again from its source."
        ) from error


def _check_inside(path):
    if _real(path).parent != _real(path.parent):
        raise ValueError(
            f"{str(path)!r} is a link to a file outside the folder, which is not followed: copy "
            "the file there."
        )


def _read_head(file):
    size, start = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(start, "little")
    if length > min(_LARGEST_HEADER, size - 8):
        raise ValueError(f"a header of {length} bytes is too large")
    head = start + file.read(length)
    return head, _parse(head[8:])


def _read_description(header):
    description = _parse(header.get("__metadata__", {}).get("description", "{}"))
    if not isinstance(description, dict):
        raise ValueError("the description is no JSON object")
    return description


def _size_of_tensors(file, head, header):
    size = os.fstat(file.fileno()).st_size - len(head)
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    declared = max((end for _, end in places), default=0)
    if declared != size:
        raise ValueError(f"its header declares {declared} bytes of tensors, it has {size}")
    if sum(end - begin for begin, end in places) != size:
        raise ValueError("its header declares tensors that overlap, or gaps between them")
    return size


def _parse(text):
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is not finite")
    return number


def _is_ours(path):
    """Whether the file describes a model, of any version, damaged or not."""
    try:
        with open(path, "rb") as file:
            return _read_description(_read_head(file)[1]).get("format") == FORMAT
    except _BROKEN:
        return False


def _is_our_card(path):
    """Whether a file is a model card that may be replaced."""
    try:
        with open(path, "rb") as file:
            return file.read(len(CARD_MARK)) == CARD_MARK.encode()
    except OSError:
        return False


def _check_format(folder, description):
    if not description:
        _refuse_without_description(folder)
    kind, version = description.get("format"), description.get("version")
    if kind != FORMAT:
        raise ValueError(
            f"{str(folder)!r} has the unknown format {kind!r:.80}, expected {FORMAT!r}."
        )
    if version not in _READABLE:
        raise ValueError(
            f"{str(folder)!r} has format version {version!r:.80}; {_READS}. Install a matching "
            "skhgad, or fit and save again."
        )


def _refuse_without_description(folder):
    """Raise ValueError, which names an older format where there is one."""
    path, old = folder / _OLD_DESCRIPTION, {}
    with suppress(OSError, *_BROKEN):
        _check_inside(path)
        if path.is_file() and path.stat().st_size <= _LARGEST_HEADER:
            old = _parse(path.read_bytes())
    if not isinstance(old, dict) or old.get("format") != FORMAT:
        raise ValueError(f"{str(folder)!r} is no skhgad model: {MODEL_FILE} has no description.")
    raise ValueError(
        f"{str(folder)!r} has format version {old.get('version')!r:.80}, which is that of an older "
        f"skhgad; {_READS}. Fit and save again, or install the older skhgad."
    )
