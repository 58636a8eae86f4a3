"""What a user's module returns, as a list of maps."""

from collections.abc import Mapping

import torch

RETURNS = (
    "a map (n, channels, height, width), tokens (n, n_tokens, channels), a list, tuple or dict of "
    "these, or an object with feature_maps, hidden_states or last_hidden_state"
)
# Of the outputs of transformers, the first that is there. Attributes or keys.
_FIELDS = ("feature_maps", "reshaped_hidden_states", "hidden_states", "last_hidden_state")
_EXTRA_TOKENS = (0, 1, 2, 5)  # none; class; class and distillation; class and four registers


def output_items(output):
    """Return what a module returned as a list: maps and tokens, not yet checked.

    Raises ValueError if there is nothing that could be a map.
    """
    for field in _FIELDS:
        found = output.get(field) if isinstance(output, Mapping) else getattr(output, field, None)
        if found is not None:
            output = found
            break
    if isinstance(output, torch.Tensor):
        items = [output]
    elif isinstance(output, Mapping):
        items = list(output.values())
    elif isinstance(output, list | tuple):
        items = list(output)
    else:
        raise ValueError(f"backbone: the module must return {RETURNS}; it returned {output!r:.80}.")
    if not items:
        raise ValueError(
            f"backbone: the module must return {RETURNS}; it returned an empty "
            f"{type(output).__name__}."
        )
    return items


def select_items(items, out_indices):
    """Return the items that `out_indices` asks for: all of them, or a tuple of indices."""
    if isinstance(out_indices, str):
        return items
    for index in out_indices:
        if not -len(items) <= index < len(items):
            raise ValueError(
                f"out_indices={tuple(out_indices)}: the module returns {len(items)} maps, of "
                f"indices 0 to {len(items) - 1}."
            )
    return [items[index] for index in out_indices]


def as_map(item, pixels):
    """Return an item as a map (n, channels, height, width) of the images `pixels` (n, 3, h, w).

    Tokens (n, n_tokens, channels) are laid out in the grid that the image has for one size of
    patch. Tokens before the patches are left out: a class token, a distillation token, registers.
    Raises ValueError if an item is neither map nor tokens, has its channels last, or the grid is
    not the only one.
    """
    if not isinstance(item, torch.Tensor):
        raise ValueError(
            f"backbone: the module must return {RETURNS}; one item is of type "
            f"{type(item).__name__}."
        )
    shape = tuple(item.shape)
    if item.ndim not in (3, 4) or len(item) != len(pixels) or not item.numel():
        advice = " Return what is there before the pooling." if item.ndim == 2 else ""
        raise ValueError(
            f"backbone: the module must return {RETURNS}; for {len(pixels)} images it returned a "
            f"tensor of shape {shape}.{advice}"
        )
    size = tuple(pixels.shape[2:])
    if item.ndim == 3:
        return _tokens_as_map(item, size)
    _, _, height, width = shape
    if _is_in_proportion(shape[1:3], size) and not _is_in_proportion((height, width), size):
        raise ValueError(
            f"backbone: for images of {size[0]} x {size[1]} pixels the module returned a map of "
            f"shape {shape}, which seems to have its channels last. Return (n, channels, height, "
            "width): tensor.permute(0, 3, 1, 2)."
        )
    return item


def _is_in_proportion(sides, size):
    """Whether a map has about the proportions of the image, up to a factor of 2."""
    return 0.5 < sides[0] * size[1] / (sides[1] * size[0]) < 2


def _tokens_as_map(tokens, size):
    grids = _grids(tokens.shape[1], size)
    if len(grids) != 1:
        reason = "no grid of patches has" if not grids else f"the grids {sorted(grids)} have"
        raise ValueError(
            f"backbone: the module returned tokens of shape {tuple(tokens.shape)} for images of "
            f"{size[0]} x {size[1]} pixels, and {reason} that many, with or without class token "
            "and registers. Return a map (n, channels, height, width) instead: leave out the "
            "tokens that are no patches, then "
            "tokens.transpose(1, 2).unflatten(2, (height, width))."
        )
    ((height, width),) = grids
    patches = tokens[:, tokens.shape[1] - height * width :]
    return patches.transpose(1, 2).unflatten(2, (height, width))


def _grids(n_tokens, size):
    """(rows, columns) of every grid of square patches that leaves a usual number of tokens over."""
    found = {(size[0] // patch, size[1] // patch) for patch in range(1, min(size) + 1)}
    return {
        (rows, columns) for rows, columns in found if n_tokens - rows * columns in _EXTRA_TOKENS
    }
