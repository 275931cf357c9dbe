"""The entry point ``raykv``: the list of commands, and how errors are reported.

Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C. An error is one line on stderr, never a traceback.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import click

import raykv
from raykv.cli.output import one_line
from raykv.errors import BucketMismatch, InvalidKey, InvalidOption, NotEnoughNodes, PairTooLarge, RaykvError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODULES = {
    "store_commands": ("start", "stop", "status", "ring", "buckets", "repair"),
    "restart_command": ("restart",),
    "node_commands": ("add-node", "remove-node", "replace-node", "set-weight", "rebalance", "autoscale"),
    "pair_commands": ("put", "get", "delete", "scan"),
    "lock_commands": ("add", "lock"),
    "queue_command": ("queue",),
    "explain_command": ("explain",),
    "doctor_command": ("doctor",),
    "dashboard_command": ("dashboard",),
    "list_command": ("list",),
    "metrics_command": ("metrics",),
    "inspect_command": ("inspect",),
    "backup_commands": ("backup", "restore"),
    "file_commands": ("export", "import"),
    "demo": ("demo",),
}
"""Module -> its commands, in the order in which a user meets them. Each has them in its ``COMMANDS``, too."""
_WRONG_USAGE = (InvalidKey, PairTooLarge, InvalidOption, BucketMismatch, NotEnoughNodes)
INTERRUPTED = 130


class Commands(MutableMapping[str, click.Command]):
    """The commands by name; a module is imported when one of its commands is asked for."""

    def __init__(self) -> None:
        self._modules = {name: module for module, names in MODULES.items() for name in names}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = importlib.import_module(f"raykv.cli.{self._modules[name]}")
            self._loaded |= {command.name: command for command in module.COMMANDS}
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._modules[name], self._loaded[name] = "", command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class CommandLine(click.Group):
    """The commands, in the order in which a user meets them."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command; report an error in one line; exit with its code."""
        code = self._run(args, **extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of their addition; click would sort them."""
        del ctx
        return list(self.commands)

    def _run(self, args: Sequence[str] | None, **extra: Any) -> int:
        try:
            result = super().main(args, standalone_mode=False, **extra)
        except click.UsageError as error:
            where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
            return _say(error.format_message() + where, 2)
        except click.ClickException as error:
            return _say(error.format_message(), 1)
        except click.Abort:
            return _say("interrupted", INTERRUPTED)
        except RaykvError as error:
            return _say(error.message, 2 if isinstance(error, _WRONG_USAGE) else 1)
        except OSError as error:
            return _say(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
        except Exception as error:  # noqa: BLE001 - the last line of defence: users never see a traceback
            return _say(f"unexpected {type(error).__name__}: {error}", 1)
        return result if isinstance(result, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(f"raykv: {one_line(message)}", err=True)
    return code


@click.group(
    cls=CommandLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  raykv start --nodes 3\n  raykv put user:1 Ada\n  raykv get user:1\n  raykv demo",
)
@click.version_option(raykv.__version__, prog_name="raykv")
@click.pass_context
def cli(context: click.Context) -> None:
    """Start, use and watch a Dynamo-style key-value store that lives inside a Ray cluster.

    Exit code 0; 1 for a failure; 2 for wrong usage.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.commands = Commands()


def main() -> None:
    """Run the command line with the arguments of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    cli.main(prog_name="raykv")
