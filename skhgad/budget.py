"""How much memory one image, or one call, may take; `docs/guide.rst` tells users."""

import math

# Sides of an image, as the backbone sees it.
LONGEST_SIDE = 1 << 14
# Pixels of one image, at all scales together: 2,048 x 2,048 at two scales is a third of it. One
# copy in float32 has 192 MiB; a few are made, and the backbone's own maps come to it.
MOST_PIXELS = 1 << 24
# Numbers in the features of one image, all levels together: 256 MiB in float32.
MOST_NUMBERS = 1 << 26
# Numbers in the parts of an anomaly map, on the grid of the model.
MOST_MAP_NUMBERS = 1 << 24
MOST_CLASSES = 10_000

_LARGEST_BATCH = 32
# Pixels that a processor passes through a backbone at once: of more, the maps are so large that the
# system gives and takes their memory at every layer, which can take longer than the layer.
_PIXELS_AT_ONCE = 2 * 384**2
_PIECES = 8  # of a batch, at least, for threads to share


def n_pixels(size, scales):
    """Pixels of an image (height, width) at all scales; at `size` itself, if that is more."""
    return max(1, sum(scale**2 for scale in scales)) * math.prod(size)


def check_pixels(size, scales):
    """Raise ValueError if one image has more than `MOST_PIXELS` pixels.

    `scales` is a tuple of float.
    """
    found = n_pixels(size, scales)
    if found > MOST_PIXELS:
        raise ValueError(
            f"image_size={size} at image_scales={scales} makes {found:,.0f} pixels of one image, "
            f"at most {MOST_PIXELS:,} are allowed: choose a smaller image_size, or fewer or "
            "smaller image_scales."
        )
    longest = max(size) * max(scales)
    if longest > LONGEST_SIDE:
        raise ValueError(
            f"image_size={size} at image_scales={scales} makes a side of {longest:,.0f} pixels, at "
            f"most {LONGEST_SIDE:,} are allowed: choose a smaller image_size."
        )


def n_numbers(levels):
    """Features of one image, of levels (n_features, height, width)."""
    return sum(math.prod(level) for level in levels)


def check_levels(levels, map_size, hidden_ratio):
    """Raise ValueError if features or maps of one image take more than is allowed.

    Parameters
    ----------
    levels : list of (n_features, height, width)
    map_size : (height, width)
        The grid on which levels are summed.
    hidden_ratio : float
        Width of the flow's hidden layers over that of the features.
    """
    found = n_numbers(levels) * max(1, hidden_ratio)
    if found > MOST_NUMBERS:
        raise ValueError(
            f"the features of one image, of shapes {levels[:4]!r:.200}, make {found:,.0f} numbers, "
            f"at most {MOST_NUMBERS:,} are allowed: choose a smaller image_size, fewer "
            "image_scales or out_indices, or a smaller max_features or hidden_ratio."
        )
    found = len(levels) * math.prod(map_size)
    if found > MOST_MAP_NUMBERS:
        raise ValueError(
            f"the {len(levels)} levels of one anomaly map of {map_size} make {found:,} numbers, at "
            f"most {MOST_MAP_NUMBERS:,} are allowed: choose a smaller image_size, or fewer "
            "image_scales or out_indices."
        )


def images_per_batch(size, scales, levels):
    """Return how many images are read and run at once: 32, or fewer where images are large."""
    by_pixels = MOST_PIXELS // math.ceil(n_pixels(size, scales))
    by_numbers = MOST_NUMBERS // n_numbers(levels)
    return max(1, min(_LARGEST_BATCH, by_pixels, by_numbers))


def images_at_once(n_images, size, scales):
    """Return how many images of a batch a processor passes through the backbone at once."""
    largest = max(1, max(scales)) ** 2 * math.prod(size)
    return max(1, min(-(-n_images // _PIECES), int(_PIXELS_AT_ONCE / largest)))
