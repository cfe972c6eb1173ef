"""The archive: bundles of closed runs in a folder or an S3-compatible bucket. Knows bytes and places, no database."""

from holdfast.archive.archive import Archive
from holdfast.archive.opening import open_archive

__all__ = ["Archive", "open_archive"]
