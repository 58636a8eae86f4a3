"""
Watching a fit
==============

A training takes many passes over the data. ``callbacks`` are told of each of them while it runs,
and of the end. We write one that keeps a log file, compare three fits by it, and see how a fit gets
into TensorBoard and MLflow.
"""

# %%
# A function is enough
# --------------------
#
# scikit-learn's handwritten digits 0, 1 and 2 stand for three products. ``max_iter=8`` asks for a
# training of eight passes. (By default, vectors are fitted in closed form, which has no passes.) A
# small flow, ``n_blocks=2``, and one center a class make the fits quick.
#
# A callback may be a function. It gets a :class:`~skhgad.callbacks.PassInfo` after each pass, and a
# :class:`~skhgad.callbacks.FitInfo` at the end.

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skhgad import HGADDetector
from skhgad.callbacks import Callback, FitInfo, MLflowCallback, TensorBoardCallback

X, digit = load_digits(n_class=3, return_X_y=True)
settings = {"max_iter": 8, "n_blocks": 2, "n_components": 1, "random_state": 0}


def tell(info):
    """Print one line for every second pass, and one for the end."""
    if isinstance(info, FitInfo):
        print(f"end: {sum(info.n_normals.values())} samples, threshold {info.threshold:.2f}")
    elif info.number % 2 == 0:
        print(f"pass {info.number} of {info.n_passes}: loss {info.losses['loss']:.2f}")


detector = HGADDetector(**settings, callbacks=tell).fit(X, digit)

# %%
# A callback of your own
# ----------------------
#
# An object with methods can do more: it also hears of the start, and of a fit that fails. This one
# appends a line of JSON to a file after each pass. So others can read how far the fit has come, and
# the lines are still there if the machine is switched off.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


class LogFile(Callback):
    """Append one JSON object to a file after each pass."""

    def __init__(self, path):
        self.path = path

    def on_fit_start(self, detector):
        """Keep what tells this fit from the others."""
        self.learning_rate = detector.learning_rate

    def on_pass_end(self, info):
        """Write the loss of this pass."""
        record = {
            "learning_rate": self.learning_rate,
            "pass": info.number,
            "loss": info.losses["loss"],
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def on_fit_error(self, error):
        """Say why there are no more lines."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"error": str(error)}) + "\n")


log = LogFile(folder / "log.jsonl")
rates = (2e-5, 2e-4, 2e-3)
for rate in rates:
    HGADDetector(**settings, learning_rate=rate, callbacks=log).fit(X, digit)

records = [json.loads(line) for line in log.path.read_text().splitlines()]
print(len(records), "lines, the last one:", records[-1])

# %%
# The log compares the fits. From the second pass on, the loss has one term more, so it begins
# higher. Then it hardly falls with the lowest learning rate; eight passes are too few for it.

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for rate in rates:
    own = [record for record in records if record["learning_rate"] == rate]
    ax.plot([r["pass"] for r in own], [r["loss"] for r in own], marker="o", label=f"{rate:g}")
ax.set(xlabel="pass", ylabel="loss", title="Three fits, by their log")
ax.legend(title="learning rate", frameon=False)
plt.show()

# %%
# A callback can stop a fit
# -------------------------
#
# What a callback raises, ``fit`` raises. The detector stays as it was before: here, not fitted.
# ``on_fit_error`` of all callbacks is called.


def stop_late(info):
    """Stop after the second pass."""
    if not isinstance(info, FitInfo) and info.number == 2:
        raise TimeoutError("no time left for another pass")


try:
    HGADDetector(**settings, callbacks=[log, stop_late]).fit(X, digit)
except TimeoutError as error:
    print("stopped:", error)
print("last line of the log:", log.path.read_text().splitlines()[-1])

# %%
# TensorBoard and MLflow
# ----------------------
#
# Two callbacks come with skhgad. Each fit becomes a run, with the losses of the passes, the
# parameters, the threshold and the certificates of the products. They need the extras
# ``tensorboard`` and ``mlflow``. The code below uses those of the two that are installed where this
# page is built.

shipped = {
    "tensorboard": TensorBoardCallback(folder / "runs"),
    "mlflow": MLflowCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="digits"),
}
installed = {name: callback for name, callback in shipped.items() if find_spec(name)}
print("installed:", ", ".join(installed) or "none of the two")

HGADDetector(**settings, callbacks=[*installed.values(), tell]).fit(X, digit)
print("written:", *sorted(str(path.relative_to(folder)) for path in folder.iterdir()))
temporary.cleanup()

# %%
# Then ``tensorboard --logdir runs`` and ``mlflow ui --backend-store-uri sqlite:///mlflow.db`` show
# the runs in a browser, also while a fit is running.
