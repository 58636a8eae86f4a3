"""The cells of the demo: read, split into training and test, and described."""

import numpy as np
from sklearn.utils import Bunch

_N_TRAIN, _N_TEST = 200, 100  # most cells of a product to fit on; most of each kind to test on


def load_cells():
    """Read the cells of elpv-dataset.

    Returns
    -------
    images : ndarray of shape (2624, 300, 300), uint8
    probability : ndarray of shape (2624,), float
        Probability of a defect: 0, 1/3, 2/3 or 1, by how sure the annotators were.
    product : ndarray of shape (2624,), str
        "mono" or "poly".
    """
    from elpv_dataset.utils import load_dataset

    return load_dataset()


def split_cells(images, probability, product, *, seed, n_train=_N_TRAIN, n_test=_N_TEST):
    """Draw normal cells to fit on, and other normal and defective cells to test on.

    Cells whose label is uncertain (a probability between 0 and 1) are left out.

    Parameters
    ----------
    images, probability, product : ndarray
        As from `load_cells`.
    seed : int
    n_train : int
        Most normal cells of each product to fit on.
    n_test : int
        Most normal, and most defective, cells of each product to test on. Of a product with few
        normal cells, at most a third of them.

    Returns
    -------
    Bunch
        `train`, `test` : ndarray of shape (n, 300, 300), uint8
        `train_product`, `test_product` : ndarray of shape (n,), str
        `test_y` : ndarray of shape (n_test,), +1 normal, -1 defect
        `counts` : dict from product to Bunch of int
            `normal`, `defect`, `uncertain`, `train`, `test_normal`, `test_defect`.
    """
    rng = np.random.default_rng(seed)
    train, test, counts = [], [], {}
    for name in np.unique(product).tolist():
        normal = rng.permutation(np.flatnonzero((product == name) & (probability == 0)))
        defect = rng.permutation(np.flatnonzero((product == name) & (probability == 1)))
        test_normal = normal[: min(n_test, len(normal) // 3)]
        test_defect = defect[:n_test]
        train.append(normal[len(test_normal) :][:n_train])
        test += [test_normal, test_defect]
        counts[name] = Bunch(
            normal=len(normal),
            defect=len(defect),
            uncertain=int(np.sum(product == name)) - len(normal) - len(defect),
            train=len(train[-1]),
            test_normal=len(test_normal),
            test_defect=len(test_defect),
        )
    train, test = np.concatenate(train), np.concatenate(test)
    return Bunch(
        train=images[train],
        train_product=product[train],
        test=images[test],
        test_product=product[test],
        test_y=np.where(probability[test] == 0, 1, -1),
        counts=counts,
    )


def describe(cells):
    """Say in words what `split_cells` drew and what it left out."""
    lines = ["Electroluminescence images of solar cells; a product is a kind of silicon."]
    for name, n in cells.counts.items():
        unused = n.normal - n.train - n.test_normal + n.defect - n.test_defect
        lines.append(
            f"  {name}: fit on {n.train} normal cells, test on {n.test_normal} normal and "
            f"{n.test_defect} defective ones;\n"
            f"    left out: {n.uncertain} of uncertain label (probability of a defect neither 0 "
            f"nor 1), {unused} to save time"
        )
    lines.append("  Drawn at random: cells of one solar module may be on both sides.")
    return "\n".join(lines)
