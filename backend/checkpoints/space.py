"""Whether the disk and the memory are large enough, asked before work starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from backend.errors import UserError

RESERVE = 64 * 2**20


def check_space(folder: Path, need: int, *, free: int | None = None, field: str = "out") -> None:
    """Refuse work that needs more disk than `folder`'s file system has.

    Args:
        need: bytes.
        free: bytes free, default what the system says of `folder` or its nearest existing parent.

    >>> check_space(Path("out"), 6_000_000, free=50_000_000)
    Traceback (most recent call last):
    backend.errors.UserError: out: this needs 6.0 MB of disk and 67.1 MB in reserve, 50.0 MB are free. Free some \
space, or choose a folder on another disk.
    """
    if free is None:
        _check_writable(nearest(folder), field)
        free = free_disk(folder)
    if need + RESERVE > free:
        wanted = f"{size_words(max(0, need))} of disk and {size_words(RESERVE)} in reserve"
        problem = f"this needs {wanted}, {size_words(free)} are free"
        raise UserError(field, problem=problem, remedy="Free some space, or choose a folder on another disk.")


def _check_writable(place: Path, field: str) -> None:
    """Refuse what is no disk (as /proc) or takes no files; only a full disk asks for space."""
    if shutil.disk_usage(place).total == 0 or not os.access(place, os.W_OK):
        problem = f"nothing can be written to {place}"
        raise UserError(field, problem=problem, remedy="Choose a folder that you may write to.")


def check_memory(need: int, *, free: int | None = None, field: str = "memory") -> None:
    """Refuse work that needs more memory than is available, in bytes."""
    free = free_memory() if free is None else free
    if need > free:
        problem = f"this needs {size_words(need)} of memory, {size_words(free)} are free"
        raise UserError(field, problem=problem, remedy="Close other programs, or choose a smaller model.")


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def free_memory() -> int:
    """Bytes this process may still take: what the system has, capped by its control group."""
    available = _meminfo()
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return available if limit == "max" else max(0, min(available, int(limit) - used))
    except (OSError, ValueError):
        return available


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def size_words(count: int) -> str:
    """Bytes in the unit a person reads.

    >>> size_words(1_500_000_000), size_words(2_000_000), size_words(10)
    ('1.5 GB', '2.0 MB', '10 bytes')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
