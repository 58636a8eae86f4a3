"""Images as a detector sees them: whole, in their regions of interest, padded or in tiles."""

from ..images.roi import ProductMasks, regions_of_samples
from ..images.views import ViewSource
from ..parameters import tile_size


def framed(images, extractor, parameters, regions=None):
    """Return a ViewSource of images, or the images themselves where each is seen as it is.

    Parameters
    ----------
    images : ImageSource
    extractor : FeatureExtractor
    parameters : dict
        Of the fit; `resize` and `tile_size` count.
    regions : list of Region or None, default=None
        Of each image.
    """
    tile, resize = tile_size(parameters["tile_size"]), parameters["resize"]
    if regions is None and tile is None and resize == "stretch":
        return images
    return ViewSource(
        images,
        size=tuple(extractor.spec["image_size"]),
        map_shapes=[tuple(shape) for _, *shape in extractor.levels],
        colour=extractor.mean.flatten().clamp(0, 1).tolist(),
        regions=regions,
        resize=resize,
        tile_size=tile,
    )


def product_masks(roi, n_samples, classes, *, takes_images=True, name="roi"):
    """Read `roi`; see `regions_of_samples`. None stays None; ValueError for feature vectors."""
    if roi is None:
        return None
    if not takes_images:
        raise ValueError(f"{name} needs images; feature vectors have no pixels to leave out.")
    return regions_of_samples(roi, n_samples, classes, name)


def regions_by_code(roi, codes):
    """Return the regions of samples whose classes are known, or None.

    `roi` is what `product_masks` returned; `codes` holds the class of each sample, -1 = none.
    """
    return roi.regions(codes) if isinstance(roi, ProductMasks) else roi
