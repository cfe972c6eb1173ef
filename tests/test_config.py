"""What a service process accepts as settings, and how it says what is wrong with them."""

from pathlib import Path

import pytest

import holdfast.config
from holdfast.config import SETTINGS, Address, Config, load, redacted
from holdfast.exceptions import Invalid

URLS = {
    "HOLDFAST_POSTGRES_URL": "postgresql://app:s3cret@db:5432/holdfast",
    "HOLDFAST_NATS_URL": "nats://bus:4222",
}


def test_the_two_urls_are_enough() -> None:
    config = load(URLS, needs=("postgres_url", "nats_url"))

    assert config.postgres_url == URLS["HOLDFAST_POSTGRES_URL"]
    assert config.http == Address("127.0.0.1", 8233)
    assert config.ops == Address("127.0.0.1", 0)


def test_every_fault_is_told_at_once_with_name_value_and_what_was_expected() -> None:
    env = {
        "HOLDFAST_POSTGRES_URL": "mysql://app:s3cret@db/holdfast",
        "HOLDFAST_OPS": "nowhere",
        "HOLDFAST_POOL_MAX": "-4",
        "HOLDFAST_LOG_LEVEL": "loud",
    }

    with pytest.raises(Invalid) as caught:
        load(env, needs=("nats_url",))

    told = str(caught.value)
    assert "5 settings are not usable" in told
    assert "HOLDFAST_NATS_URL is not set, expected nats://host:port" in told
    assert "HOLDFAST_OPS is 'nowhere', expected HOST:PORT" in told
    assert "HOLDFAST_POOL_MAX is '-4', expected a whole number from 1 to 1000" in told
    assert "HOLDFAST_LOG_LEVEL is 'loud', expected debug, info, warning or error" in told
    assert set(caught.value.details) == {*env, "HOLDFAST_NATS_URL"}


def test_passwords_never_show_in_errors_or_in_the_struct() -> None:
    with pytest.raises(Invalid) as caught:
        load({"HOLDFAST_POSTGRES_URL": "mysql://app:s3cret@db/holdfast"})

    assert "s3cret" not in str(caught.value)
    assert "mysql://app:***@db/holdfast" in str(caught.value)
    assert "s3cret" not in repr(load(URLS))
    assert "s3cret" not in str(load(URLS))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://user:pw@h:1", "nats://user:***@h:1"),
        ("nats://0123456789abcdef0123@h:1", "nats://***@h:1"),
        ("nats://a:b@h:1,nats://c:d@i:2", "nats://a:***@h:1,nats://c:***@i:2"),
        ("postgresql://h/db?password=pw&x=1", "postgresql://h/db?password=***&x=1"),
        ("postgresql://u:p@ss@h/db", "postgresql://u:***@h/db"),
        ("connect to postgresql://u:pw@h/db failed", "connect to postgresql://u:***@h/db failed"),
        ("http://127.0.0.1:8233/path", "http://127.0.0.1:8233/path"),
    ],
)
def test_a_shown_url_keeps_its_place_and_loses_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("text", "address"),
    [("0", Address("127.0.0.1", 0)), ("0.0.0.0:80", Address("0.0.0.0", 80)), ("[::1]:9", Address("::1", 9))],
)
def test_an_address_is_a_port_or_a_host_with_a_port(text: str, address: Address) -> None:
    assert load({"HOLDFAST_OPS": text}).ops == address


@pytest.mark.parametrize(
    "text", ["host:", ":80", "h:65536", "h:8o", "a b:1", "http://h:1", "h:1/x", "h:\u0663"]
)
def test_any_other_address_is_a_fault(text: str) -> None:
    with pytest.raises(Invalid, match="HOLDFAST_OPS"):
        load({"HOLDFAST_OPS": text})


@pytest.mark.parametrize("text", ["1e3", "nan", "inf", "-1", "0x10", "", " "])
def test_odd_numbers_are_faults_and_empty_means_unset(text: str) -> None:
    if not text.strip():
        assert load({"HOLDFAST_LEASE_S": text}) == Config()
        return
    with pytest.raises(Invalid, match="HOLDFAST_LEASE_S"):
        load({"HOLDFAST_LEASE_S": text})


def test_settings_that_contradict_each_other_are_a_fault() -> None:
    with pytest.raises(
        Invalid, match=r"HOLDFAST_SWEEP_AWAY_S is 2\.0, expected at most HOLDFAST_SWEEP_S \(1\.0\)"
    ):
        load({"HOLDFAST_SWEEP_AWAY_S": "2"})


def test_a_misspelled_variable_is_told_with_the_nearest_real_one() -> None:
    config = load({**URLS, "HOLDFAST_POSTGRES_ULR": "x", "HOLDFAST_ADDRESS": "bus:4222", "PATH": "/bin"})

    assert config.unknown == (("HOLDFAST_POSTGRES_ULR", "HOLDFAST_POSTGRES_URL"),)


@pytest.mark.parametrize("url", ["/archive", "file:///archive", "s3://bucket", "s3://bucket/prefix"])
def test_an_archive_is_a_folder_or_a_bucket(url: str) -> None:
    assert load({"HOLDFAST_ARCHIVE_URL": url}).archive_url == url
    assert load({}).archive_url == ""


@pytest.mark.parametrize("text", ["archive", "/", "file://host/a", "s3://", "https://key:s3cret@host/bucket"])
def test_any_other_archive_is_a_fault(text: str) -> None:
    with pytest.raises(Invalid, match=r"HOLDFAST_ARCHIVE_URL is .*, expected /folder") as caught:
        load({"HOLDFAST_ARCHIVE_URL": text})
    assert "s3cret" not in str(caught.value)


def test_every_setting_is_used_by_somebody() -> None:
    package = Path(holdfast.config.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))

    assert [one.field for one in SETTINGS if f"config.{one.field}" not in source] == []
