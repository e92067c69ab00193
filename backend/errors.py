"""What can go wrong, as a tree. A user's mistake gets a sentence that helps; everything else is a bug and keeps its
traceback (in the log, never on the page).

    StudioError
    ├── UserError      the input is wrong: field, value, what is allowed, what to do      exit code 2
    ├── RunFailed      the input was fine, the work could not be done (disk, memory)      exit code 1
    ├── DeviceBusy     a run holds the device, so a live answer has to wait               exit code 1
    ├── Cancelled      somebody asked the run to stop                                     exit code 1
    │   └── Interrupted   nobody did: its worker stops, and a restart is to go on         exit code 1
    └── Paused         somebody asked it to stop and go on later                          exit code 1
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST_BITS = 256  # of an integer that is written out


class StudioError(Exception):
    """Base of everything whose text is meant for the person in front of the screen."""


class UserError(StudioError):
    """One sentence about one field: what was given, what is allowed, what to do.

    >>> str(UserError("density", got=1.7, allowed="above 0 and up to 1", remedy="Use 1.0 to keep every entry."))
    'density: got 1.7; allowed is above 0 and up to 1. Use 1.0 to keep every entry.'
    >>> str(UserError("aligned", problem="the folder holds no *.safetensors file", remedy="Pick another folder."))
    'aligned: the folder holds no *.safetensors file. Pick another folder.'
    """

    def __init__(
        self,
        field: str,
        *,
        got: object = None,
        allowed: str | None = None,
        problem: str | None = None,
        remedy: str = "",
    ) -> None:
        what = problem if problem is not None else f"got {_shown(got)}"
        if allowed:
            what += f"; allowed is {allowed}"
        super().__init__(f"{field}: {what}." + (f" {remedy}" if remedy else ""))
        self.field = field


def _shown(value: object) -> str:
    """A value as a sentence can hold it; Python itself refuses to write integers of thousands of digits.

    >>> _shown(0.5), _shown(10**5000)
    ('0.5', 'a huge number')
    """
    return "a huge number" if isinstance(value, int) and value.bit_length() > MOST_BITS else repr(value)


class RunFailed(StudioError):
    """The work could not be finished; the sentence says what happened and what to do."""


class DeviceBusy(StudioError):
    """A run holds the device; the sentence names it."""


class Cancelled(StudioError):
    """The run was asked to stop and did."""


class Interrupted(Cancelled):
    """The run has to stop because its worker does; what it has begun stays for a restart."""


class Paused(StudioError):
    """The run stopped on request after writing down where it is; restarting it goes on from there."""


def unknown_name(field: str, got: str, available: Iterable[str]) -> UserError:
    """The error for a name that is not there, with a suggestion where one is near.

    >>> str(unknown_name("method", "linaer", ["linear", "slerp"]))
    'method: no "linaer". Did you mean "linear"? Available: linear, slerp.'
    """
    names = sorted(available)
    near = get_close_matches(got, names, n=1)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    return UserError(field, problem=f'no "{got}"', remedy=f"{hint}Available: {', '.join(names) or 'none'}.")
