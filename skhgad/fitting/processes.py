"""Several processes that fit one detector together, each on its own share of the samples.

All processes are given all of X and y, draw the same random numbers and hold the same model. What
differs is whose features they extract, store and visit: sample i belongs to process i modulo their
number. Sums over samples are sums over processes of sums over own samples, so that the result is
that of one process, up to rounding. Who fits alone is a group of one, which waits for nobody.
"""

import io
import operator
import os
import sys
import time
from contextlib import contextmanager, redirect_stdout
from functools import reduce

import joblib
import numpy as np
import torch
from torch import distributed

from ..images.source import ImageSource


class Processes:
    """A group of processes; what one of them asks of the group, all ask, in the same order.

    Parameters
    ----------
    rank : int, default=0
        Of this process.
    size : int, default=1
    """

    def __init__(self, rank=0, size=1):
        self.rank = rank
        self.size = size

    @classmethod
    def current(cls):
        """Return the group that `torch.distributed.init_process_group` made, or one process."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return ALONE

    @property
    def is_first(self):
        """Whether this process speaks for all."""
        return self.rank == 0

    @property
    def n_local(self):
        """Processes that share this machine; all, where torchrun did not tell."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1

    def own(self, rows):
        """Those of `rows`, an ndarray of sample numbers, that belong to this process."""
        return rows[rows % self.size == self.rank]

    def gather(self, items, device="cpu"):
        """Join the lists of all processes, in the order of their ranks.

        Parameters
        ----------
        items : list
            Of anything that can be pickled.
        device : torch.device, default="cpu"
            Where tensors among them arrive.

        Returns
        -------
        list
            The same in all processes.
        """
        if self.size == 1:
            return items
        packed, parts = io.BytesIO(), [None] * self.size
        torch.save(items, packed)
        distributed.all_gather_object(parts, packed.getvalue())
        return [
            item
            for part in parts
            for item in torch.load(io.BytesIO(part), device, weights_only=False)
        ]

    def gather_rows(self, values, rows):
        """Put the values of own(rows), an ndarray, together to those of `rows`."""
        whole = np.empty((len(rows), *values.shape[1:]), values.dtype)
        for rank, part in enumerate(self.gather([values])):
            whole[rows % self.size == rank] = part
        return whole

    def total(self, value):
        """Sum of a value, anything that can be added, over the processes."""
        return reduce(operator.add, self.gather([value]))

    def sum_gradients(self, parameters):
        """Sum the gradients of parameters in place; those without one have none anywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def broadcast(self, value):
        """Return the value that the first process gave."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def share_state(self, module):
        """Give a module the tensors that it has in the first process."""
        if self.size > 1:
            state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
            module.load_state_dict(self.broadcast(state))

    @contextmanager
    def agree(self):
        """Raise in all processes when one has raised; inside, nothing is asked of the group.

        Raises
        ------
        RuntimeError
            With the error of another process. The process that failed raises its own.
        """
        if self.size == 1:
            yield
            return
        own = None
        try:
            yield
        except Exception as error:
            own = error
        told = None if own is None else f"{type(own).__name__}: {own}"
        failures = self.gather([told])
        if own is not None:
            raise own
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise RuntimeError(f"process {rank} of {self.size} failed with {failure}")

    def check_data(self, X, codes, classes):
        """Raise ValueError unless all processes have the same data, and enough for each."""
        if self.size == 1:
            return
        if isinstance(X, ImageSource):  # by file name: folders may be mounted elsewhere
            X = [os.path.basename(X.name(i)) for i in range(len(X))]
        if len(set(self.gather([joblib.hash((X, codes, classes))]))) > 1:
            raise ValueError(
                "X and y are not the same in all processes: pass all samples, in the same order, "
                "to fit in every process, which then takes its own share of them."
            )
        if np.sum(codes >= 0) < self.size:
            raise ValueError(
                f"X has {np.sum(codes >= 0)} normal samples for {self.size} processes: start "
                "fewer, each needs a sample of its own."
            )


ALONE = Processes()


@contextmanager
def launched():
    """Join the processes that torchrun started, if it did; only the first of them prints."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield ALONE
        return
    distributed.init_process_group()  # gloo for the CPU, nccl for GPUs
    try:
        processes = Processes.current()
        with redirect_stdout(sys.stdout if processes.is_first else io.StringIO()):
            yield processes
    finally:
        leave_group()


def leave_group():
    """Leave the group of processes, for good.

    A thread of the group may still have to free the tensors of its last message, for which it needs
    the interpreter; leaving waits for that thread, and keeps the interpreter meanwhile (torch 2.6).
    """
    time.sleep(0.2)
    distributed.destroy_process_group()
