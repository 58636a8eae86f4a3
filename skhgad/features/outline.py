"""Modules without values: names, shapes and types of their tensors, in no memory."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"}


@contextmanager
def outline():
    """Build the modules of the block on torch's meta device."""
    with torch.device("meta"), _Quick():
        yield


class _Quick(TorchFunctionMode):
    """Leave out what needs values, or takes seconds without any.

    Random numbers for the meta device make torch import its compiler, and zeros and ones make
    torch 2.6 import sympy. timm reads drop-path rates from linspace, which therefore stays on the
    CPU.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs = {"device": "cpu", **kwargs}
        elif func in (torch.zeros, torch.ones) and kwargs.get("device") is None:
            func = torch.empty
        elif getattr(func, "__name__", "") in _RANDOM:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
