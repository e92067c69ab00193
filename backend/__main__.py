"""The command line, over the same facade as the page: `python -m backend COMMAND`.

`--json` prints one JSON document on standard output and nothing else; progress goes to standard error. Exit codes:
0 done, 1 failed, 2 bad input with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from backend.errors import StudioError, UserError
from backend.settings import Settings, from_environment

# Each is a module of `backend.commands`: its docstring is the help, `options` adds the options, `run` does it.
COMMANDS = (
    *("catalogue", "inspect", "sweep", "search", "evaluate", "merge", "tune", "compare-strategies", "generate"),
    *("runs", "worker", "demo"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, problem=message, remedy=f"See {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    settings: Settings | None = None
    try:
        options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
        settings = from_environment()
        code: int = options.command(settings, options)
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StudioError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 1
    except Exception as error:
        where = _log_bug(settings)
        print(f"failed: an unexpected {type(error).__name__} ended the command; {where}", file=sys.stderr)
        return 1


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--grid -0.5:1:4` as `--grid=-0.5:1:4`, which argparse would take for an option.

    >>> _joined(["sweep", "--grid", "-0.5:1:4", "--json"])
    ['sweep', '--grid=-0.5:1:4', '--json']
    """
    found: list[str] = []
    for one in arguments:
        if re.match(r"-[\d.]", one) and found and re.fullmatch(r"--[a-z-]+", found[-1]):
            found[-1] += f"={one}"
        else:
            found.append(one)
    return found


def _log_bug(settings: Settings | None) -> str:
    text = traceback.format_exc()
    try:
        if settings is None:
            raise OSError
        path = settings.home / "errors.log"
        with path.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
        return f"the traceback is in {path}."
    except OSError:
        return f"its last line: {text.strip().splitlines()[-1]}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m backend", description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        module = import_module(f"backend.commands.{name.replace('-', '_')}")
        summary = str(module.__doc__).split("\n")[0]
        one = commands.add_parser(name, help=summary, description=summary)
        one.set_defaults(command=module.run)
        one.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        module.options(one)
    return parser


if __name__ == "__main__":
    sys.exit(main())
