"""A conformal test martingale: the capital of a player who bets that p-values are not uniform.

Who starts with 1 and bets fairly has 1 / a at any time of an endless stream with the probability a
at most, if the p-values are independent and uniform (Ville's inequality). So a large capital is
evidence of drift, whenever it comes.
"""

import numpy as np

from .saved_values import saved_count, saved_stakes

_N_BINS = 20
# Share of the unit interval, and the density there; the rest is level.
_TAILS = ((0.1, 4.0), (0.2, 3.0), (0.3, 2.0), (0.5, 1.5), (0.5, 1.2))
_TWO_TAILS = ((0.2, 2.5), (0.4, 1.8))
_MIDDLES = ((0.5, 1.7),)
FIRST = 200  # observations after which half of the capital has been put to work
_LARGEST = 1e100


def _step(inside, height):
    share = inside.mean()
    return np.where(inside, height, (1 - height * share) / (1 - share))


def _bets():
    """Return the densities, ndarray (n_bets, n_bins), and the direction each bets on."""
    middle = (np.arange(_N_BINS) + 0.5) / _N_BINS
    bets, directions = [], []
    for share, height in _TAILS:
        bets += [_step(middle < share, height), _step(middle > 1 - share, height)]
        directions += ["lower", "higher"]
    for share, height in _TWO_TAILS:
        bets.append(_step(np.abs(middle - 0.5) > (1 - share) / 2, height))
        directions.append("wider")
    for share, height in _MIDDLES:
        bets.append(_step(np.abs(middle - 0.5) < share / 2, height))
        directions.append("narrower")
    return np.array(bets), directions


BETS, DIRECTIONS = _bets()


def factors(defect_rate, defects):
    """Return by what each bet multiplies its stake: ndarray (n_bins, n_bets); see `Martingale`."""
    won = BETS[:, :1] if defects == "low" else BETS.max(axis=1, keepdims=True)
    return (BETS / (1 + defect_rate * won)).T.copy()


class Martingale:
    """Bets on p-values: a mixture over what a drift looks like and over when it begins.

    Parameters
    ----------
    defect_rate : float in [0, 1)
        Share of the stream that may be defects and be no drift. Each bet is divided by what they
        could win: ``1 + defect_rate * density``. No bet is higher than 4, so a single picture says
        little.
    defects : {"low", "anywhere"}, default="low"
        Where the p-values of defects lie: the density is that at 0, or the largest.

    Attributes
    ----------
    capital : float
        Stakes and cash: 1 at the start.
    """

    def __init__(self, defect_rate, defects="low"):
        self._factors = factors(defect_rate, defects)
        self.stakes = np.zeros(len(BETS))
        self.n_seen = 0
        self.capital = 1.0

    def update(self, p_value):
        """Bet on one p-value; return the capital."""
        n, first = self.n_seen, FIRST
        # Of the cash first / (n + first), what leaves first / (n + 1 + first).
        self.stakes += first / ((n + first) * (n + 1 + first)) / len(self.stakes)
        self.stakes *= self._factors[min(int(p_value * _N_BINS), _N_BINS - 1)]
        at_work = float(self.stakes.sum())
        if at_work > _LARGEST:  # giving money away keeps every promise
            self.stakes *= _LARGEST / at_work
        self._count(n + 1)
        return self.capital

    def restore(self, stakes, n_seen):
        """Go on where another one stopped; ValueError or TypeError if this cannot be."""
        self.stakes = saved_stakes(stakes, len(BETS))
        self._count(saved_count(n_seen, "n_seen"))

    def _count(self, n_seen):
        """Set the number of p-values so far, and what stakes and cash are worth."""
        self.n_seen = n_seen
        self.capital = float(self.stakes.sum() + FIRST / (n_seen + FIRST))

    @property
    def direction(self):
        """What the most successful bets are on: "lower", "higher", "wider" or "narrower" scores."""
        sums = {
            name: sum(self.stakes[i] for i, own in enumerate(DIRECTIONS) if own == name)
            for name in dict.fromkeys(DIRECTIONS)
        }
        return max(sums, key=sums.get)
