"""Drawn pictures of two products, which several test modules share."""

import numpy as np
from PIL import Image

SIDE = 32


def draw(rng, product, *, defect=False):
    """Return pixels (32, 32, 3) of stripes or checks; a defect is a white square."""
    row, column = np.mgrid[:SIDE, :SIDE]
    wave = np.sin(row / 2) if product == "stripe" else np.sign(np.sin(row / 3) * np.sin(column / 3))
    grey = 100 + 40 * wave + rng.normal(0, 6, (SIDE, SIDE))
    if defect:
        grey[10:20, 10:20] = 255
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def fine_products(n, seed=0, shape=(SIDE, SIDE)):
    """Return fine stripes and checks, (n, height, width, 3) uint8, and their labels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    images = []
    for i in range(n):
        wave = np.sin((columns + rng.integers(0, 8)) * 0.8)
        if i % 2:
            wave = wave * np.sin((rows + rng.integers(0, 8)) * 0.8)
        grey = 0.5 + 0.3 * wave + rng.normal(0, 0.03, wave.shape)
        images.append(np.stack([grey, grey * 0.9, grey * 0.8], axis=-1))
    labels = np.array(["stripes", "checks"] * n)[:n]
    return (np.clip(images, 0, 1) * 255).astype(np.uint8), labels
