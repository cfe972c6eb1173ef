"""The root of the `holdfast` command: which commands there are, and how every error leaves.

Must stay quick to import: `holdfast --help` has 100 ms, so commands are named here and
imported only when they run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

import click

INTERRUPTED = 130
"""Exit code after Ctrl-C; the others stand in `cli.errors`."""

COMMANDS = {
    "dev": ("dev:dev", "Run everything on this machine: database, broker, service, demo."),
    "serve": ("serve:serve", "Run the service: api, engine, or all in one process."),
    "worker": ("worker:worker", "Run the workflows and activities of a module."),
    "migrate": ("migrate:migrate", "Bring the database to this version's schema."),
    "workflow": ("workflow:workflow", "Start, watch and steer workflows."),
    "archive": ("archive:archive", "Move histories of closed runs to the archive, and back."),
    "bench": ("bench:bench", "Measure throughput and latency of this machine."),
    "version": ("version:version", "Tell the versions of Holdfast and what it stands on."),
}
"""Name → module and object below `holdfast.cli`, and the line that `--help` shows."""


class Lazy(click.Group):
    """A group whose commands are imported only to run them or to show their own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of the commands that are installed, in the order of `COMMANDS`."""
        return [name for name, (path, _) in COMMANDS.items() if _exists(path)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now, or None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"holdfast.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, COMMANDS[name][1]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Lazy, context_settings=SETTINGS, no_args_is_help=True)
def holdfast() -> None:
    """Durable workflows in Python: code that survives crashes, restarts and waiting for weeks.

    \b
    First steps:
      holdfast dev                     everything on this machine, with a demo
      holdfast workflow list           what is running
      holdfast workflow show ID        what a workflow did so far
    """  # noqa: D301 - click reads the backspace itself as "keep these lines"


def run(args: list[str]) -> int:
    """Run the command line *args*; the exit code. Errors are told on standard error."""
    try:
        answer = holdfast.main(args, prog_name="holdfast", standalone_mode=False)
        return answer if isinstance(answer, int) else 0
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has enough; flushing again at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from holdfast.cli import errors

        # The outer edge: what is left becomes a sentence and an exit code; a bug shows its traceback.
        told = errors.told(error)
        if told is None:
            raise
        click.echo(told.text, err=True)
        return told.code


def _exists(path: str) -> bool:
    return importlib.util.find_spec(f"holdfast.cli.{path.partition(':')[0]}") is not None
