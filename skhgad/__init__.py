"""Anomaly detection in many product classes with one scikit-learn estimator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import HGADDetector
    from .fitting.objective import TrainingStep, hgad_loss
    from .scoring.certificate import ClassCertificate
    from .scoring.changes import ClassChange
    from .scoring.explanation import Explanation
    from .scoring.inspection import Inspection
    from .scoring.known_anomalies import KnownAnomalies
    from .scoring.latents import Latents
    from .scoring.level_maps import LevelMaps
    from .service.many_files import score_files

__all__ = [
    "ClassCertificate",
    "ClassChange",
    "Explanation",
    "HGADDetector",
    "Inspection",
    "KnownAnomalies",
    "Latents",
    "LevelMaps",
    "TrainingStep",
    "__version__",
    "hgad_loss",
    "score_files",
]

# Imported at first use: torch takes seconds, in which the command line must hear Ctrl-C.
_HOMES = {
    "ClassCertificate": "scoring.certificate",
    "ClassChange": "scoring.changes",
    "Explanation": "scoring.explanation",
    "HGADDetector": "estimator",
    "Inspection": "scoring.inspection",
    "KnownAnomalies": "scoring.known_anomalies",
    "Latents": "scoring.latents",
    "LevelMaps": "scoring.level_maps",
    "TrainingStep": "fitting.objective",
    "hgad_loss": "fitting.objective",
    "score_files": "service.many_files",
}
_MODULES = (
    "callbacks", "datasets", "display", "estimator", "images", "metrics", "monitor", "regions",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public class or module when it is first asked for."""
    if name == "__version__":
        value = import_module(".version", __name__).installed_version()
    elif name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
