"""Draw docs/picture.png: one model for three surfaces, on photographs that scikit-image ships.

    python docs/make_picture.py

Each photograph is 4 x 4 tiles of 128 pixels. The four tiles of the diagonal are shown: one as it
is, the others with a coin, a small coin and a patch of another surface laid on them. The detector
learns crops that touch none of the four, half of them mirrored. What is laid where is drawn at
random once; nothing was chosen by its result.

Brick, grass and gravel are CC0; the photograph of the coins has no known copyright restrictions.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage import data

from skhgad import HGADDetector
from skhgad.display import HeatScale, overlay

SIZE = 128  # of tiles and crops, in pixels
TILES = SIZE * np.arange(4)  # top of each tile that is shown, and its left
N_TRAIN = 400  # crops of each surface; a fifth of them sets threshold and p-values
# Crops that calibrate overlap with those of the fit: more of what is really new is flagged.
FALSE_ALARM_RATE = 0.02
SURFACES = {"brick": data.brick, "grass": data.grass, "gravel": data.gravel}
PATCH_FROM = {"brick": "gravel", "grass": "brick", "gravel": "grass"}
COINS = [(194, 274), (193, 213), (262, 172), (44, 335)]  # row and column of some centers
RADIUS, SMALL_RADIUS = 22, 10  # of what is laid on a tile, in pixels


def training_crops(surface, rng):
    """Cut crops at random that overlap no tile of the diagonal; mirror each with chance 1/2."""
    crops = []
    while len(crops) < N_TRAIN:
        top, left = rng.integers(0, surface.shape[0] - SIZE + 1, 2)
        if not np.any((abs(top - TILES) < SIZE) & (abs(left - TILES) < SIZE)):
            crop = surface[top : top + SIZE, left : left + SIZE]
            crops.append(crop[:, :: rng.choice([1, -1])])
    return crops


def square(image, row, column, radius):
    """Cut the square of 2 radius + 1 pixels around (row, column)."""
    return image[row - radius : row + radius + 1, column - radius : column + radius + 1]


def draw_coin(rng, radius):
    """Choose a coin and shrink it to `radius`."""
    coin = square(data.coins(), *COINS[rng.integers(len(COINS))], RADIUS)
    return np.array(Image.fromarray(coin).resize((2 * radius + 1,) * 2, Image.Resampling.LANCZOS))


def with_disc(image, disc, rng):
    """Lay the round middle of the square `disc` somewhere over the image."""
    radius = len(disc) // 2
    row, column = rng.integers(RADIUS, SIZE - RADIUS, 2)
    offsets = np.arange(-radius, radius + 1)
    opacity = np.clip(radius - np.hypot(*np.meshgrid(offsets, offsets)), 0, 1)
    changed = image.astype(float)
    place = square(changed, row, column, radius)
    place += opacity * (disc - place)
    return np.rint(changed).astype(np.uint8)


def samples(rng):
    """Draw training crops with labels, and the tiles to show: content, image, changed pixels."""
    surfaces = {name: load() for name, load in SURFACES.items()}
    train, labels, shown = [], [], []
    for name, surface in surfaces.items():
        train += training_crops(surface, rng)
        labels += [name] * N_TRAIN
    for name, surface in surfaces.items():
        tiles = [surface[start : start + SIZE, start : start + SIZE] for start in TILES]
        patch = square(surfaces[PATCH_FROM[name]], SIZE // 2, SIZE // 2, RADIUS)
        images = {
            f"{name} as it is": tiles[0],
            f"{name}, a coin on it": with_disc(tiles[1], draw_coin(rng, RADIUS), rng),
            f"{name}, a small coin": with_disc(tiles[2], draw_coin(rng, SMALL_RADIUS), rng),
            f"{name}, {PATCH_FROM[name]} in it": with_disc(tiles[3], patch, rng),
        }
        shown += [
            (content, image, image != tile)
            for (content, image), tile in zip(images.items(), tiles, strict=True)
        ]
    return np.stack(train), labels, shown


def verdict(is_anomaly, anomaly_map, changed, threshold):
    """Say in words whether the detector is right: about the tile, and about the place."""
    if not changed.any():
        return "false alarm" if is_anomaly else "normal"
    if not is_anomaly:
        return "missed"
    return "found" if (anomaly_map[changed] > threshold).any() else "found elsewhere"


def main():
    """Fit, score and draw."""
    train, labels, shown = samples(np.random.default_rng(0))
    detector = (
        HGADDetector(random_state=0)
        .fit(train, labels)
        .set_threshold(false_alarm_rate=FALSE_ALARM_RATE)
    )
    contents, images, changes = zip(*shown, strict=True)
    found, scale = detector.inspect(np.stack(images), maps=True), HeatScale.of(detector)
    n_columns = 2 * len(shown) // len(SURFACES)
    figure, axes = plt.subplots(len(SURFACES), n_columns, figsize=(11, 5), layout="constrained")
    for row, ax in enumerate(axes.reshape(-1, 2)):
        word = verdict(found.is_anomaly[row], found.maps[row], changes[row], -detector.offset_)
        ax[0].imshow(images[row], cmap="gray", vmin=0, vmax=255)
        ax[0].set_title(contents[row], fontsize=8)
        ax[1].imshow(overlay(images[row], scale.heat(found.maps[row])))
        ax[1].set_title(f"{word}, p = {found.p_value[row]:.3f}", fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    target = Path(__file__).with_name("picture.png")
    figure.savefig(target, dpi=90)
    # 256 colours: the same to the eye, a third of the bytes.
    Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main()
