"""How many requests a second does `skhgad serve` answer, and does its memory grow?

Starts the server in a process of its own, sends requests of one picture at a fixed rate from
threads, whether or not the answers have come, and reads the server's memory now and then. With
``--rate 0`` each thread asks again as soon as it is answered: the ceiling.

    python -m benchmarks.serve_load --rate 30 --seconds 300
    python -m benchmarks.serve_load --rate 0 --seconds 60
"""

import argparse
import io
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from skhgad import HGADDetector

from ._figures import markdown


def pictures(side, n=16):
    """Return n JPEG files of made-up textures, as bytes."""
    rng, contents = np.random.default_rng(0), []
    row, column = np.mgrid[:side, :side]
    for _ in range(n):
        grey = 120 + 40 * np.sin(row / 7) * np.sin(column / 5) + rng.normal(0, 8, (side, side))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    return contents


def start_server(folder, threads):
    """Start `skhgad serve`; return the process and its address."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-m", "skhgad", "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    said = process.stdout.readline()
    if not said.startswith("listening on "):
        raise RuntimeError(f"the server did not start: {said!r}")
    return process, said.split()[-1]


def resident_mib(pid):
    """Return the resident memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


class Load:
    """Sends requests and notes the answers."""

    def __init__(self, address, contents, rate, seconds, n_threads):
        self.address = address
        self.contents = contents
        self.rate = rate
        self.seconds = seconds
        self.n_threads = n_threads
        self.statuses = Counter()
        self.times = []
        self.n_sent = 0
        self._lock = threading.Lock()
        self._due = queue.Queue()

    def run(self, pid):
        """Send everything; return the server's memory over time, [(seconds, MiB)]."""
        end = time.perf_counter() + self.seconds
        workers = [threading.Thread(target=self._work, args=(end,)) for _ in range(self.n_threads)]
        for worker in workers:
            worker.start()
        memory, start = [], time.perf_counter()
        n = 0
        while time.perf_counter() < end:
            if self.rate:
                self._due.put(time.perf_counter())
                n += 1
            if not memory or time.perf_counter() - start > memory[-1][0] + self.seconds / 20:
                memory.append((time.perf_counter() - start, resident_mib(pid)))
            pause = start + n / self.rate - time.perf_counter() if self.rate else 0.2
            time.sleep(max(0.0, pause))
        for _ in workers if self.rate else ():
            self._due.put(None)
        for worker in workers:
            worker.join()
        memory.append((time.perf_counter() - start, resident_mib(pid)))
        return memory

    def _work(self, end):
        with httpx.Client(timeout=120) as client:
            while True:
                due = self._due.get() if self.rate else time.perf_counter()
                if due is None or (not self.rate and due > end):
                    return
                with self._lock:
                    content = self.contents[self.n_sent % len(self.contents)]
                    self.n_sent += 1
                try:
                    answer = client.post(
                        f"{self.address}/score", files=[("files", ("a.jpg", content))]
                    )
                    status = answer.status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                with self._lock:
                    self.statuses[status] += 1
                    self.times.append(time.perf_counter() - due)


def main(argv=None):
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load", description=__doc__)
    parser.add_argument("--rate", type=float, default=30.0, help="requests/s; 0 = the ceiling")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--side", type=int, default=256, help="of the pictures")
    parser.add_argument("--clients", type=int, default=16, help="threads that ask")
    parser.add_argument("--threads", type=int, default=2, help="of the server's matrix products")
    parser.add_argument("--image-size", type=int, default=256)
    args = parser.parse_args(argv)
    contents = pictures(args.side)
    with tempfile.TemporaryDirectory() as folder:
        images = [Image.open(io.BytesIO(content)) for content in pictures(args.side, 24)]
        HGADDetector.fast(image_size=args.image_size, random_state=0).fit(images).save(
            Path(folder, "model")
        )
        process, address = start_server(Path(folder, "model"), args.threads)
        try:
            httpx.post(f"{address}/score", files=[("files", ("a.jpg", contents[0]))], timeout=120)
            load = Load(address, contents, args.rate, args.seconds, args.clients)
            memory = load.run(process.pid)
            text = httpx.get(f"{address}/metrics", timeout=120).text
            n_batches = text.split("\nskhgad_batches_total ")[1].split()[0]
        finally:
            process.terminate()
            process.wait()
    ms = 1000 * np.quantile(load.times, [0.5, 0.95, 1.0])
    taken = memory[-1][0]
    early = memory[len(memory) // 5][1]
    rows = [
        ["requests sent", load.n_sent],
        ["answers", ", ".join(f"{k}: {n}" for k, n in sorted(load.statuses.items(), key=str))],
        ["requests answered a second", f"{sum(load.statuses.values()) / taken:.1f}"],
        ["images a batch", f"{load.n_sent / int(n_batches):.1f}"],
        ["ms: median, 95 %, largest", ", ".join(f"{value:.0f}" for value in ms)],
        ["MiB after a fifth of the time, at the end", f"{early:.0f}, {memory[-1][1]:.0f}"],
    ]
    print("\n".join(markdown(["figure", "measured"], rows)))


if __name__ == "__main__":
    main()
