"""What a server counts, as text for Prometheus."""

import threading
from collections import Counter

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Figures:
    """Counts requests and verdicts; threads may count at once."""

    def __init__(self):
        self.n_reloads = 0
        self._lock = threading.Lock()
        self._requests = Counter()  # by path and status
        self._verdicts = Counter()  # by product and verdict
        self._buckets = Counter()
        self._seconds = 0.0
        self._n_batches = 0
        self._scoring_seconds = 0.0

    def answered(self, path, status, seconds):
        """Count a request."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds += seconds
            self._buckets.update(edge for edge in _BUCKETS if seconds <= edge)

    def scored(self, verdicts, seconds):
        """Count the images of a batch."""
        with self._lock:
            self._n_batches += 1
            self._scoring_seconds += seconds
            for verdict in verdicts:
                self._verdicts[str(verdict.record["class"]), verdict.record["verdict"]] += 1

    def text(self, batcher):
        """Return all figures in Prometheus' text format."""
        monitor = batcher.monitor
        with self._lock:
            n_requests = sum(self._requests.values())
            seconds = [({"le": f"{edge:g}"}, self._buckets[edge]) for edge in _BUCKETS]
            seconds.append(({"le": "+Inf"}, n_requests))
            name = "skhgad_request_seconds"
            lines = [
                *_lines("skhgad_requests_total", "counter", "Requests answered.", [
                    ({"path": path, "status": str(status)}, n)
                    for (path, status), n in sorted(self._requests.items())
                ]),
                f"# HELP {name} Time from request to answer.",
                f"# TYPE {name} histogram",
                *(_line(f"{name}_bucket", labels, n) for labels, n in seconds),
                _line(f"{name}_sum", {}, self._seconds),
                _line(f"{name}_count", {}, n_requests),
                *_lines("skhgad_images_total", "counter", "Images scored.", [
                    ({"product": product, "verdict": verdict}, n)
                    for (product, verdict), n in sorted(self._verdicts.items())
                ]),
                *_lines("skhgad_batches_total", "counter", "Batches scored.", [
                    ({}, self._n_batches)
                ]),
                *_lines("skhgad_scoring_seconds_total", "counter", "Time spent scoring.", [
                    ({}, self._scoring_seconds)
                ]),
                *_lines("skhgad_images_waiting", "gauge", "Images that wait.", [
                    ({}, batcher.n_waiting)
                ]),
                *_lines("skhgad_model_reloads_total", "counter", "Replaced models read.", [
                    ({}, self.n_reloads)
                ]),
            ]  # fmt: skip
        return "\n".join([*lines, *_drift_lines(monitor), ""])


def _drift_lines(monitor):
    products = [({"product": str(k)}, value) for k, value in monitor.product_evidence_.items()]
    alarm = [({}, int(monitor.alarm_ is not None))]
    return [
        *_lines("skhgad_drift_evidence", "gauge", "Evidence of drift; 1 is none.", [
            ({}, monitor.evidence_)
        ]),
        *_lines("skhgad_product_drift_evidence", "gauge", "That of each product.", products),
        *_lines("skhgad_drift_alarm", "gauge", "Whether drift was found.", alarm),
    ]  # fmt: skip


def _lines(name, kind, help_text, values):
    head = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    return [*head, *(_line(name, labels, value) for labels, value in values)]


def _line(name, labels, value):
    if not labels:
        return f"{name} {value}"
    text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"{name}{{{text}}} {value}"


def _escaped(text):
    text = text.encode("utf-8", "backslashreplace").decode()  # names may be no valid text
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
