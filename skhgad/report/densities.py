"""The density that a model has of each class, in words."""


def density_of(level, code):
    """Name the density of a class in one LevelModel."""
    if level.densities is None:
        return "Gaussians of unit covariance at the centers of the training"
    centers, _, covariances = level.densities.mixture_of(code)
    if len(centers) == 1:
        text = "one Gaussian"
    elif len(covariances) == 1:
        text = f"{len(centers)} centers, one covariance"
    elif len(covariances) < len(centers):
        text = f"{len(centers)} centers, {len(covariances)} widths"
    else:
        text = f"{len(centers)} Gaussians"
    return text if level.nearest is None else f"{text} and nearest normals"


def densities_of(detector):
    """Return, of each class, its label, its density in words, and its shrinkage.

    Returns
    -------
    list of tuple (label, str, str)
        Levels that have the same are named once. The shrinkage is the share of the prior in the
        covariance, the smallest and the largest of the levels; "" where it is unknown.
    """
    levels = detector.model_.model.levels
    rows = []
    for code, label in enumerate(detector.classes_.tolist()):
        names = {}
        for index, level in enumerate(levels):
            names.setdefault(density_of(level, code), []).append(str(index))
        text = "; ".join(
            name if len(names) == 1 else f"level{'s' * (len(own) > 1)} {', '.join(own)}: {name}"
            for name, own in names.items()
        )
        rows.append((label, text, _shrinkage(levels, code)))
    return rows


def _shrinkage(levels, code):
    densities = [level.densities for level in levels if level.densities is not None]
    found = [float(of_level.shrinkages[code]) for of_level in densities]
    if not found:
        return ""
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return low if low == high else f"{low} to {high}"
