"""The program ``leveret``: its sub-commands, each imported only when it is run, and what a user sees of an error."""

from __future__ import annotations

import importlib
from typing import Final, NamedTuple

import click

from leveret.errors import AppError, LeveretError

__all__ = ["main"]

EXIT_FAILED: Final = 1
"""What every error but one of usage ends with; that is 2, as click has it."""


class _Entry(NamedTuple):
    """A sub-command: where it is, and what it does, so that ``leveret --help`` need not import it."""

    module: str
    name: str
    summary: str


_COMMANDS: Final = {
    "worker": _Entry("leveret.cli.worker", "worker", "Run the tasks of an app."),
    "broker": _Entry("leveret.cli.broker", "broker", "Run the embedded AMQP 0-9-1 broker on its own."),
}


class _Program(click.Group):
    """Imports its commands late, and turns the package's errors into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order to be shown."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error of ours is one message, unless the traceback is asked for."""
        try:
            return super().invoke(ctx)
        except LeveretError as error:
            if ctx.params["traceback"]:
                if not isinstance(error, AppError) or not error.traceback:
                    raise
                click.echo(error.traceback, err=True)  # of the user's own code, from the process that imported it: ours is noise
            click.echo(f"error: {error}", err=True)
            ctx.exit(EXIT_FAILED)


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        # The import costs 20 ms, which every other call of the program would pay.
        metadata = importlib.import_module("importlib.metadata")
        click.echo(f"leveret {metadata.version('leveret')}")
        ctx.exit()


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`leveret COMMAND --help` shows a command's options and examples.",
)
@click.option("--traceback", is_flag=True, help="Show the whole traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit."
)
def main(traceback: bool) -> None:
    """Distributed workers for Python over AMQP 0-9-1, with a broker of their own."""


if __name__ == "__main__":
    main()
