"""Archives: a folder, and a bucket of an S3-compatible server on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from holdfast.archive import Archive, open_archive
from holdfast.wire import bundle
from holdfast.wire.bundle import Bundle, StoredEvent
from holdfast.wire.records import WorkflowRecord

REGION = "eu-central-1"
BUCKET = "archive-of-tests"
KEYS = {"access_key_id": "reader", "secret_access_key": "not a secret"}


class Bucket:
    """A server of our own with one bucket, seen from behind."""

    def __init__(self, name: str = BUCKET) -> None:
        self.name = name  # All servers of a process share their buckets.
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEYS["access_key_id"],
            aws_secret_access_key=KEYS["secret_access_key"],
        )
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})

    def names(self) -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def empty(self) -> None:
        for name in self.names():
            self.client.delete_object(Bucket=self.name, Key=name)

    def open(self, place: str | None = None, **options: str) -> Archive:
        return open_archive(
            f"s3://{place or f'{self.name}/holdfast'}",
            **{"endpoint": self.endpoint, "region": REGION, **KEYS, **options},
        )


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine says about AWS concerns no test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.client.close()
    bucket.server.stop()


@pytest.fixture
def bucket(server: Bucket) -> Iterator[Bucket]:
    yield server
    server.empty()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive of tests"


@pytest.fixture(params=["folder", "bucket"])
def archive(request: pytest.FixtureRequest, folder: Path) -> Archive:
    if request.param == "folder":
        return open_archive(str(folder))
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.open()


@pytest.fixture
def spoil(archive: Archive, folder: Path, request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Puts bytes at a URI behind the archive's back."""

    def in_folder(uri: str, data: bytes) -> None:
        (folder / uri.removeprefix(f"{archive.root}/")).write_bytes(data)

    def in_bucket(uri: str, data: bytes) -> None:
        bucket: Bucket = request.getfixturevalue("bucket")
        bucket.client.put_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"), Body=data)

    return in_folder if archive.root.startswith("file:") else in_bucket


def packed(workflow_id: str = "o-17", *, body: bytes = b"\0\xff") -> tuple[bytes, str]:
    record = WorkflowRecord(
        id=workflow_id,
        run_id="r",
        workflow_type="checkout",
        status="COMPLETED",
        created_at=1.5,
        updated_at=2.25,
    )
    event = StoredEvent(seq=1, recorded_at=1732464000.123457, type="WorkflowStarted", body=body)
    return bundle.pack(Bundle(record=record, history=[event]))
