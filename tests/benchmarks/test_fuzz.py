"""A short, fixed run of the fuzzer; `python -m benchmarks.fuzz` is the long one."""

import pytest

from benchmarks import fuzz


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return fuzz.Fuzzer(0, tmp_path_factory.mktemp("fuzz"))


def test_broken_files_are_read_or_refused_as_documented(fuzzer):
    outcomes, failures = fuzz.fuzz(fuzzer, range(400))
    assert failures == {}
    assert outcomes.keys() == {"png", "jpeg", "bmp", "tiff", "gif", "webp", "model"}
    total = sum(outcomes.values(), start=type(outcomes["png"])())
    assert total["read"] > 10 and total["ValueError"] > 200  # neither all harmless nor all hopeless


def test_valid_files_are_read(fuzzer):
    for name, content in fuzzer.images.items():
        path = fuzzer.folder / name
        path.write_bytes(content)
        outcome = fuzzer._read(path, (0, 65535))
        assert outcome in ("read", "ValueError")  # transparency and animations are refused
    for content in fuzzer.models:
        (fuzzer.folder / "model" / fuzz.MODEL).write_bytes(content)
        assert fuzzer._load() == "read"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about what is broken
def test_a_case_depends_on_its_number_alone(fuzzer, tmp_path):
    other = fuzz.Fuzzer(0, tmp_path)
    for number in range(30):
        fuzzer.case(number)
    for number in (30, 31):
        assert fuzzer.case(number) == other.case(number)
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (fuzzer.folder / path.relative_to(tmp_path)).read_bytes()


def endless(*_):
    while True:
        try:
            sum(range(1000))
        except Exception:  # a reader that takes everything for a broken file
            pass


def out_of_memory(*_):
    raise MemoryError


@pytest.mark.parametrize(
    ("read", "failure"), [(out_of_memory, "MemoryError"), (endless, "Hang"), (print, "Attribute")]
)
def test_what_is_not_documented_is_a_failure(fuzzer, monkeypatch, read, failure):
    monkeypatch.setattr(fuzz, "LIMIT", 0.2)
    monkeypatch.setattr(fuzz.ImageSource, "read", read)
    outcomes, failures = fuzz.fuzz(fuzzer, [0])
    assert failure in type(failures[0]).__name__
    assert outcomes == {"image": {"FAILURE": 1}}
