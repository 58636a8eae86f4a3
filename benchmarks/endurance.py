"""What a service lives through: long use, hostile names, kill -9, Ctrl-C, full disks.

    python -m benchmarks.endurance [--only calls ...] [--calls 3000] [--kills 50] [--rows 10000]
                                   [--json FILE] [--seed 0]

Each study prints one line, and the exit status is 1 if one of them does not hold:

calls      3,000 calls from one thread, then from eight: no score differs from the first, and the
           memory after the first 100 calls grows by at most 20 MiB.
workers    the same from a web service of four processes, 100 requests to warm each, then 3,000.
names      the page and the CSV of files with hostile names: markup, formulas, line breaks,
           right-to-left; then a CSV of 10,000 rows.
kills      kill -9 at 50 random moments of save, of fit(memory=) and of report: what is left is
           whole, the old or the new, and the next run succeeds.
shared     two processes that fit with one memory= folder, and a folder with truncated and foreign
           entries: the scores are those without a folder.
full       disks that are full, by a limit on the size of files: an error that says so or a warning,
           and no half file.
interrupt  Ctrl-C at 20 random moments of each command: exit status 130, or 0 where it had ended.
"""

import argparse
import csv
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from skhgad import HGADDetector
from skhgad.command_line.main import main as command
from skhgad.features.store import SUBFOLDER

from .fuzz import Halves

SIDE = 32
MOST_GROWTH = 20.0  # MiB
NAMES = (
    "<img src=x onerror=alert(1)>.png", "=HYPERLINK(A1).png", "@SUM(1).png", "+1+1.png", "-1.png",
    "two\nlines.png", "tab\there.png", "\u202egnp.exe.png", "\x1b[31mred.png", "'; drop.png",
    '"quoted",2.png', "{{ 7*7 }}.png", "&lt;b&gt;.png", "<script>alert(1)--.png",
    "ünï cödé 製品.png",
)  # fmt: skip


def images(n=24):
    """Small random pictures, uint8 (n, SIDE, SIDE, 3)."""
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def detector(**parameters):
    """Return a detector of images whose backbone costs nothing."""
    given = {"image_size": SIDE, "n_blocks": 0, "random_state": 0, "device": "cpu", **parameters}
    return HGADDetector(Halves(), **given)


def resident():
    """Resident MiB of this process; Linux alone tells."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class Child:
    """A forked process that runs `work`, and can be killed or interrupted."""

    def __init__(self, work):
        self.pid = os.fork()
        if not self.pid:
            status = 99
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                    status = work() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def send(self, number, after):
        """Send a signal after some seconds, and wait for the end; returns the exit status."""
        time.sleep(after)
        os.kill(self.pid, number)
        return self.end()

    def end(self):
        """Wait for the end; returns the exit status, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def seconds_of(work):
    """Run work in a child; returns how long it takes."""
    start = time.perf_counter()
    assert Child(work).end() == 0
    return time.perf_counter() - start


def study_calls(args, folder, rng):
    """Score again and again, from one thread and from eight."""
    found, X = {}, np.random.default_rng(1).normal(size=(60, 4))
    fitted = [(HGADDetector(random_state=0).fit(X), X[:8]), (detector().fit(images()), images(4))]
    for name, n_threads in (("one thread", 1), ("eight threads", 8)):
        first = [model.score_samples(samples) for model, samples in fitted]

        def call(i, first=first):
            model, samples = fitted[i % 2]
            return np.array_equal(model.score_samples(samples), first[i % 2])

        with ThreadPoolExecutor(n_threads) as pool:
            same = all(pool.map(call, range(100)))
            before = resident()
            same &= all(pool.map(call, range(args.calls)))
        growth = resident() - before
        found[name] = {"calls": args.calls, "growth, MiB": round(growth, 1), "same": same}
        assert same and growth <= MOST_GROWTH, found
    return found


SERVICE = """
import io
import os

import numpy as np
from fastapi import FastAPI, Request
from PIL import Image

from benchmarks.endurance import resident
from skhgad import HGADDetector

app, detector = FastAPI(), HGADDetector.load("model")


@app.post("/")
async def score(request: Request):
    picture = np.asarray(Image.open(io.BytesIO(await request.body())))[None]
    found = detector.score_samples(picture)[0]
    return {"pid": os.getpid(), "score": float(found), "mib": resident()}
"""


