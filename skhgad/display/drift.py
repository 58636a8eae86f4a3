"""The picture of the evidence of drift."""

import numpy as np

from .drawing import drawing_library, drawn_name, new_axes

_LINE, _LIMIT = "#0072B2", "#D55E00"


class DriftDisplay:
    """The evidence of drift over a stream, and where an alarm is raised.

    Create it by `from_monitor`.

    Parameters
    ----------
    history : ndarray of shape (n_points, 2)
        As ``monitor.history_``.
    limit : float
        Evidence at which an alarm is raised.
    alarm : Alarm or None

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    line_, limit_line_, alarm_line_ : Line2D
        `alarm_line_` is None without an alarm.
    """

    def __init__(self, *, history, limit, alarm=None):
        self.history = history
        self.limit = limit
        self.alarm = alarm

    @classmethod
    def from_monitor(cls, monitor, *, ax=None):
        """Draw what a DriftMonitor has seen; return the display.

        Parameters
        ----------
        monitor : DriftMonitor
        ax
            As in `plot`.
        """
        drawing_library(cls.__name__)
        limit = 1 / monitor.false_alarm_probability
        return cls(history=monitor.history_, limit=limit, alarm=monitor.alarm_).plot(ax)

    def plot(self, ax=None):
        """Draw; return the display.

        Parameters
        ----------
        ax : Axes, default=None
        """
        if ax is None:
            ax = new_axes(type(self).__name__, (7, 2.6))
        self.ax_, self.figure_ = ax, ax.figure
        seen, evidence = self.history.reshape(-1, 2).T
        (self.line_,) = ax.plot(seen, evidence, color=_LINE, label="evidence of drift")
        style = {"color": _LIMIT, "linestyle": "--", "linewidth": 1}
        limit = float(np.log10(self.limit))
        self.limit_line_ = ax.axhline(limit, label=f"alarm at {self.limit:g}", **style)
        self.alarm_line_ = None
        if self.alarm is not None:
            product, found = drawn_name(self.alarm.product), self.alarm
            label = f"alarm: {product}, {found.statistic} {found.direction}"
            self.alarm_line_ = ax.axvline(self.alarm.n_seen, color=_LIMIT, linewidth=1, label=label)
        ax.set_ylim(min(-1.0, evidence.min(initial=0.0)) - 0.2, 2 * limit + 0.2)
        ax.set_xlabel("pictures")
        ax.set_ylabel("log10 of evidence")
        ax.legend(loc="upper left", frameon=False)
        return self
