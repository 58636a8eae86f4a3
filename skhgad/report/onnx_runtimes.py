"""What runs ONNX files: onnxruntime and OpenVINO, behind one face."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..version import needing

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}  # by name: the extra that installs it
_OUTPUTS = ("score", "class_index", "map")


class OpenFile(NamedTuple):
    """An exported file, ready to run.

    Attributes
    ----------
    runtime : str
        "onnxruntime" or "openvino".
    properties : dict of str to str
        What the export wrote into the file: "classes", "class_offsets" and more, as JSON.
    run : callable
        Takes pixels (n, height, width, channels) and returns the ndarrays score (n,), class_index
        (n,) and map (n, height, width).
    """

    runtime: str
    properties: dict[str, str]
    run: Callable[[np.ndarray], list[np.ndarray]]

    def of_file(self, name: str) -> Any:
        """Return a property as the value that it is in JSON; ValueError if there is none."""
        try:
            return json.loads(self.properties[name])
        except (KeyError, ValueError):
            raise ValueError("the ONNX file was not exported by skhgad.") from None


def open_file(file, runtime="onnxruntime"):
    """Return an OpenFile.

    Parameters
    ----------
    file : str or path
    runtime : {"onnxruntime", "openvino"}

    Raises
    ------
    ImportError
        If the runtime is not installed; the message says how to install it.
    FileNotFoundError
        If there is no file.
    ValueError
        If the runtime cannot run it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no ONNX file at {str(file)!r}.")
    opened = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}[runtime]
    packages = ("onnx", "onnxruntime") if runtime == "onnxruntime" else ("openvino",)
    with needing("validate", f"the package {runtime}", RUNTIMES[runtime], *packages):
        library = __import__(runtime)
    try:
        return opened(library, str(file))
    except Exception as error:  # both have exceptions of their own
        raise ValueError(f"{str(file)!r} is no ONNX file that {runtime} can run: {error}") from None


def _in_onnxruntime(onnxruntime, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(pixels):
        return session.run(list(_OUTPUTS), {"image": pixels})

    return OpenFile("onnxruntime", dict(session.get_modelmeta().custom_metadata_map), run)


def _in_openvino(openvino, file):
    model = openvino.Core().read_model(file)
    properties = {}
    if model.has_rt_info("framework"):  # what ONNX calls metadata_props
        found = model.get_rt_info()["framework"]
        properties = {name: str(entry.value) for name, entry in found.items()}
    # Some processors would compute in half precision otherwise.
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(pixels):
        found = compiled({"image": pixels})
        return [np.array(found[name]) for name in _OUTPUTS]

    return OpenFile("openvino", properties, run)
