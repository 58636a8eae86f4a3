"""One statistic of a stream of samples, by product: its ranks, and the bets on them."""

from .martingale import Martingale
from .ranks import OnlineRanks
from .saved_values import saved_number


class StatisticStream:
    """Ranks the values of one statistic within each product, and bets on the ranks.

    Parameters
    ----------
    references : dict of label to list of float
        The values that normal samples of each product have; may be empty.
    places : list
        The products, and what stands for all together where there are several.
    limit : int
        As in `OnlineRanks`, and never less than twice the reference.
    defect_rate, defects
        As in `Martingale`.

    Attributes
    ----------
    ranks : dict of label to OnlineRanks
    martingales : dict of place to Martingale
    """

    def __init__(self, references, places, limit, defect_rate, defects):
        self.ranks = {
            label: OnlineRanks(values, max(limit, 2 * len(values)))
            for label, values in references.items()
        }
        self.martingales = {place: Martingale(defect_rate, defects) for place in places}

    def bet(self, value, label, generator):
        """Take the next value of a product."""
        p_value = self.ranks[label].p_value(value, generator)
        for place, martingale in self.martingales.items():
            if place == label or place not in self.ranks:
                martingale.update(p_value)

    def add(self, value, label, generator):
        """Take a value that only joins those that later ones are compared with."""
        self.ranks[label].add(value, generator)

    def to_dict(self):
        """Return the state as plain values."""
        return {
            "references": [own.scores for own in self.ranks.values()],
            "martingales": [
                {"stakes": own.stakes.tolist(), "n_seen": own.n_seen}
                for own in self.martingales.values()
            ],
        }

    def restore(self, state):
        """Go on where another one stopped; KeyError or ValueError if the state does not fit."""
        for ranks, values in zip(self.ranks.values(), state["references"], strict=True):
            ranks.scores = sorted(
                saved_number(value, "a value of the reference") for value in values
            )
        for own, saved in zip(self.martingales.values(), state["martingales"], strict=True):
            own.restore(saved["stakes"], saved["n_seen"])
