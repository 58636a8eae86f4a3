"""The demo's cells."""

import numpy as np
from sklearn.utils import Bunch

_N_TRAIN, _N_TEST = 200, 100


def load_cells():
    """Read elpv-dataset.

    Returns
    -------
    images : ndarray of shape (2624, 300, 300), uint8
    probability : ndarray of shape (2624,), float
        Of a defect: 0, 1/3, 2/3 or 1, by how sure the annotators were.
    product : ndarray of shape (2624,), str
        "mono" or "poly".
    """
    from elpv_dataset.utils import load_dataset

    return load_dataset()


def split_cells(images, probability, product, *, seed, n_train=_N_TRAIN, n_test=_N_TEST):
    """Draw normal cells to fit on, and other normal and defective cells to test on.

    Of each product, at most `n_train` cells are to fit on. At most `n_test` normal ones, no more
    than a third, and `n_test` defective ones are to test on. Cells of uncertain label are left out.

    Returns
    -------
    Bunch
        `train`, `test` : ndarray of shape (n, 300, 300), uint8
        `train_product`, `test_product` : ndarray of shape (n,), str
        `test_y` : ndarray of shape (n_test,), +1 normal, -1 defect
        `counts` : dict from product to Bunch of int
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
    """Say what was drawn and left out."""
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
