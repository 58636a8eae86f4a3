"""
Is the camera still as it was?
==============================

A model that was right in spring may be wrong in autumn: the camera is out of focus, the lamp has
aged. We let a monitor watch the scores, and see how soon it notices.
"""

# %%
# Good samples, and two cameras
# -----------------------------
#
# scikit-learn's handwritten digits stand for ten products. One camera is as it was at the fit. The
# other one is a little out of focus: each pixel is mixed with its neighbours.

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skhgad import HGADDetector
from skhgad.display import DriftDisplay
from skhgad.monitor import DriftMonitor

images, digit = load_digits().images, load_digits().target
train, stream, train_digit, _ = train_test_split(images, digit, test_size=0.5, random_state=0)
detector = HGADDetector(random_state=0).fit(train.reshape(-1, 64), train_digit)

sharp, later = stream[:500], stream[500:]
blurred = gaussian_filter(later, (0, 0.3, 0.3))

# %%
# Verdicts on single samples do not tell
# --------------------------------------
#
# More samples are flagged. Is it a bad lot, or the camera? No single verdict says so, and most
# samples still pass.

for name, samples in (("before", sharp), ("out of focus", blurred)):
    flagged = np.mean(detector.predict(samples.reshape(-1, 64)) == -1)
    print(f"{name}: {flagged:.1%} flagged")

# %%
# Their scores together do
# ------------------------
#
# The monitor takes the samples in the order in which they come. Its evidence is what a fair player
# has made of 1 by betting on drift. Without drift, the probability that it ever reaches 100 is at
# most 1 %.

monitor = DriftMonitor(detector)
monitor.update(sharp.reshape(-1, 64))
print("before:", monitor.alarm_)
monitor.update(blurred.reshape(-1, 64))
print("after:", monitor.alarm_)

display = DriftDisplay.from_monitor(monitor)
display.ax_.axvline(len(sharp), color="0.5", linestyle=":")
plt.show()
