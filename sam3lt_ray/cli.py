"""The ``sam3lt`` command: its subcommands, and what a mistake looks like to the person who typed it.

Nothing here or in ``commands`` imports Ray, torch or transformers before a command needs them: ``--help`` and the
answer to a mistyped config come at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sam3lt_ray import __version__
from sam3lt_ray.commands import bench, config, demo, doctor, label, results
from sam3lt_ray.errors import EXIT_FAILED, Sam3ltError
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.terminal import printable

DEBUG_OPTION = "--debug"

app = typer.Typer(
    name="sam3lt",
    help="Instance masks for large piles of images: SAM3 on Ray, resumable, into Parquet and COCO.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
demo.register(app)
label.register(app)
results.register(app)
config.register(app)
doctor.register(app)
bench.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sam3lt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG_OPTION, help="Show a traceback for every error.")] = False,
) -> None:
    """Options that stand before the command; ``main`` acts on ``debug``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What stands after ``sam3lt``; None: the command line.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage or config, 3 above the error budget, 75 worth retrying.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # People add --debug at the end of the line that failed, where only a subcommand's options may stand.
    debug = DEBUG_OPTION in words
    words = [word for word in words if word != DEBUG_OPTION]
    try:
        app(args=words, prog_name="sam3lt")
    except SystemExit as exit_request:
        return _exit_code(exit_request)
    except Sam3ltError as error:
        if debug:
            _complain(traceback.format_exc())
        _complain(error.message)
        return error.exit_code
    except Exception as error:  # the last resort: a person gets a sentence, not a traceback
        if debug:
            _complain(traceback.format_exc())
        else:
            _complain(f"Unexpected {type(error).__name__}: {error}")
            _complain(f"This is a fault in sam3lt. The same command with {DEBUG_OPTION} shows where.")
        return EXIT_FAILED
    return 0


def _complain(text: str) -> None:
    """To standard error: without secrets, whoever wrote the text, and without orders to the terminal."""
    print(printable(without_credentials(text.rstrip("\n"))), file=sys.stderr)


def _exit_code(exit_request: SystemExit) -> int:
    if exit_request.code is None:
        return 0
    return exit_request.code if isinstance(exit_request.code, int) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
