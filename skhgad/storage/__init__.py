"""Fitted detectors as files."""