def study_workers(args, folder, rng):
    """Ask a web service of four processes again and again, from eight threads."""
    write_products(folder, [])
    (folder / "service.py").write_text(SERVICE)
    bodies = []
    for pixels in images(4):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        bodies.append(file.getvalue())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "service:app", "--workers", "4"]
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    service = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
    )

    def ask(i):
        place = f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(place, bodies[i % len(bodies)], timeout=120) as answer:
            return i % len(bodies), json.load(answer)

    try:
        for _ in range(120):
            try:
                ask(0)
                break
            except OSError:
                time.sleep(1)
        with ThreadPoolExecutor(8) as pool:
            before = {found["pid"]: found["mib"] for _, found in pool.map(ask, range(400))}
            answers = list(pool.map(ask, range(args.calls)))
    finally:
        service.terminate()
        service.wait(60)
    after = {found["pid"]: found["mib"] for _, found in answers}
    scores = [{found["score"] for of, found in answers if of == i} for i in range(len(bodies))]
    growth = {pid: round(after[pid] - before[pid], 1) for pid in after}
    found = {"calls": len(answers), "growth of each, MiB": sorted(growth.values())}
    assert len(growth) == 4 and max(growth.values()) <= MOST_GROWTH, found
    assert all(len(same) == 1 for same in scores), scores
    return found


def write_products(folder, names):
    """A model of the command line and a folder of pictures with these names."""
    train, test = folder / "train", folder / "test"
    for place, files in ((train, [f"{i}.png" for i in range(24)]), (test, names)):
        place.mkdir(exist_ok=True)
        for pixels, name in zip(images(len(files)), files, strict=True):
            Image.fromarray(pixels).save(place / name, "PNG")
    model = folder / "model"
    if not model.exists():
        given = ["--image-size", str(SIDE), "--device", "cpu", "--set", "random_state=0"]
        assert quiet(["fit", str(train), "--out", str(model), *given]) == 0
    return model, train, test


def quiet(arguments):
    """Run a command in this process without its output; returns the exit status."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return command(arguments)


def study_names(args, folder, rng):
    """Write the page and the CSV of hostile names."""
    model, _, test = write_products(folder, NAMES)
    table, page = folder / "scores.csv", folder / "page"
    assert quiet(["score", str(model), str(test), "--csv", str(table)]) == 0
    rows = list(csv.reader(table.open(newline="")))
    assert len(rows) == len(NAMES) + 1 and len({len(row) for row in rows}) == 1
    cells = [cell for row in rows[1:] for cell in row]
    bad = [c for c in cells if c[:1] in "=@+-" and c and not is_number(c)]
    assert not bad, bad
    assert quiet(["report", str(model), str(test), "--out", str(page)]) == 0
    html = next(page.rglob("*.html")).read_text()
    for text in ("<img src=x onerror", "<script>alert", "49.png"):
        assert text not in html, text
    assert html.count("<bdi>") >= len(NAMES)  # a name turns the direction of no other text
    many = folder / "many"
    many.mkdir()
    source = test / NAMES[4]
    for i in range(args.rows):
        os.link(source, many / f"=cell{i}.png")
    start = time.perf_counter()
    assert quiet(["score", str(model), str(many), "--csv", str(table)]) == 0
    n_rows = sum(1 for _ in csv.reader(table.open(newline=""))) - 1
    assert n_rows == args.rows
    return {"names": len(NAMES), "rows": n_rows, "seconds": round(time.perf_counter() - start)}


def is_number(text):
    """Whether a cell holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def study_kills(args, folder, rng):
    """Kill save, fit(memory=) and report at random moments."""
    found, X = {}, images()
    old, new = (detector(random_state=seed).fit(X) for seed in (0, 1))
    new.set_threshold(false_alarm_rate=0.3)
    place, memory = folder / "saved", folder / "memory"
    old.save(place)
    known = {old.offset_, new.offset_}
    model, _, test = write_products(folder, [f"{i}.png" for i in range(6)])
    page = folder / "report"

    def save():
        new.save(place)

    def fit():
        detector(memory=memory).fit(X)

    def report():
        return quiet(["report", str(model), str(test), "--out", str(page)])

    def saved_is_whole():
        assert HGADDetector.load(place, backbone=Halves()).offset_ in known

    def fit_is_the_same():
        scores = detector(memory=memory).fit(X).score_samples(X[:3])
        np.testing.assert_array_equal(scores, old.score_samples(X[:3]))

    def report_is_whole():
        for html in page.rglob("*.html"):
            assert html.read_text().rstrip().endswith("</html>")

    for work, check in ((save, saved_is_whole), (fit, fit_is_the_same), (report, report_is_whole)):
        longest, n_killed = seconds_of(work), 0
        for _ in range(args.kills):
            n_killed += Child(work).send(signal.SIGKILL, rng.uniform(0, longest)) < 0
            check()
        assert Child(work).end() == 0
        check()
        found[work.__name__] = f"{n_killed} of {args.kills} killed"
    return found


