"""Small trees of images, laid out as published data sets, which several test modules share."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

LOGICAL = {
    "defect_name": "missing_pushpin",
    "pixel_value": 255,
    "saturation_threshold": 3,
    "relative_saturation": False,
}
STRUCTURAL = {
    "defect_name": "front_bent",
    "pixel_value": 200,
    "saturation_threshold": 1.0,
    "relative_saturation": True,
}


def save(root, name, pixels):
    """Write an array as an image."""
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def write(root, names, size=(8, 6)):
    """Write a white image per name below `root`; a name may be followed by its (width, height)."""
    for name in names:
        name, (width, height) = name if isinstance(name, tuple) else (name, size)
        save(root, name, np.full((height, width), 255))


def write_text(root, name, text):
    Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    Path(root, name).write_text(text, encoding="utf-8")


def mvtec_ad_2_tree(root, name="can", n=1):
    public = f"{name}/test_public"
    for index in range(n):
        image = f"{index:03}_regular"
        write(root, [f"{name}/{part}/good/{image}.png" for part in ("train", "validation")])
        write(root, [f"{public}/good/{image}.png", f"{public}/bad/{image}.png"])
        write(root, [f"{public}/ground_truth/bad/{image}_mask.png"])
    write(root, [f"{name}/test_private/000_regular.png"])
    write(root, [f"{name}/test_private_mixed/000_mixed.png"])
    write_text(root, "license.txt", "text")
    return Path(root)


def loco_tree(root, name="pushpins"):
    write(root, [f"{name}/{part}/good/000.png" for part in ("train", "validation", "test")])
    for kind in ("logical_anomalies", "structural_anomalies"):
        write(root, [f"{name}/test/{kind}/000.png", f"{name}/test/{kind}/001.png"])
    first, second = np.zeros((2, 6, 8))
    first[:2, :4], second[1:3, 3:6] = 255, 200
    truth = f"{name}/ground_truth"
    save(root, f"{truth}/logical_anomalies/000/000.png", first)
    save(root, f"{truth}/logical_anomalies/000/001.png", second)
    save(root, f"{truth}/logical_anomalies/001/000.png", first)
    for index in ("000", "001"):
        save(root, f"{truth}/structural_anomalies/{index}/000.png", second)
    write_text(root, f"{name}/defects_config.json", json.dumps([LOGICAL, STRUCTURAL]))
    return Path(root)


def real_iad_list(name="audiojack"):
    """Return the content of a JSON file."""

    def entry(defect, path, mask=None):
        fields = {"category": name, "anomaly_class": defect, "image_path": path}
        return {**fields, "mask_path": mask}

    bad = f"NG/AK/S0001/{name}_0001_NG_AK_C1_1"
    return {
        "meta": {"prefix": f"{name}/", "normal_class": "OK", "pre_transform": None},
        "train": [entry("OK", f"OK/S0001/{name}_0001_OK_C{camera}_1.jpg") for camera in (1, 2)],
        "test": [
            entry("OK", f"OK/S0002/{name}_0002_OK_C1_1.jpg"),
            entry("AK", f"{bad}.jpg", f"{bad}.png"),
        ],
    }


def real_iad_tree(root, name="audiojack", lists="realiad_jsons", images="realiad_1024"):
    content = real_iad_list(name)
    for row in content["train"] + content["test"]:
        paths = [row["image_path"], row["mask_path"]]
        write(Path(root, images, name), [path for path in paths if path])
    write_text(root, f"{lists}/{name}.json", json.dumps(content))
    return Path(root)


def kolektor_tree(root):
    for split, first in (("train", 10000), ("test", 20000)):
        for index, is_bad in ((first, True), (first + 1, False)):
            write(root, [f"{split}/{index}.png"])
            save(root, f"{split}/{index}_GT.png", np.full((6, 8), 255 * is_bad))
    return Path(root)
