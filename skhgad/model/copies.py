"""Copies of modules of which large parts are about to be replaced."""

import copy


def copied(module, but):
    """Return a deep copy of a module that shares the tensors of some names with it.

    They must be replaced in the copy, not changed in place.
    """
    shared = (getattr(module, name) for name in but)
    return copy.deepcopy(module, {id(values): values for values in shared})
