"""Online conformal p-values: the rank of each score among all that came before it."""

from bisect import bisect_left, bisect_right, insort


class OnlineRanks:
    """Ranks each new score among the reference scores and all earlier ones of the stream.

    Where reference and stream are exchangeable (no drift), the p-values are independent and
    uniform, however long the stream is. A fixed reference would not do: ranked among the same few
    scores, a long stream shows that these are a sample, and that would look like drift.

    Parameters
    ----------
    scores : iterable of float
        The reference.
    limit : int
        Beyond this many scores a random half is kept. The half is chosen without regard to the
        stream's order, of which the p-values so far are made, so those to come stay independent of
        them and uniform.
    """

    def __init__(self, scores, limit):
        self.scores = sorted(scores)
        self.limit = limit

    def p_value(self, score, generator):
        """Add a score; return its p-value in [0, 1], small for a low score.

        Equal scores are put in random order (`generator`), so that it is exactly uniform.
        """
        n_lower = bisect_left(self.scores, score)
        n_not_above = bisect_right(self.scores, score)
        p_value = (n_lower + generator.random() * (1 + n_not_above - n_lower)) / (
            1 + len(self.scores)
        )
        self.add(score, generator)
        return p_value

    def add(self, score, generator):
        """Add a score without asking for its rank."""
        insort(self.scores, score)
        if len(self.scores) > self.limit:
            kept = generator.permutation(len(self.scores))[: self.limit // 2]
            self.scores = [self.scores[index] for index in sorted(kept.tolist())]
