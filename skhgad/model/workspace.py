"""Memory that the steps of a training share."""

import math


class Workspace:
    """Memory of a pass, used again by the next one.

    Without it every step of a training would get some 100 MB from the operating system and give
    them back, a fourth of its time.
    """

    def __init__(self):
        self.buffers, self.n_used = [], 0

    def rewind(self):
        """Take everything back."""
        self.n_used = 0

    def empty(self, like, *shape, dtype=None):
        """Return an array without content on the device of `like`, by default of its dtype.

        That of the pass before, in the order of the calls, wherever it is large enough.
        """
        dtype, size, number = dtype or like.dtype, math.prod(shape), self.n_used
        self.n_used += 1
        if number == len(self.buffers):
            self.buffers.append(like.new_empty(size, dtype=dtype))
        buffer = self.buffers[number]
        if (buffer.dtype, buffer.device) != (dtype, like.device) or len(buffer) < size:
            buffer = self.buffers[number] = like.new_empty(size, dtype=dtype)
        return buffer[:size].view(shape)