def study_shared(args, folder, rng):
    """Fit with one memory= folder from two processes, and with broken entries in it."""
    X, memory = images(), folder / "shared"
    expected = detector().fit(X).score_samples(X[:3])

    def fit():
        found = detector(memory=memory).fit(X).score_samples(X[:3])
        np.testing.assert_array_equal(found, expected)

    for _ in range(5):
        children = [Child(fit), Child(fit)]
        assert [child.end() for child in children] == [0, 0]
        entries = sorted((memory / SUBFOLDER).rglob("*.safetensors"))
        for i, path in enumerate(entries):
            content = path.read_bytes()
            if i % 4 == 0:
                path.write_bytes(content[: rng.integers(len(content))])
            elif i % 4 == 1:
                path.write_bytes(entries[0].read_bytes() if i > 1 else b"\x80\x04K\x01.")
            elif i % 4 == 2:
                path.unlink()
                path.mkdir() if rng.random() < 0.2 else path.touch()
        fit()
        for path in (memory / SUBFOLDER).rglob("*.safetensors"):
            if path.is_dir():
                path.rmdir()
    return {"fits at once": 10, "fits with broken entries": 5, "entries": len(entries)}


def study_full(args, folder, rng):
    """Save, remember and report where files may have so many bytes and no more."""
    X, place, memory = images(), folder / "full", folder / "full-memory"
    fitted = detector().fit(X)
    fitted.save(place)
    before = sorted(path.name for path in place.iterdir())
    largest = max(path.stat().st_size for path in place.iterdir())  # the limit is of each file
    expected, counts = fitted.score_samples(X[:3]), {"save": 0, "memory": 0}

    def limited(work, limit):
        def run():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return work()

        return Child(run).end()

    def save():
        try:
            fitted.save(place)
        except OSError as error:
            return 7 if str(place) in str(error) else 98
        return 0

    def fit():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = detector(memory=memory).fit(X).score_samples(X[:3])
        np.testing.assert_array_equal(found, expected)

    for limit in (0, 1, 100, largest // 2, largest - 1):
        assert limited(save, int(limit)) == 7
        assert sorted(path.name for path in place.iterdir()) == before
        HGADDetector.load(place, backbone=Halves())
        assert limited(fit, int(limit)) == 0
        counts = {name: n + 1 for name, n in counts.items()}
    return counts


def study_interrupt(args, folder, rng):
    """Press Ctrl-C at random moments of each command."""
    model, train, test = write_products(folder, [f"{i}.png" for i in range(6)])
    small = ["--image-size", str(SIDE), "--device", "cpu", "--set", "random_state=0"]
    labelled = folder / "labelled"
    for kind in ("good", "scratch"):
        (labelled / folder.name / "test" / kind).mkdir(parents=True)
        for i, pixels in enumerate(images(3)):
            Image.fromarray(pixels).save(labelled / folder.name / "test" / kind / f"{i}.png")
    commands = {
        "fit": ["fit", str(train), "--out", str(folder / "fitted"), *small],
        "score": ["score", str(model), str(test), "--csv", str(folder / "s.csv")],
        "evaluate": ["evaluate", str(model), str(labelled), "--json", str(folder / "e.json")],
        "report": ["report", str(model), str(test), "--out", str(folder / "r")],
        "explain": ["explain", str(model), str(test), "--json", str(folder / "x.json")],
        "export": ["export", str(model), str(folder / "m.onnx")],
        "add-class": ["add-class", str(model), str(train), "--name", "new", "--out",
                      str(folder / "added")],
    }  # fmt: skip
    found = {}
    for name, arguments in commands.items():

        def work(arguments=arguments):
            with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
                return command(arguments)

        start = time.perf_counter()
        status = Child(work).end()
        longest, statuses = time.perf_counter() - start, []
        for _ in range(args.interrupts):
            # Not before the command has begun to listen.
            child = Child(work)
            statuses.append(child.send(signal.SIGINT, rng.uniform(0.05, longest)))
        found[name] = {"alone": status, "statuses": sorted(statuses)}
        assert set(statuses) <= {130, status}, found
        print(f"  {name}: {found[name]}", flush=True)
        HGADDetector.load(model)
        left = [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
        assert not left, left
    return {name: f"{f['statuses'].count(130)} interrupted" for name, f in found.items()}


STUDIES = {
    name.removeprefix("study_"): work
    for name, work in list(globals().items())
    if name.startswith("study_")
}


def main():
    """Run the studies; the exit status is 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--interrupts", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write what was found here")
    args = parser.parse_args()
    found, failed = {}, False
    warnings.simplefilter("ignore")
    for name in args.only:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="skhgad-endurance-") as folder:
            try:
                found[name] = STUDIES[name](args, Path(folder), np.random.default_rng(args.seed))
            except Exception as error:
                traceback.print_exc()
                found[name], failed = f"FAILED: {type(error).__name__}: {error}"[:500], True
        print(
            f"{name} ({time.perf_counter() - start:.0f} s): {json.dumps(found[name])}", flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
