"""Draw docs/picture.png: one model on three textures that scikit-image ships (all CC0).

    python docs/make_picture.py

Normal samples are crops of the textures; the damage is drawn on other crops.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, draw

from skhgad import HGADDetector

SIZE = 128
TEXTURES = {"brick": data.brick, "grass": data.grass, "gravel": data.gravel}


def crops(texture, n, rng, low, high):
    """Cut n crops whose left edges lie between `low` and `high`."""
    tops = rng.integers(0, texture.shape[0] - SIZE, n)
    lefts = rng.integers(low, high - SIZE, n)
    return [texture[t : t + SIZE, left : left + SIZE] for t, left in zip(tops, lefts, strict=True)]


def scratch(image):
    """Draw a bright scratch."""
    damaged = image.copy()
    for shift in range(3):
        damaged[draw.line(30, 30 + shift, 70, 95 + shift)] = 235
    return damaged


def stain(image):
    """Draw a smooth dark stain."""
    damaged = image.copy()
    rows, columns = draw.ellipse(80, 50, 16, 22, shape=image.shape)
    damaged[rows, columns] = damaged[rows, columns] // 3
    return damaged


def main():
    """Fit, score and draw."""
    rng = np.random.default_rng(0)
    train, labels, shown = [], [], []
    for name, load in TEXTURES.items():
        texture = load()
        train += crops(texture, 80, rng, 0, 380)
        labels += [name] * 80
        left, middle, right = crops(texture, 3, rng, 380, texture.shape[1])
        shown += [left, scratch(middle), stain(right)]
    detector = HGADDetector(random_state=0).fit(np.stack(train), labels)
    shown = np.stack(shown)
    maps, verdicts = detector.anomaly_maps(shown), detector.predict(shown)
    found, p_values = detector.predict_class(shown), detector.p_values(shown)
    figure, axes = plt.subplots(2, len(shown), figsize=(13, 3.4), layout="constrained")
    for column, (top, bottom) in enumerate(axes.T):
        verdict = "normal" if verdicts[column] == 1 else "ANOMALY"
        top.imshow(shown[column], cmap="gray", vmin=0, vmax=255)
        top.set_title(f"{found[column]}: {verdict}\np = {p_values[column]:.2f}", fontsize=9)
        bottom.imshow(shown[column], cmap="gray", vmin=0, vmax=255)
        bottom.imshow(maps[column], cmap="inferno", alpha=0.6, vmin=0, vmax=12)
        top.set_axis_off()
        bottom.set_axis_off()
    figure.savefig(Path(__file__).with_name("picture.png"), dpi=80)


if __name__ == "__main__":
    main()
