"""A pretended GPU: tensors on it are computed by the CPU, but mix with no others.

Tests see with it, on any machine, whether code brings tensors of two devices together, which CUDA
refuses. Speed, rounding and memory of a GPU it does not have.
"""

import weakref
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

GPU = torch.device("cuda")
CPU = torch.device("cpu")
_FACTORIES = {
    getattr(torch, name)
    for name in (
        "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randn",
        "randperm", "scalar_tensor", "tensor", "zeros",
    )
}  # fmt: skip
_LIKE = {getattr(torch, name) for name in ("empty_like", "full_like", "ones_like", "zeros_like",
                                           "rand_like", "randn_like")}  # fmt: skip
_NEW = {getattr(torch.Tensor, f"new_{name}") for name in ("empty", "full", "ones", "tensor",
                                                         "zeros")}  # fmt: skip
_CROSSING = {
    torch.Tensor.copy_, torch.Tensor.is_pinned, torch.Tensor.type_as,
    torch._has_compatible_shallow_copy_type,
}  # fmt: skip
_TO_HOST = {torch.Tensor.numpy, torch.Tensor.__array__}


class PretendGPU(TorchFunctionMode):
    """While it is entered, device "cuda" exists."""

    _keys = {}  # weak references to the tensors that are there, by id

    def __enter__(self):
        """Begin; modules also learn from a tensor where they are to go."""
        plain = nn.Module.to

        def to(module, *args, **kwargs):
            if args and isinstance(args[0], torch.Tensor):
                args = (args[0].device, args[0].dtype, *args[1:])
            return plain(module, *args, **kwargs)

        def parameter(cls, data=None, requires_grad=True):
            made = of_data(cls, data, requires_grad)
            self.mark(made, data is not None and self.is_there(data))
            return made

        of_data = nn.Parameter.__new__
        self._patches = [
            mock.patch.object(nn.Parameter, "__new__", parameter),
            mock.patch.object(nn.Module, "to", to),
            # Also in threads, which do not know of this mode.
            mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone),
        ]
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *exception):
        """End; tensors stay where they are said to be."""
        super().__exit__(*exception)
        for patch in self._patches:
            patch.stop()

    def is_there(self, tensor):
        """Whether a tensor is on the GPU."""
        return self._keys.get(id(tensor), lambda: None)() is tensor

    def mark(self, tensor, there):
        """Say where a tensor is."""
        key = id(tensor)
        if there:
            self._keys[key] = weakref.ref(tensor, lambda _: self._keys.pop(key, None))
        else:
            self._keys.pop(key, None)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Do what the CPU does, and refuse what CUDA would refuse."""
        kwargs = dict(kwargs or {})
        if function == torch.Tensor.device.__get__:
            return GPU if self.is_there(args[0]) else CPU
        if function == torch.Tensor.is_cuda.__get__:
            return self.is_there(args[0])
        if function == torch.Tensor.data.__set__:
            function(*args)
            self.mark(args[0], self.is_there(args[1]))
            return None
        if function is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if function is torch.Tensor.cpu:
            return self._moved(args[0], False)
        if function is torch.Tensor.cuda:
            return self._moved(args[0], True)
        if function is torch.Tensor.__deepcopy__:  # the memo holds others
            result = function(*args)
            self.mark(result, self.is_there(args[0]))
            return result
        there = [self.is_there(x) for x in _tensors((args, kwargs))]
        if function in _TO_HOST and any(there):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        asked = None
        if function in _FACTORIES or function in _LIKE or function in _NEW:
            asked = kwargs.pop("device", None)
            if function in _FACTORIES and asked is None:
                given = args[0] if args else None
                is_kept = function is torch.as_tensor and isinstance(given, torch.Tensor)
                asked = GPU if is_kept and self.is_there(given) else CPU
            if asked is None:
                asked = GPU if self.is_there(args[0]) else CPU
        elif function not in _CROSSING:
            self._check(function, args, kwargs)
        kwargs.pop("pin_memory", None)
        result = function(*args, **kwargs)
        there = torch.device(asked).type == "cuda" if asked is not None else any(there)
        if function is torch.Tensor.copy_ or _name(function).endswith("__setitem__"):
            return result
        for tensor in _tensors(result):
            self.mark(tensor, there)
        return result

    def _to(self, tensor, *args, **kwargs):
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for value in args:
            if isinstance(value, torch.Tensor):
                device, dtype = (GPU if self.is_there(value) else CPU), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, (str, torch.device)):
                device = value
        there = self.is_there(tensor)
        if device is not None:
            there = torch.device(device).type == "cuda"
        plain = {"memory_format": kwargs["memory_format"]} if "memory_format" in kwargs else {}
        result = torch.Tensor.to(tensor, dtype or tensor.dtype, **plain)
        if there != self.is_there(tensor):
            result = self._moved(result, there)
        self.mark(result, there)
        return result

    def _moved(self, tensor, there):
        if self.is_there(tensor) == there:
            return tensor
        # As `to` does, a copy: what is written into one is not seen in the other.
        result = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        self.mark(result, there)
        return result

    def _check(self, function, args, kwargs):
        """Raise RuntimeError for tensors of two devices; a single number may come from the CPU."""
        name = _name(function)
        if name.endswith(("__getitem__", "__setitem__")):
            self._check_indexed(name, args)
            return
        tensors = _tensors((args, kwargs))
        if not any(map(self.is_there, tensors)):
            return
        apart = [x for x in tensors if not self.is_there(x) and x.dim() > 0]
        if apart:
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, cuda and cpu were found "
                f"(shapes {[tuple(x.shape) for x in tensors[:4]]})"
            )

    def _check_indexed(self, name, args):
        tensor, index = args[0], args[1]
        indices = _tensors(index)
        if not self.is_there(tensor) and any(map(self.is_there, indices)):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        if name.endswith("__setitem__") and isinstance(args[2], torch.Tensor):
            by_tensor = any(x.dim() > 0 for x in indices)
            value = args[2]
            if by_tensor and value.dim() and self.is_there(value) != self.is_there(tensor):
                raise RuntimeError("index_put_: expected value and tensor on the same device")


def _tensors(values):
    return [x for x in tree_flatten(values)[0] if isinstance(x, torch.Tensor)]


def _name(function):
    return getattr(function, "__qualname__", None) or getattr(function, "__name__", str(function))
