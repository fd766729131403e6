"""Strict reading and writing of TSV tables.

A table that is read wrongly would silently train a network on wrong labels. Therefore nothing is guessed: a line with
too many or too few cells, a repeated row, a stray space or a malformed id is an error that names the line, and only
``n/a`` and the empty cell are missing values. Ids are never converted to numbers. A TSV file has no types: a string
that looks like a number, such as "12", is read as a number unless other values of its column are text, and True is read
as the string "True".
"""

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn.errors import NotFoundError, TableError, suggestion
from neurocnn.errors.arguments import check_each, check_list, check_path, check_table, check_text
from neurocnn.storage.files import storage_errors, write_atomically
from neurocnn.storage.identity import IMAGE, REQUIRED, check_columns, check_ids

MISSING = ("", "n/a")
# `inf` is a number, because a perfect reconstruction has an infinite PSNR, which `write_table` writes.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_INTEGER = re.compile(r"[+-]?\d{1,18}")


def read_table(path: str | os.PathLike[str], required: Sequence[str] = REQUIRED) -> pd.DataFrame:
    """Read a tab-separated table.

    Parameters
    ----------
    path
        A TSV file in UTF-8 with one line of column names.
    required
        Required columns. If `participant_id` and `session_id` are among them, their values are checked (``sub-…``,
        ``ses-…``), and no two rows may have the same cohort, participant, session and part.

    Returns
    -------
    frame
        One row per line. A column is numeric if all its values are numbers without leading zeros, otherwise text;
        ids and `cohort` are always text. ``n/a`` and empty cells are missing values; "NA" is text.

    Raises
    ------
    NotFoundError
        If the file does not exist. The message lists similar names.
    TableError
        If the content is malformed, or a required column is missing. The message names the line.
    StorageError
        If the file cannot be read.

    Examples
    --------
    >>> _ = (tmp / "labels.tsv").write_text("participant_id\\tsession_id\\tage\\nsub-01\\tses-M00\\tn/a\\n")
    >>> read_table(tmp / "labels.tsv")
      participant_id session_id  age
    0         sub-01    ses-M00  NaN
    """
    path = check_path("path", path, where="read_table")
    required = check_list("required", required, "column names", where="read_table")
    check_each("required", required, check_text, where="read_table")
    texts, lines = read_texts(path, required)
    if texts.empty:
        raise TableError(f"{path}: the table has a header and no rows; expected at least one row")
    frame = typed_columns(texts, [f"{path}, {line}" for line in lines])
    if set(REQUIRED) <= set(required):
        check_ids(frame, str(path), lines)
    return frame


