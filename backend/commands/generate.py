"""Answer one prompt."""

from __future__ import annotations

import argparse

from backend.api import Studio
from backend.commands.common import number, print_json, print_line
from backend.settings import Settings
from backend.types import Column


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--tuned")
    parser.add_argument("--lambda", dest="lam", type=number, help="0 is aligned, 1 fine-tuned")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, default=64)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    column = Column(options.aligned, options.tuned or "", options.lam or 0.0)
    text = ""
    studio = Studio(settings)
    try:
        for chunk in studio.stream([column], [{"role": "user", "content": options.prompt}], new_tokens=options.tokens):
            if not options.json:
                print(chunk.text[len(text) :], end="", flush=True)
            text = chunk.text
    finally:
        studio.close()
    if options.json:
        return print_json({"checkpoint": column.title, "prompt": options.prompt, "answer": text})
    return print_line()
