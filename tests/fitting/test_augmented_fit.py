"""A fit to harmlessly changed pictures takes such changes for normal."""

import json
import zlib

import numpy as np
import pytest
from backbones import RandomFilters
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_pictures import SIDE, write

from skhgad import HGADDetector
from skhgad.command_line.main import main
from skhgad.images import augmentation
from skhgad.images.augmentation import AugmentedSource
from skhgad.storage.detector_state import pack
from skhgad.storage.model_folder import load_state, save_state

pytestmark = pytest.mark.usefixtures("one_thread")

STRONG = {"shift": 0.1, "brightness": 0.2, "noise": 0.03}


class Stages(RandomFilters):
    """Maps of strides 2, 4 and 8, which make two levels."""

    def __init__(self, **options):
        super().__init__((8, 2), (12, 2), (12, 2), **options)


def plates(n, seed=0, shape=(SIDE, SIDE), n_channels=3):
    """A dark plate with a bright ring that always lies at the same place."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    radius = np.hypot(rows - shape[0] / 2, columns - shape[1] / 2)
    ring = 80 + 90 * np.exp(-((radius - 9) ** 2) / 3)
    gain = rng.normal(1, 0.01, (n, 1, 1, 1))
    colour = np.linspace(1, 0.8, n_channels)
    pixels = ring[..., None] * colour * gain + rng.normal(0, 1, (n, *shape, n_channels))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def small(backbone=None, **parameters):
    given = {"image_size": SIDE, "random_state": 0, "n_blocks": 1, "device": "cpu"} | parameters
    return HGADDetector(backbone or Stages(), **given)


def shifted(images):
    return np.roll(images, (1, -2), axis=(1, 2))


def noisy(images):
    noise = np.random.default_rng(9).normal(0, 5, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def brighter(images):
    return np.clip(np.rint(images * 1.12), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def normals():
    return plates(60)


@pytest.fixture(scope="module")
def plain(normals, one_thread):
    return small().fit(normals)


@pytest.fixture(scope="module")
def varied(normals, one_thread):
    return small(augmentation=STRONG).fit(normals)


@pytest.mark.parametrize("change", [shifted, noisy, brighter])
def test_changed_normals_are_flagged_far_less(plain, varied, change):
    images = change(plates(60, seed=1))
    before, after = ((detector.predict(images) == -1).mean() for detector in (plain, varied))
    assert before > 0.7 and after < 0.2


def test_normals_pass_and_defects_are_found(varied):
    fresh = plates(60, seed=1)
    assert (varied.predict(fresh) == -1).mean() < 0.1
    damaged = fresh.copy()
    damaged[:, 18:26, 4:12] = (250, 20, 20)
    assert (varied.predict(damaged) == -1).all()


def test_pictures_that_are_scored_are_never_changed(varied, monkeypatch):
    fresh = plates(10, seed=1)
    expected = varied.inspect(fresh, maps=True)

    def fail(*_):
        raise AssertionError("a picture that is scored was changed")

    monkeypatch.setattr(augmentation, "augmented", fail)
    found = varied.inspect(fresh, maps=True)
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.maps, expected.maps)
    varied.p_values(fresh)
    varied.explain(fresh[:2])


@pytest.mark.parametrize("method", ["fit", "update", "add_class"])
def test_each_normal_is_changed_when_a_model_learns(normals, varied, tmp_path, monkeypatch, method):
    seen, change = [], augmentation.augmented

    def spy(pixels, amounts):
        assert amounts == STRONG
        seen.append(zlib.crc32(np.ascontiguousarray(pixels)))
        return change(pixels, amounts)

    monkeypatch.setattr(augmentation, "augmented", spy)
    if method == "fit":
        learned = normals
        small(augmentation=STRONG).fit(learned)
    else:
        learned = plates(24, seed=5)
        varied.save(tmp_path / "model")
        detector = HGADDetector.load(tmp_path / "model", backbone=Stages())
        labels = 1 if method == "add_class" else None
        getattr(detector, method)(learned, labels)
    assert {zlib.crc32(pixels) for pixels in learned} <= set(seen)


def test_appearances_are_those_of_the_pictures_as_they_are(plain, varied):
    expected = np.sort(plain.model_.appearances.x, axis=0)
    np.testing.assert_array_equal(np.sort(varied.model_.appearances.x, axis=0), expected)


def test_copies_are_noticed_as_without(normals):
    with pytest.warns(UserWarning, match="are copies of others"):
        small(augmentation="mild").fit(np.concatenate([normals[:20], normals[:20]]))


def test_the_number_of_threads_changes_nothing(normals, varied):
    again = small(augmentation=STRONG, n_jobs=2).fit(normals)
    fresh = plates(10, seed=1)
    np.testing.assert_array_equal(again.score_samples(fresh), varied.score_samples(fresh))


def test_the_order_of_pictures_changes_no_picture(normals):
    """Nor, where no folds are drawn, the scores."""
    settings = {"augmentation": STRONG, "validation_fraction": 0}
    fresh = plates(10, seed=1)
    found = [
        small(**settings).fit(X).score_samples(fresh) for X in (normals[:30], normals[:30][::-1])
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
    other = small(**settings).fit(plates(30, seed=2)).score_samples(fresh)
    assert np.abs(other - found[0]).max() > 100 * np.abs(found[1] - found[0]).max()


@pytest.mark.parametrize("value", ["mild", STRONG, {"shift": np.float32(0.125)}])
def test_a_model_keeps_the_value(tmp_path, value):
    detector = small(augmentation=value).fit(plates(24))
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=Stages())
    assert loaded.augmentation == value
    fresh = plates(6, seed=1)
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    loaded.update(plates(8, seed=2))


def test_a_model_of_an_older_version_makes_no_changes(plain, tmp_path):
    tensors, description = pack(plain)
    del description["parameters"]["augmentation"]
    save_state(tmp_path / "model", tensors, description)
    loaded = HGADDetector.load(tmp_path / "model", backbone=Stages())
    assert loaded.augmentation is None
    loaded.update(plates(8, seed=2))


@pytest.mark.parametrize("value", ["strong", {"shift": 9}, {"zoom": 1}, {"shift": "a"}, [1, 2], 3])
def test_a_strangers_model_with_a_wrong_value_is_refused(varied, tmp_path, value):
    varied.save(tmp_path / "model")
    tensors, description = load_state(tmp_path / "model")
    description["parameters"]["augmentation"] = json.loads(json.dumps(value))
    save_state(tmp_path / "model", tensors, description)
    with pytest.raises(ValueError, match="augmentation"):
        HGADDetector.load(tmp_path / "model", backbone=Stages())


def test_what_the_caller_does_to_the_dict_later_changes_no_model():
    value = {"shift": 0.1}
    detector = small(augmentation=value).fit(plates(24))
    value["shift"] = 0.2
    assert detector.model_.parameters["augmentation"] == {"shift": 0.1}


def test_clones_and_searches(normals):
    detector = small(augmentation={"shift": 0.05})
    assert clone(detector).augmentation == {"shift": 0.05}
    images = np.concatenate([normals[:24], brighter(plates(24, seed=3))])
    images[24:, 10:20, 10:20] = 255
    y = np.repeat([1, -1], 24)
    rng = np.random.default_rng(0).permutation(48)
    grid = {"augmentation": [None, {"shift": 0.02}]}
    search = GridSearchCV(
        small(known_anomalies="ignore"), grid, scoring="roc_auc", cv=2, error_score="raise"
    ).fit(images[rng], y[rng])
    assert len(search.cv_results_["params"]) == 2


@pytest.mark.parametrize("value", [None, "mild"])
def test_tables_have_nothing_to_change(value):
    X = np.random.default_rng(0).normal(size=(60, 4))
    found = HGADDetector(random_state=0, augmentation=value).fit(X).score_samples(X)
    expected = HGADDetector(random_state=0).fit(X).score_samples(X)
    np.testing.assert_array_equal(found, expected)


def test_a_wrong_value_is_refused_before_the_fit():
    with pytest.raises(ValueError, match=r"augmentation\['zoom'\] is not known"):
        small(augmentation={"zoom": 1}).fit(plates(24))


MASK = np.zeros((SIDE, SIDE), dtype=bool)
MASK[4:28, 4:28] = True
FRAMES = {
    "tiles": ({"tile_size": SIDE}, {}, (36, 52)),
    "padding": ({"resize": "pad"}, {}, (24, 36)),
    "region": ({}, {"roi": MASK}, (SIDE, SIDE)),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_changed_before_they_are_framed(frame):
    """A picture moves behind its region, its tiles and its padding, none of which move."""
    parameters, of_fit, size = FRAMES[frame]
    X, fresh = plates(40, 0, size), brighter(plates(40, 1, size))
    plain, varied = (
        small(augmentation=value, **parameters).fit(X, **of_fit) for value in (None, STRONG)
    )
    before, after = ((detector.predict(fresh) == -1).mean() for detector in (plain, varied))
    assert before > 0.7 and after < 0.3


@pytest.mark.parametrize("n_channels", [1, 7])
def test_pictures_of_other_channels(n_channels):
    X, fresh = plates(40, 0, n_channels=n_channels), plates(40, 1, n_channels=n_channels)
    backbone = Stages(n_channels=n_channels)
    backbone.pretrained_cfg = {"mean": (0.5,) * n_channels, "std": (0.25,) * n_channels}
    plain, varied = (small(backbone, augmentation=value).fit(X) for value in (None, STRONG))
    images = brighter(fresh)
    before, after = ((detector.predict(images) == -1).mean() for detector in (plain, varied))
    assert before > 0.7 and after < 0.3


def test_pictures_of_16_bits_change_as_those_of_8():
    X, fresh = plates(40), plates(10, seed=1)
    detector = small(augmentation=STRONG).fit(X)
    deep = small(augmentation=STRONG, value_range=(0, 65535)).fit(X.astype(np.uint16) * 257)
    found = deep.score_samples(fresh.astype(np.uint16) * 257)
    scores = detector.score_samples(fresh)
    np.testing.assert_allclose(found, scores, atol=0.2 * np.ptp(scores))


def test_known_anomalies_change_as_normals_do(normals):
    """Else what was not changed would look like a defect."""
    known = plates(12, seed=4)
    masks = np.zeros((12, SIDE, SIDE), dtype=bool)
    masks[:, 4:12, 18:26] = True
    known[masks] = (200, 40, 40)
    X = np.concatenate([normals, known])
    y = np.repeat([0, -1], [len(normals), 12])
    detector = small(augmentation=STRONG).fit(X, y, masks=[None] * len(normals) + list(masks))
    fresh = plates(60, seed=1)
    assert (detector.predict(fresh) == -1).mean() < 0.15
    damaged = fresh.copy()
    damaged[:, 4:12, 18:26] = (200, 40, 40)
    assert (detector.predict(damaged) == -1).all()


@pytest.mark.parametrize(
    ("setting", "expected"), [("mild", "mild"), ("{'shift': 0.02}", {"shift": 0.02})]
)
def test_the_command_takes_it(tmp_path, setting, expected):
    for i, pixels in enumerate(plates(20)):
        write(tmp_path / "good" / f"{i}.png", pixels)
    command = f"fit {tmp_path / 'good'} --out {tmp_path / 'model'} --image-size {SIDE}".split()
    assert main([*command, "--set", f"augmentation={setting}"]) in (0, None)
    assert HGADDetector.load(tmp_path / "model").augmentation == expected


def test_a_source_of_changed_pictures_is_not_read_when_made(tmp_path):
    from skhgad.images import ImageSource

    path = write(tmp_path / "a.png", plates(1)[0])
    source = AugmentedSource(ImageSource([path]), STRONG)
    path.unlink()
    assert len(source) == 1
