"""Data files as numbered rows: JSON lines, CSV, both of the first packed with gzip, Parquet. Knows nothing of chats.

Files come from strangers, so what is unpacked is counted while it is unpacked, and refused beyond `MOST_BYTES`. No
torch; pyarrow is imported for a Parquet file only.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from backend.errors import UserError

ENDINGS = (".jsonl", ".csv", ".jsonl.gz", ".json.gz", ".parquet")
READ = "a .jsonl, .csv, .jsonl.gz, .json.gz or .parquet file"
MOST_BYTES = 2 * 2**30
LONGEST_LINE = 64 * 2**20
BYTES_OF_A_VALUE = 4
BATCH_ROWS = 8192
DELIMITERS = (",", ";", "\t")
BUFFER = 2**18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Broken(NamedTuple):
    """A row that could not be read, and why."""

    reason: str


def numbered_rows(path: Path, *, field: str, most_bytes: int = MOST_BYTES) -> Iterator[tuple[int, Any]]:
    """Every row of a file with its number: the line it begins on, or in a Parquet file the row; 1 is the first.

    Args:
        path: its ending says how it is read, see `ENDINGS`.
        field: whom an error is about.
        most_bytes: of the unpacked content; a small file can unpack to more than a machine holds.

    Raises:
        UserError: it is not there, is damaged, unpacks to more than `most_bytes`, or is a CSV file that is no UTF-8,
            names a column twice or has a quote that swallows lines.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = path.write_text('{"prompt": "Hi"}\\nHi\\n')
    >>> list(numbered_rows(path, field="task_data"))
    [(1, {'prompt': 'Hi'}), (2, Broken(reason='not JSON'))]
    """
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise UserError(field, problem=f"{path.name} is of no kind that is read", allowed=READ, remedy="Convert it.")
    try:
        if name.endswith(".parquet"):
            yield from _parquet_rows(path, field, most_bytes)
            return
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
            opened = _counted(file, _too_large(path, field, most_bytes), most_bytes)
            yield from _csv_rows(opened, path, field) if name.endswith(".csv") else _json_rows(opened, path, field)
    except FileNotFoundError:
        raise UserError(field, problem=f"there is no file {path}", remedy=f"Give {READ}.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        remedy = "Save it as UTF-8 text, or fetch it again if it is packed."
        raise UserError(field, problem=f"{path} cannot be read ({error})", remedy=remedy) from None


def _counted(file: Any, refusal: UserError, most: int) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Counted(file, refusal, most), BUFFER))


class _Counted(io.RawIOBase):
    """A stream that raises `refusal` once more than `most` bytes came out of it."""

    def __init__(self, source: IO[bytes], refusal: UserError, most: int) -> None:
        self._source, self._refusal, self._left = source, refusal, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._source.read(len(buffer))
        self._left -= len(found)
        if self._left < 0:
            raise self._refusal
        buffer[: len(found)] = found
        return len(found)


def _too_large(path: Path, field: str, most: int) -> UserError:
    allowed = f"at most {most:,} bytes"
    return UserError(
        field,
        problem=f"{path.name} holds more than that when unpacked",
        allowed=allowed,
        remedy="Take a part of it, as a file of its own.",
    )


def _json_rows(file: IO[bytes], path: Path, field: str) -> Iterator[tuple[int, Any]]:
    line = 0
    while raw := file.readline(LONGEST_LINE + 1):
        line += 1
        if len(raw) > LONGEST_LINE:
            problem = f"line {line} of {path.name} is too long"
            allowed = f"at most {LONGEST_LINE:,} bytes"
            raise UserError(field, problem=problem, allowed=allowed, remedy="Write one row on each line.")
        if line == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        if raw.strip():
            yield line, _json_row(raw)


def _json_row(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return Broken("not UTF-8")
    except (ValueError, RecursionError):
        return Broken("not JSON")


def _csv_rows(file: IO[bytes], path: Path, field: str) -> Iterator[tuple[int, Any]]:
    """Rows by the line they begin on. One that a stray quote spoils is broken; a quote that swallows lines ends it."""
    csv.field_size_limit(LONGEST_LINE)  # 131,072 characters by default, less than some answers have
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    blank, first = _first_line(text)
    reader = csv.reader(chain([first], text), strict=True, **_dialect(first))
    names: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if names and reader.line_num == start:
                yield blank + start, Broken(f"not CSV ({error})")
                continue
            problem = f"the row that begins on line {blank + start} of {path.name} cannot be read ({error})"
            raise UserError(field, problem=problem, remedy="Close its quote; inside a text write two.") from None
        if not values:
            continue
        if not names:
            names = _names(values, path, field)
        elif len(values) > len(names):
            yield blank + start, Broken("more fields than the header names")
        else:
            yield blank + start, {name: value for name, value in zip(names, values, strict=False) if name}


def _first_line(text: IO[str]) -> tuple[int, str]:
    """How many blank lines there are, and the line after them."""
    blank = 0
    while (line := text.readline()) and not line.strip():
        blank += 1
    return blank, line


def _dialect(header: str) -> dict[str, Any]:
    """What stands between values: that of `DELIMITERS` which cuts the header into most names, a blank behind it or not.

    >>> _dialect("prompt; response; kind")
    {'delimiter': ';', 'skipinitialspace': True}
    """
    cut = {one: next(csv.reader([header], delimiter=one), []) for one in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda one: len(cut[one]))  # the first of them where several cut alike
    _, *others = cut[delimiter] or [""]
    return {"delimiter": delimiter, "skipinitialspace": bool(others) and all(one[:1] == " " for one in others)}


def _names(header: Sequence[str], path: Path, field: str) -> list[str]:
    """The columns' names without their blanks and capitals; "" for a column that is not read."""
    names = [name.strip().lower() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        problem = f"the header of {path.name} names {', '.join(twice)} twice"
        raise UserError(field, problem=problem, remedy="Give each column a name of its own; capitals do not count.")
    return names


def _parquet_rows(path: Path, field: str, most: int) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as plain:
            texts = _checked_columns(plain, _too_large(path, field, most), most)
        number, left = 0, most
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                left -= sum(map(_written_out, batch.columns))
                if left < 0:
                    raise _too_large(path, field, most)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        problem = f"{path.name} is no Parquet file that can be read ({str(error)[:200]})"
        raise UserError(field, problem=problem, remedy="Fetch it again, or save it as .jsonl.") from None


def _checked_columns(file: Any, refusal: UserError, most: int) -> list[str]:
    """The columns of text, to be read as dictionaries: a text that many rows share is then in memory once."""
    groups = [file.metadata.row_group(one) for one in range(file.metadata.num_row_groups)]
    values = sum(group.column(one).num_values for group in groups for one in range(group.num_columns))
    if max(sum(group.total_byte_size for group in groups), values * BYTES_OF_A_VALUE) > most:
        raise refusal
    columns = [file.schema.column(one) for one in range(len(file.schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _written_out(array: Any) -> int:
    """Bytes of an Arrow array once every text is written out, counted before it is.

    >>> import pyarrow
    >>> _written_out(pyarrow.array([["fox", "fox"], ["dog!"]], pyarrow.list_(pyarrow.dictionary("int32", "string"))))
    22
    """
    import pyarrow
    from pyarrow import compute

    kind = pyarrow.types
    if kind.is_struct(array.type):
        return sum(map(_written_out, array.flatten()))
    if kind.is_map(array.type):
        return _written_out(array.keys) + _written_out(array.items)
    if kind.is_list(array.type) or kind.is_large_list(array.type) or kind.is_fixed_size_list(array.type):
        return _written_out(array.flatten())
    if kind.is_dictionary(array.type):
        lengths = compute.take(compute.binary_length(array.dictionary), array.indices)
        return len(array) * BYTES_OF_A_VALUE + (compute.sum(lengths).as_py() or 0)
    return int(array.nbytes)