def read_texts(path: Path, required: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of strings, which may have no rows, and the names of its rows: ``line 2``, …"""
    header, rows, lines = _read_cells(path)
    check_columns(header, required, path)
    return pd.DataFrame(rows, columns=header, dtype=object), [f"line {line}" for line in lines]


def typed_columns(texts: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    """Convert a table of strings to numbers, strings and missing values. `rows` names its rows in messages."""
    columns = {str(name): _typed_column(texts[name].tolist(), str(name), rows) for name in texts}
    return pd.DataFrame(columns, columns=texts.columns)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table atomically. `read_table` returns exactly the same floats.

    Parameters
    ----------
    frame
        The table. Its index is not written. Missing values become ``n/a``. Strings that look like numbers are written
        unchanged, but `read_table` returns them as numbers.
    path
        Path of the TSV file. Its folder is created if missing.

    Raises
    ------
    TableError
        If a value could not be read back: it contains a line break, starts or ends with a space, or is an empty string
        or the string "n/a", which would be read as missing.
    StorageError
        If the file cannot be written (full disk, read-only folder). The message contains `path`.

    Examples
    --------
    >>> write_table(pd.DataFrame({"epoch": [1, 2], "loss": [0.1, float("nan")]}), tmp / "training.tsv")
    >>> (tmp / "training.tsv").read_text()
    'epoch\\tloss\\n1\\t0.1\\n2\\tn/a\\n'
    """
    path = check_path("path", path, where="write_table")
    check_table("frame", frame, where="write_table")
    text = format_table(frame, path)
    with write_atomically(path, "w") as file:
        file.write(text)


def format_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> str:
    """Return the content of the file that `write_table` would write to `path`."""
    names = [str(name) for name in frame.columns]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: the column {name!r} occurs twice; rename or remove one")
    columns = [_cell_texts(frame.iloc[:, i], name, path) for i, name in enumerate(names)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_cell_texts(pd.Series(names, dtype=object), "column names", path))
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _read_cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the header, the cells of each row as strings, and the line number of each row."""
    # `splitlines` would also split at other characters, such as U+2028, which may occur in a cell.
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter="\t", strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    started, blank = 1, 0
    try:
        for cells in reader:
            line, started = started, reader.line_num + 1
            if reader.line_num > line or any("\n" in cell or "\r" in cell for cell in cells):
                raise TableError(
                    f"{path}, line {line}: a quote is opened and not closed on the line; close it"
                )
            if not header:
                header = cells
                _check_header(header, path)
                continue
            if not cells:
                blank = blank or line
                continue
            # Blank lines are allowed at the end of the file only.
            if blank:
                _check_cells([], header, path, blank)
            _check_cells(cells, header, path, line)
            rows.append(cells)
            lines.append(line)
    except csv.Error as error:
        raise TableError(f"{path}, line {started}: a quote is not closed ({error}); close it") from None
    if not header:
        raise TableError(f"{path}: the table is empty; expected a line of column names and at least one row")
    return header, rows, lines


def _read_text(path: Path) -> str:
    with storage_errors(path, "read"):
        if path.is_dir():
            raise TableError(f"{path}: this is a folder; expected a TSV file")
        if not path.is_file():
            near = sorted(entry.name for entry in path.parent.glob("*.tsv")) if path.parent.is_dir() else []
            hint = suggestion(path.name, near) if near else f"{path.parent} contains no TSV files"
            raise NotFoundError(f"{path}: the table does not exist; {hint}")
        content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TableError(f"{path}: found UTF-16 text; expected UTF-8; save or export the table as UTF-8")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise TableError(f"{path}, line {line}: NUL byte found; expected text; restore the file from a copy")
    try:
        # "utf-8-sig" drops the byte-order mark that spreadsheets write.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path}, line {line}: byte {content[error.start]:#04x} found; expected UTF-8; save the table as UTF-8"
        ) from None


def _check_header(header: list[str], path: Path) -> None:
    if not header or not any(name.strip() for name in header):
        raise TableError(f"{path}: the table is empty; expected a line of column names and at least one row")
    if len(header) == 1:
        for sign, name in ((",", "commas"), (";", "semicolons")):
            if sign in header[0]:
                raise TableError(
                    f"{path}, line 1: columns seem to be separated by {name}; expected tabs; found {header[0]!r}"
                )
    for name in header:
        if name != name.strip():
            raise TableError(f"{path}, line 1: spaces around the column name {name!r}; remove them")
        if not name or re.fullmatch(r"Unnamed: \d+", name):
            remedy = "write it with index=False if it is a row index of pandas, otherwise add a name"
            raise TableError(f"{path}, line 1: column {header.index(name) + 1} has no name; {remedy}")
        if header.count(name) > 1:
            raise TableError(f"{path}, line 1: the column {name!r} occurs twice; rename or remove one")


def _check_cells(cells: list[str], header: list[str], path: Path, line: int) -> None:
    if len(cells) != len(header):
        raise TableError(
            f"{path}, line {line}: {len(cells)} cells; expected {len(header)} as in the header "
            f"({', '.join(header)}); found {cells!r}"
        )
    for name, cell in zip(header, cells, strict=True):
        if cell != cell.strip():
            raise TableError(f"{path}, line {line}: spaces around the {name} {cell!r}; remove them")


def _typed_column(cells: list[str], name: str, where: Sequence[str]) -> pd.Series:
    """Return one column: numbers if all its cells are numbers, otherwise text."""
    filled = [cell for cell in cells if cell not in MISSING]
    if name in IMAGE or not all(is_number(cell) for cell in filled):
        # pandas 3 has a dtype for text; pandas 2 stores text as objects.
        dtype = pd.Series(filled or ["text"]).dtype
        return pd.Series([math.nan if cell in MISSING else cell for cell in cells], dtype=dtype)
    for cell, row in zip(cells, where, strict=True):
        overflows = cell not in (*MISSING, "inf", "-inf") and math.isinf(float(cell))
        if overflows or not cell.isascii():
            raise TableError(
                f"{row}: {name}={cell!r}; expected a number between −1.7e308 and 1.7e308 with the digits 0 to 9; "
                "correct the cell"
            )
    if len(filled) == len(cells) and all(_INTEGER.fullmatch(cell) for cell in cells):
        return pd.Series([int(cell) for cell in cells], dtype="int64")
    return pd.Series([math.nan if cell in MISSING else float(cell) for cell in cells], dtype="float64")


def is_number(cell: str) -> bool:
    """Return whether a cell is read as a number, provided that all other cells of its column are numbers.

    A cell with leading zeros, such as "001", or with more digits than int64 holds, is read as text.
    """
    if not _NUMBER.fullmatch(cell) or _LEADING_ZERO.match(cell):
        return False
    return bool(_INTEGER.fullmatch(cell)) or not cell.lstrip("+-").isdigit()


def _cell_texts(column: pd.Series, name: str, path: object) -> list[str]:
    """Return the cells of one column as strings."""
    texts = []
    for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True):
        # repr returns the shortest string from which the same float is read.
        text = repr(float(value)) if isinstance(value, float) else str(value)
        if not missing and (text in MISSING or text != text.strip() or any(c in text for c in "\n\r\0")):
            raise TableError(
                f"{path}: {name}={text!r}; a TSV file cannot keep this string; expected text without line breaks and "
                "surrounding spaces, neither empty nor 'n/a'; replace it (use None for a missing value)"
            )
        texts.append("n/a" if missing else text)
    return texts
