"""Several processes that fit one detector together, with the result of one, up to rounding.

All get all of X and y, draw the same random numbers and hold the same model. Sample i
belongs to process i modulo their number, which extracts, stores and visits it.
"""

import io
import operator
import os
import platform
import sys
import time
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import distributed

# How long processes that torchrun started wait for one that is stopped or far behind.
LONGEST_WAIT = timedelta(minutes=30)
_SECONDS_TO_END = 5  # of a process that was killed


class Processes:
    """A group of processes. Every process must call the same methods in the same order.

    A single process is a group of size 1 and never communicates. All methods that communicate raise
    RuntimeError if another process was killed, or let the others wait longer than the timeout of
    the group.
    """

    def __init__(self, rank=0, size=1):
        self.rank = rank
        self.size = size
        self._places = []  # (machine, process id) of each process; see `meet`

    def meet(self):
        """Exchange where each process runs, so that an error can say which of them is lost."""
        self._places = self.gather([(platform.node(), os.getpid())])

    @classmethod
    def current(cls):
        """Return the group that `torch.distributed.init_process_group` made, or one process."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return ALONE

    @property
    def is_first(self):
        """Whether this is the process that prints and warns for all."""
        return self.rank == 0

    @property
    def n_local(self):
        """Number of processes on this machine; all of the group unless torchrun says otherwise."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1

    @property
    def everyone(self):
        """The group, for all samples there are; see `OfSome`."""
        return self

    def owner(self, rows):
        """Return the rank of the process to which each of `rows`, an ndarray of int, belongs."""
        return rows % self.size

    def own(self, rows):
        """Return the samples among `rows`, an ndarray of int, that belong to this process."""
        return rows[self.owner(rows) == self.rank]

    def gather(self, items, device="cpu"):
        """Join the lists of all processes, in the order of their ranks.

        The items must be picklable. Tensors among them arrive on `device`.
        """
        if self.size == 1:
            return items
        packed, parts = io.BytesIO(), [None] * self.size
        torch.save(items, packed)
        with self._telling_of_lost():
            distributed.all_gather_object(parts, packed.getvalue())
        return [
            item
            for part in parts
            for item in torch.load(io.BytesIO(part), device, weights_only=False)
        ]

    def gather_rows(self, values, rows):
        """Join ndarrays of the values of own(rows) to one of the values of `rows`."""
        whole = np.empty((len(rows), *values.shape[1:]), values.dtype)
        for rank, part in enumerate(self.gather([values])):
            whole[self.owner(rows) == rank] = part
        return whole

    def total(self, value):
        """Sum a value, of any type that can be added, over the processes."""
        return reduce(operator.add, self.gather([value]))

    def sum_gradients(self, parameters):
        """Sum gradients over the processes, in place.

        A parameter without a gradient must have none in any process.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with self._telling_of_lost():
            distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def broadcast(self, value):
        """Return the value that the first process gave."""
        if self.size == 1:
            return value
        box = [value]
        with self._telling_of_lost():
            distributed.broadcast_object_list(box)
        return box[0]

    def share_state(self, module):
        """Load the state that the module has in the first process."""
        if self.size > 1:
            state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
            module.load_state_dict(self.broadcast(state))

    @contextmanager
    def _telling_of_lost(self):
        """Say that another process is lost where the group fails."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.size} lost {self._lost()}, which was killed, or let "
                f"it wait longer than the timeout of the group: {error}"
            ) from error

    def _lost(self):
        """Name the processes that have ended or are stopped, as far as this machine can tell.

        A process that is killed loses its connections before it has ended, so this waits a little.
        """
        here = [
            (rank, pid)
            for rank, (machine, pid) in enumerate(self._places)
            if machine == platform.node() and rank != self.rank
        ]
        end = time.monotonic() + _SECONDS_TO_END
        while True:
            states = [(rank, pid, _state(pid)) for rank, pid in here]
            named = [f"process {rank} ({state}, id {pid})" for rank, pid, state in states if state]
            if named or not here or time.monotonic() > end:
                break
            time.sleep(0.05)
        return " and ".join(named) or "another one"

    @contextmanager
    def agree(self):
        """Raise in all processes when one has raised. Do not use the group inside.

        The process that failed raises its own error, the others a RuntimeError that quotes it.
        """
        if self.size == 1:
            yield
            return
        raised = None
        try:
            yield
        except Exception as error:
            raised = error
        failures = self.gather([None if raised is None else f"{type(raised).__name__}: {raised}"])
        if raised is not None:
            raise raised
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise RuntimeError(f"process {rank} of {self.size} failed with {failure}")


def _state(pid):
    """Return "ended" or "stopped" of a process of this machine that does not go on, else ""."""
    if os.name != "posix":
        return ""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return "ended"
    except OSError:  # of another user, or no /proc
        return ""
    return {"Z": "ended", "X": "ended", "T": "stopped", "t": "stopped"}.get(status, "")


class OfSome(Processes):
    """The same group, for some of its samples, which are numbered from 0 again.

    `numbers`, an ndarray of int, holds the former number of each.
    """

    def __init__(self, processes, numbers):
        self.__dict__.update(processes.__dict__)
        self._before, self._numbers = processes, numbers

    @property
    def everyone(self):
        """The group, for all samples there are."""
        return self._before.everyone

    def owner(self, rows):
        """Return the rank of the process to which each of `rows`, an ndarray of int, belongs."""
        return self._before.owner(self._numbers[rows])


ALONE = Processes()


@contextmanager
def launched():
    """Join the processes that torchrun started, if it did; only the first of them prints.

    A process that waits for another longer than `LONGEST_WAIT` raises RuntimeError.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield ALONE
        return
    distributed.init_process_group(timeout=LONGEST_WAIT)  # gloo for the CPU, nccl for GPUs
    try:
        processes = Processes.current()
        with redirect_stdout(sys.stdout if processes.is_first else io.StringIO()):
            yield processes
    finally:
        leave_group()


def leave_group():
    """Leave the group of processes.

    In torch 2.6, `destroy_process_group` keeps the interpreter lock while it waits for a thread
    that needs the lock to free its last tensors. The pause lets it run first.
    """
    time.sleep(0.2)
    distributed.destroy_process_group()
