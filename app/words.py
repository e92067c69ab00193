"""Which words of an answer were kept, added or removed against another. Pure text, no markup."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from app.tree import Tree, el


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """Pieces of text in reading order, each "kept", "added" or "removed".

    >>> changes("I cannot help.", "I can help.")
    [('kept', 'I '), ('removed', 'cannot '), ('added', 'can '), ('kept', 'help.')]
    """
    old, new = re.findall(r"\S+\s*", before), re.findall(r"\S+\s*", after)
    pieces = []
    for step, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if step == "equal":
            pieces.append(("kept", "".join(new[k:m])))
        else:
            pieces += [("removed", "".join(old[i:j])), ("added", "".join(new[k:m]))]
    return [(kind, text) for kind, text in pieces if text]


def marked(before: str, after: str) -> Tree:
    """The same as a paragraph: added words underlined, removed words struck through."""
    tags = {"kept": "span", "added": "ins", "removed": "del"}
    return el("p", *(el(tags[kind], text) for kind, text in changes(before, after)), cls="answer")
