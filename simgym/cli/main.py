"""`simgym`: the command line, one file per verb, and the one place where an error becomes a sentence.

Verbs read their options, call the library and print; they hold no mechanism. What a verb raises on purpose
(`SimgymError`, and Gymnasium's own errors) is printed as one sentence on stderr with exit code 2, or 3 if a server is
away and the same command goes on later. So is what the operating system refuses: a full disk, a folder that cannot be
written, a reader of the output that has left. With `SIMGYM_TRACEBACK=1` in the environment the traceback is shown
instead; anything else is a bug and keeps its traceback. Libraries that take long to import are imported inside the
verbs, so that help is quick.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import gymnasium.error
import typer
from typer.core import TyperGroup

from simgym import __version__
from simgym.cli.agree import agree
from simgym.cli.cache import cache
from simgym.cli.catalogue import assistants, judges, scenarios, simulators
from simgym.cli.chat import chat
from simgym.cli.data import data
from simgym.cli.doctor import doctor
from simgym.cli.envs import envs
from simgym.cli.export import export
from simgym.cli.init import init
from simgym.cli.judge import judge, rescore
from simgym.cli.labels import labels
from simgym.cli.matrix import matrix
from simgym.cli.play import play
from simgym.cli.realism import realism
from simgym.cli.recipe import recipe
from simgym.cli.report import report
from simgym.cli.rollout import rollout
from simgym.cli.serve import serve
from simgym.cli.study import study
from simgym.cli.terminal import complain
from simgym.cli.view import view
from simgym.cli.wildbench import wildbench
from simgym.environment import VARIABLES
from simgym.errors import ServerUnavailable, SimgymError

_SIGPIPE = 13
_SERVER_AWAY = 3
"""Exit code: the same command goes on when the server is back."""
_RESUMABLE = ("rollout", "matrix", "realism", "rescore", "rejudge", "data", "wildbench")


class CommandGroup(TyperGroup):
    """Runs a verb and turns errors into sentences and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()  # what cannot be written shall be said here, not while Python shuts down
            return outcome
        except (SimgymError, gymnasium.error.Error) as error:
            if os.environ.get("SIMGYM_TRACEBACK", "0") not in ("", "0"):
                raise
            complain(str(error))
            raise typer.Exit(_SERVER_AWAY if isinstance(error, ServerUnavailable) else 2) from error
        except OSError as error:
            if os.environ.get("SIMGYM_TRACEBACK", "0") not in ("", "0") or error.errno is None:
                raise
            raise typer.Exit(_refused(error)) from error
        except ImportError as error:
            if "simgym[" not in str(error):  # statistics raise plain ImportErrors; any other is a bug
                raise
            complain(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            kept = " What was completed is kept; run the same command again to resume."
            complain(f"Interrupted.{kept if ctx.invoked_subcommand in _RESUMABLE else ''}")
            raise typer.Exit(130) from interrupt


def _refused(error: OSError) -> int:
    """Say what the operating system has refused; returns the exit code."""
    if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO) and error.filename is None:
        # what is still to be written to stdout would fail again at the end of the process
        with suppress(OSError, ValueError):  # ValueError: no real file, e.g. in a test
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:  # `| head` has seen enough
        return 128 + _SIGPIPE
    place = f"{error.filename}: " if error.filename is not None else "The output cannot be written: "
    complain(f"{place}{error.strerror}.")
    return 2


def _epilog() -> str:
    width = max(map(len, VARIABLES))
    lines = [f"  {name:{width}}  {meaning}" for name, meaning in VARIABLES.items()]
    return "\n".join(["\b", "Environment variables:", *lines])


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts hold square brackets, and stay the same in every terminal and in the docs
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_epilog(),
)
for verb in (
    envs,
    simulators,
    judges,
    assistants,
    scenarios,
    chat,
    rollout,
    matrix,
    report,
    realism,
    agree,
    rescore,
    view,
    labels,
    export,
    serve,
    play,
    init,
    recipe,
    doctor,
):
    app.command()(verb)
app.command("rejudge", hidden=True)(rescore)  # its name in earlier versions
app.add_typer(cache, name="cache")
app.add_typer(data, name="data")
app.add_typer(judge, name="judge")
app.add_typer(wildbench, name="wildbench")
app.add_typer(study, name="study")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"simgym {__version__}")
        raise typer.Exit


@app.callback()
def simgym(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """User simulators as Gymnasium environments: chat, roll out, evaluate, inspect."""


def main() -> None:
    """Entry point of the `simgym` script."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of few characters shows and types ? for the others
            stream.reconfigure(errors="replace")
    app()
