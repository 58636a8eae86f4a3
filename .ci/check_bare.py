"""Use the installed package where nothing is installed but what it requires.

Imports every module, which fails where the wheel lacks a file or setup.py lacks a requirement. Then
runs the examples in the docstrings of the module of `HGADDetector`.
"""

import doctest
import importlib
import importlib.util
import pkgutil
import sys

import skhgad

# What the extras bring, and how the names end of the modules that need it when they are imported.
OPTIONAL = {"elpv_dataset", "fastapi", "matplotlib", "onnx", "onnxruntime", "pydantic"}
MAY_NEED_IT = ("demo_sheet", "onnx_images", "service.answers", "service.server")


def main():
    present = sorted(name for name in OPTIONAL if importlib.util.find_spec(name))
    if present:
        print(f"This environment is not bare, it has {', '.join(present)}.", file=sys.stderr)
        return 1
    modules = [module.name for module in pkgutil.walk_packages(skhgad.__path__, "skhgad.")]
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL or not name.endswith(MAY_NEED_IT):
                raise
            print(f"{name} needs {error.name}, which is optional")
    results = doctest.testmod(importlib.import_module(skhgad.HGADDetector.__module__))
    print(f"{len(modules)} modules in {skhgad.__path__[0]}; examples: {results}")
    return 1 if results.failed or not results.attempted else 0


if __name__ == "__main__":
    sys.exit(main())
