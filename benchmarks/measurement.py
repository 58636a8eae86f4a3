"""Interleaved timing of two sides, and the tables and JSON that come of it."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import sklearn
import timm
import torch


@dataclass
class Comparison:
    """Seconds of skhgad and of what it is measured with, run by run.

    Parameters
    ----------
    name : str
        What was done.
    yardstick : str
        Whose seconds stand beside skhgad's.
    target : float or None
        What `ratio` should be; None = nothing was promised.
    yardstick_over_skhgad : bool, default=True
        Which way the ratio goes; a speed-up, or else a slow-down that `target` bounds from above.
    images : int, default=None
        Images in each run, for images/s.
    """

    name: str
    yardstick: str
    target: float | None = None
    yardstick_over_skhgad: bool = True
    images: int | None = None
    yardstick_seconds: list = field(default_factory=list)
    skhgad_seconds: list = field(default_factory=list)

    def run(self, yardstick, skhgad, repeats, device, *, warm_up=True):
        """Time both sides `repeats` times, the one that goes first in turn; returns self."""
        if warm_up:
            yardstick(), skhgad()
        for number in range(repeats):
            sides = [(yardstick, self.yardstick_seconds), (skhgad, self.skhgad_seconds)]
            for function, seconds in sides if number % 2 == 0 else reversed(sides):
                seconds.append(timed(function, device))
        return self

    @property
    def ratios(self):
        """Ratio of each pair of runs."""
        ratios = np.divide(self.yardstick_seconds, self.skhgad_seconds)
        return ratios if self.yardstick_over_skhgad else 1 / ratios

    @property
    def ratio(self):
        """Median over the pairs."""
        return float(np.median(self.ratios))

    @property
    def met(self):
        """Whether the ratio is as promised; None without a promise."""
        if self.target is None:
            return None
        return (
            self.ratio >= self.target if self.yardstick_over_skhgad else self.ratio <= self.target
        )

    def record(self):
        """Everything as JSON values; null for seconds without end."""
        values = asdict(self)
        values["skhgad_seconds"] = [s if np.isfinite(s) else None for s in self.skhgad_seconds]
        return values | {"ratio": self.ratio, "ratios": list(self.ratios), "met": self.met}

    def row(self):
        """A line of the Markdown table."""
        sign = ">=" if self.yardstick_over_skhgad else "<="
        promise = "" if self.target is None else f"{sign} {self.target:g}"
        verdict = {None: "", True: "yes", False: "NO"}[self.met]
        spread = f"{self.ratios.min():.2f} .. {self.ratios.max():.2f}"
        sides = [self._side(s) for s in (self.yardstick_seconds, self.skhgad_seconds)]
        cells = (self.name, self.yardstick, *sides, f"{self.ratio:.2f}", spread, promise, verdict)
        return f"| {' | '.join(cells)} |"

    def _side(self, seconds):
        median = float(np.median(seconds))
        text = f"{median:.2f} s" if median >= 1 else f"{1e3 * median:.1f} ms"
        return text if self.images is None else f"{text}, {self.images / median:.1f} images/s"


def timed(function, device):
    """Seconds of one call, with the device idle at both edges."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    """Wait for a GPU's pending work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def table(comparisons):
    """Markdown table of comparisons, medians of repeated pairs."""
    head = ("measured", "yardstick", "its time", "skhgad", "ratio", "spread", "target", "met")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    return "\n".join([*lines, *(comparison.row() for comparison in comparisons)])


def environment(device):
    """What the figures depend on beside the code, as JSON values."""
    device = torch.device(device)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": f"{device.type}: {name}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "scikit-learn": sklearn.__version__,
    }


def merge_json(path, part, content):
    """Store `content` under `part` in a JSON file, whose other parts stay."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[part] = content
    path.write_text(json.dumps(stored, indent=1) + "\n")
