"""A model that is held in memory and read again when its folder is replaced."""

from ..monitor.drift import check_products, fingerprint
from ..storage.model_folder import file_signature


class HeldModel:
    """Holds the detector of a model folder.

    Parameters
    ----------
    folder : str or path
    load : callable
        Takes nothing and returns the detector of the folder, ready to score. Raises an error if the
        caller cannot use it.
    warn : callable
        Told in one sentence why a replaced folder cannot be used; the model before stays then.

    Attributes
    ----------
    detector : HGADDetector
    identity : str
        Changes when scores do: a hash of the calibration.
    """

    def __init__(self, folder, load, warn):
        self.folder = folder
        self._load = load
        self._warn = warn
        self._signature = file_signature(folder)
        self._take(self._usable())

    def refresh(self):
        """Read the model again if its folder was replaced; return whether it was."""
        signature = file_signature(self.folder)
        if signature == self._signature:
            return False
        self._signature = signature
        if signature is None:
            self._warn(f"{self.folder!r} holds no model any more; the one in memory goes on.")
            return False
        try:
            detector = self._usable()
        except Exception as error:  # whatever is wrong with the new one, the old one works
            self._warn(f"{self.folder!r} was replaced, but {error} The model before goes on.")
            return False
        self._take(detector)
        return True

    def _usable(self):
        """Read the model; ValueError if it cannot judge images, or its drift not be watched."""
        detector = self._load()
        detector.model_.require_images("a model at work")
        check_products(detector)
        return detector

    def _take(self, detector):
        self.detector = detector
        self.identity = fingerprint(detector)
