"""From a URL and the environment to an `Archive`. A folder is made here; a bucket is not touched yet."""

from __future__ import annotations

import logging
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from holdfast.archive.archive import Archive
from holdfast.config import redacted
from holdfast.exceptions import Invalid, Unavailable
from holdfast.wire import bundle

log = logging.getLogger("holdfast.archive")

FOLDER_MODE = 0o700
CONNECT_S = 5.0
RETRIES_MAX = 3
RETRY_S = 30.0

_EXPECTED = "expected a folder, file:///folder or s3://bucket/prefix"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_=.-]+/)*[A-Za-z0-9_=.-]+|")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def open_archive(
    url: str, *, timeout_s: float = 120.0, bytes_max: int = bundle.FRAME_BYTES_MAX, **options: str
) -> Archive:
    """The archive at *url*: a folder (made with mode 0700 if there is none), `file:///folder` or `s3://bucket/prefix`.

    *timeout_s* bounds every operation, *bytes_max* every object read. *options* are those of the S3 client, above the
    environment (`AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …): `region`, `endpoint`, `access_key_id`,
    `secret_access_key`, `session_token`, …. Plain HTTP is spoken to an endpoint that says `http://`, and to no other.
    Raises `Invalid` for a URL or an option that cannot be meant, `Unavailable` when the folder cannot be made.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        return _bucket(url, rest, timeout_s, bytes_max, options)
    if separator and scheme != "file":
        raise Invalid(f"archive {url!r} has the scheme {scheme!r}, {_EXPECTED}")
    if options:
        raise Invalid(f"archive {url!r} is a folder, which has no {', '.join(sorted(options))}")
    return _folder(_path(url) if separator else Path(url), url, timeout_s, bytes_max)


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise Invalid(f"archive {url!r} is not a folder of this machine, {_EXPECTED}")
    return Path(unquote(parts.path))


def _folder(path: Path, url: str, timeout_s: float, bytes_max: int) -> Archive:
    if not path.name or "\0" in str(path):
        raise Invalid(f"archive {url!r} names no folder, {_EXPECTED}")
    try:
        folder = path.expanduser().absolute()
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder = folder.resolve()
        store = LocalStore(folder)
    except (BaseError, OSError, RuntimeError) as error:
        raise Unavailable(f"archive {url!r} cannot be made a folder: {error}; make it yourself") from error
    root = f"file://{quote(str(folder))}"
    return Archive(root, store, folder=folder, timeout_s=timeout_s, bytes_max=bytes_max)


def _bucket(url: str, place: str, timeout_s: float, bytes_max: int, options: dict[str, str]) -> Archive:
    url = redacted(url)
    bucket, _, prefix = place.partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise Invalid(f"archive {url!r} names no bucket, {_EXPECTED}")
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise Invalid(
            f"archive {url!r} has the prefix {prefix!r}, expected names of A-Z a-z 0-9 _ = . - and slashes"
        )
    endpoint = _endpoint(options)
    is_plain = endpoint.lower().startswith("http://")
    if is_plain and urlsplit(endpoint).hostname not in _LOOPBACK:
        log.warning(
            "the archive is reached over plain HTTP: whoever is on the way to %s reads along", endpoint
        )
    try:
        store = S3Store(
            bucket,
            prefix=prefix or None,
            config=cast("Any", options),
            client_options={
                "allow_http": is_plain,
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "timeout": timedelta(seconds=timeout_s),
            },
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_S)},
        )
    except (BaseError, ValueError) as error:
        raise Invalid(f"archive {url!r} cannot be set up: {str(error).split(chr(10), 1)[0]}") from error
    root = f"s3://{bucket}/{prefix}".rstrip("/")
    return Archive(root, store, timeout_s=timeout_s, bytes_max=bytes_max)


def _endpoint(options: dict[str, str]) -> str:
    """Where the client will go, in its own order of precedence; "" for the one of the region."""
    told = (
        options.get("aws_endpoint_url_s3"),
        os.environ.get("AWS_ENDPOINT_URL_S3"),
        options.get("endpoint"),
        os.environ.get("AWS_ENDPOINT_URL"),
        os.environ.get("AWS_ENDPOINT"),
    )
    return next(filter(None, told), "")
