"""Torch in forked processes."""

import os

import torch

_process = os.getpid()


def keep_to_one_thread_if_forked():
    """Let torch compute with one thread in a process that was forked after skhgad was imported.

    The threads of OpenMP stay behind in the parent, and the first parallel loop of the child would
    wait for them for ever. Workers that were spawned keep their threads.
    """
    global _process
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process = os.getpid()
