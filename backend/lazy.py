"""Torch, transformers and NumPy, imported when a function first uses them.

Plug-in modules are read by the page for their signatures, and the page must open fast and never hold device memory.
So modules that only *compute* with torch take it from here: importing them imports nothing. transformers takes a second
to import, which a process that only merges need not wait for.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast


class _Lazy:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)  # the next look-up does not come here: small functions are called often
        return found


def lazy_module(name: str) -> ModuleType:
    """A stand-in for module `name` that imports it at the first attribute.

    >>> lazy_module("math").floor(2.5)
    2
    """
    return cast(ModuleType, _Lazy(name))


if TYPE_CHECKING:
    import numpy
    import torch
    import transformers
else:
    numpy, torch, transformers = map(lazy_module, ("numpy", "torch", "transformers"))

__all__ = ["lazy_module", "numpy", "torch", "transformers"]
