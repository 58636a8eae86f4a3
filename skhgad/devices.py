"""Devices that tensors live on, torch's settings, and torch and locks in forked processes."""

import os
import threading
from contextlib import ExitStack, contextmanager

import torch


class ForkableLock:
    """A lock for threads, which the thread that holds it may enter again.

    A forked process has one of its own: a thread of its parent that held it at the fork is not
    there to release it. It can be copied and pickled, as a new lock.
    """

    def __init__(self):
        self._locks = {}  # by process

    @contextmanager
    def held(self):
        """Enter the lock of this process."""
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            yield

    def __reduce__(self):
        return ForkableLock, ()


_process = os.getpid()
_was_forked = False
_moving = ForkableLock()
_setting_dtype = ForkableLock()
_dtypes_before: list[torch.dtype] = []  # the caller's default, once for each thread that computes


def check_device(device):
    """Raise ValueError unless the parameter `device` is "auto" or names a device with values."""
    if isinstance(device, str) and device == "auto":
        return
    try:
        if torch.device(device).type == "meta":
            raise ValueError("tensors on 'meta' have no values")
    except Exception as error:
        raise _unusable(device, error) from error


def _unusable(device, error):
    return ValueError(f"device={device!r:.80} cannot be used here: {error}. Pass 'auto' or 'cpu'.")


def resolve_device(device):
    """Turn the parameter `device` into a torch.device; ValueError if it is unknown or not there.

    "auto" is the GPU where there is one; each process of torchrun gets its own.
    """
    if isinstance(device, str) and device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if "LOCAL_RANK" not in os.environ:
            return torch.device("cuda")
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    check_device(device)
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except Exception as error:
        raise _unusable(device, error) from error
    return resolved


def device_of_float64(device):
    """Return a device, or the CPU in place of one that has no float64 (Apple's)."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def is_on(module, device):
    """Whether the tensors of a module are on a device, judged by its first buffer."""
    current = next(module.buffers()).device
    return current.type == device.type and device.index in (None, current.index)


def move_to(module, device, then=None):
    """Move a module to a device where it is not there yet, and then call `then`, if given.

    Threads that score at once wait here, so that none computes with a module that is half moved.
    """
    with _moving.held():
        if not is_on(module, device):
            module.to(device)
            if then is not None:
                then()


def to_device(tensor, device):
    """Copy a tensor to a device, without waiting for what a GPU is computing."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def trains_in_mixed_precision(value, device):
    """Turn the parameter `mixed_precision` into whether products of the flow are in bfloat16.

    "auto" says yes where the hardware multiplies in bfloat16.
    """
    if value != "auto":
        return value
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # not public; else False
    return device.type == "cpu" and has_bfloat16()


def keep_to_one_thread_if_forked():
    """Limit torch to one thread in a process that was forked after skhgad was imported.

    OpenMP's threads do not survive a fork: the first parallel loop would wait for them for ever.
    Returns whether this is such a process.
    """
    global _process, _was_forked
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process, _was_forked = os.getpid(), True
    return _was_forked


@contextmanager
def usual_torch():
    """Compute with torch's usual settings; those of the caller come back.

    Gradients where they are asked for, no inference mode and no autocast. New tensors are float32,
    on the CPU, where neither is said. Callers may have set anything else, such as
    ``torch.set_default_device("cuda")`` or ``torch.set_default_dtype(torch.float64)``.
    """
    with ExitStack() as settings:
        if torch.is_inference_mode_enabled():
            settings.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            settings.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":
            settings.enter_context(torch.device("cpu"))
        settings.enter_context(_float32_by_default())
        yield


@contextmanager
def _float32_by_default():
    """Let new tensors be float32. Threads share the setting: the last to leave brings it back."""
    with _setting_dtype.held():
        before = _dtypes_before[0] if _dtypes_before else torch.get_default_dtype()
        is_usual = before == torch.float32
        if not is_usual:
            _dtypes_before.append(before)
            torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        if not is_usual:
            with _setting_dtype.held():
                _dtypes_before.pop()
                if not _dtypes_before:
                    torch.set_default_dtype(before)
