"""Buffers that the steps of a training share."""

import math


class Workspace:
    """Buffers of one pass, reused by the next.

    Allocating some 100 MB in every step would take a quarter of the training's time.
    """

    def __init__(self):
        self.buffers, self.n_used = [], 0

    def rewind(self):
        """Mark all buffers as free for the next pass."""
        self.n_used = 0

    def empty(self, like, *shape, dtype=None):
        """Return an uninitialised array on the device of `like`, by default of its dtype.

        The n-th call of a pass gets the n-th buffer of the pass before if that is large enough.
        """
        dtype, size, number = dtype or like.dtype, math.prod(shape), self.n_used
        self.n_used += 1
        if number == len(self.buffers):
            self.buffers.append(like.new_empty(size, dtype=dtype))
        buffer = self.buffers[number]
        if (buffer.dtype, buffer.device) != (dtype, like.device) or len(buffer) < size:
            buffer = self.buffers[number] = like.new_empty(size, dtype=dtype)
        return buffer[:size].view(shape)
