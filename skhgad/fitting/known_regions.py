"""The regions of interest of known anomalies, where these belong to products.

The product of a known anomaly is inferred, from what the regions of all products have in common.
"""

import numpy as np

from ..features.framing import framed
from ..images.roi import ProductMasks
from .feature_cache import cached_features
from .pictures import Pictures, codes_of_pictures
from .samples import LabelledSamples


def check_common_parts(images, rows, masks):
    """Raise ValueError unless the classes of the images `rows` can be inferred; before the fit.

    `masks` are those of `product_masks`.
    """
    if _differ(masks):
        for row in rows.tolist():
            _common_part(images, row, masks)


def in_regions_of_classes(reader, views, rows, masks, model, parameters, normals):
    """Return the views of known anomalies in the regions of the classes that they are taken for.

    Parameters
    ----------
    reader : FeatureReader
    views : ViewSource
        As of `seen_at_fit`. It is returned where all classes have the same region.
    rows : ndarray of int
        Numbers of the pictures.
    masks : ProductMasks, list of Region, or None
    model : ScoringModel
    parameters : dict
        Of the estimator.
    normals : LabelledSamples

    Returns
    -------
    ViewSource
    """
    if not _differ(masks):
        return views
    images, processes = views.images, normals.cache.processes
    with processes.agree():
        parts = _of_rows(images, rows, [_common_part(images, row, masks) for row in rows.tolist()])
        common = framed(images, reader.extractor, parameters, parts)
        pictures = Pictures.of(common, rows)
    budget, n = parameters["cache_budget"], len(pictures.rows)
    with cached_features(reader, common, pictures.rows, budget, processes) as cache:
        no_codes = np.zeros(n, dtype=np.int64)
        samples = LabelledSamples(cache, np.arange(n), no_codes, normals.n_classes, pictures)
        codes = codes_of_pictures(model, samples, reader.device)
    codes = processes.broadcast(codes)
    with processes.agree():
        regions = _of_rows(images, rows, masks.regions(codes))
        return framed(images, reader.extractor, parameters, regions)


def _differ(masks):
    return isinstance(masks, ProductMasks) and not masks.is_common


def _common_part(images, row, masks):
    try:
        return masks.common_part(images.size(row), images.name(row))
    except ValueError as error:
        raise ValueError(
            f"{error} It is a known anomaly: give every sample its own mask, roi=[...], or set "
            "known_anomalies='ignore'."
        ) from error


def _of_rows(images, rows, regions):
    """Give some images their regions, and the others none."""
    found = [None] * len(images)
    for row, region in zip(rows.tolist(), regions, strict=True):
        found[row] = region
    return found
