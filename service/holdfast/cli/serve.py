"""`holdfast serve`: the service, whole or in parts."""

from __future__ import annotations

import click
import msgspec

from holdfast import config as settings
from holdfast.cli.running import run_until_signal

ROLES = {"api": frozenset({"api"}), "engine": frozenset({"engine"}), "all": frozenset({"api", "engine"})}


class Listen(click.ParamType[settings.Address]):
    """An address to listen on."""

    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> settings.Address:
        """The address; fails with what is wrong with the text."""
        if isinstance(value, settings.Address):
            return value
        try:
            return settings.address(str(value))
        except settings.Fault:
            self.fail(
                f"{value!r} is not an address, expected HOST:PORT or a port, 0 for a free one", param, ctx
            )


@click.command()
@click.argument("role", type=click.Choice(list(ROLES)))
@click.option("--http", type=Listen(), help="Where the HTTP API listens [HOLDFAST_HTTP, 127.0.0.1:8233].")
@click.option(
    "--ops", type=Listen(), help="Where health and metrics are [HOLDFAST_OPS, 127.0.0.1 and a free port]."
)
def serve(role: str, http: settings.Address | None, ops: settings.Address | None) -> None:
    """Run the service: its HTTP API, its engine, or all in one process.

    Needs HOLDFAST_POSTGRES_URL and HOLDFAST_NATS_URL. Any number may run; SIGTERM drains.
    """
    given = {name: address for name, address in (("http", http), ("ops", ops)) if address is not None}
    config = msgspec.structs.replace(settings.load(needs=("postgres_url", "nats_url")), **given)

    from holdfast import app

    run_until_signal(app.serve(config, roles=ROLES[role], on_ready=announce), config)


def announce(addresses: dict[str, str]) -> None:
    """Say on standard output that the process serves, and where."""
    where = "".join(f"  {name} http://{address}" for name, address in addresses.items())
    click.echo(f"ready{where}")
