"""Reading and writing TSV tables strictly.

A table that is read wrongly trains a network on wrong labels and says nothing. Therefore nothing is guessed:
a ragged line, a double row, a stray space or an id that is none is an error with its line, and only ``n/a``
and the empty cell are missing values. Ids stay the text that they are.
"""

import csv
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neurocnn.errors import NotFoundError, TableError, suggestion
from neurocnn.storage.files import write_whole
from neurocnn.storage.identity import IMAGE, REQUIRED, check_columns, check_ids

MISSING = ("", "n/a")
# `inf` as `write_table` writes it: a perfect reconstruction has an infinite PSNR.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_INTEGER = re.compile(r"[+-]?\d{1,18}")


def read_table(path: str | os.PathLike[str], required: Sequence[str] = REQUIRED) -> pd.DataFrame:
    """Read a tab-separated table, or say exactly what is wrong with it.

    Parameters
    ----------
    path
        A TSV file in UTF-8 with one line of column names.
    required
        Columns that must be there. Where `participant_id` and `session_id` are among them, they are checked
        (``sub-…``, ``ses-…``) and no two rows may be of the same cohort, participant, session and part.

    Returns
    -------
    frame
        One row a line. A column of numbers alone is numeric, any other is text; ids and `cohort` are text
        always, and so is a column with leading zeros. ``n/a`` and empty cells are missing; "NA" is text.

    Raises
    ------
    NotFoundError
        There is no such file; the message names the near ones.
    TableError
        With the line, what was found and what was expected.

    Examples
    --------
    >>> _ = (tmp / "labels.tsv").write_text("participant_id\\tsession_id\\tage\\nsub-01\\tses-M00\\tn/a\\n")
    >>> read_table(tmp / "labels.tsv")
      participant_id session_id  age
    0         sub-01    ses-M00  NaN
    """
    path = Path(path)
    header, rows, lines = _cells(path)
    check_columns(header, required, path)
    if not rows:
        raise TableError(f"{path}: the table has a header and no rows")
    columns = {name: _column([row[i] for row in rows], text=name in IMAGE) for i, name in enumerate(header)}
    frame = pd.DataFrame(columns, columns=header)
    if set(REQUIRED) <= set(required):
        check_ids(frame, str(path), [f"line {line}" for line in lines])
    return frame


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table so that `read_table` gives it back: whole or not at all, floats to their last bit.

    Parameters
    ----------
    frame
        Its index is not written. Missing values become ``n/a``.
    path
        The TSV file; its folder is made where there is none.

    Raises
    ------
    TableError
        A value that could not be read back: a line break, or spaces around it.
    OSError
        With the path: full disk, read-only folder.

    Examples
    --------
    >>> write_table(pd.DataFrame({"epoch": [1, 2], "loss": [0.1, float("nan")]}), tmp / "training.tsv")
    >>> (tmp / "training.tsv").read_text()
    'epoch\\tloss\\n1\\t0.1\\n2\\tn/a\\n'
    """
    text = format_table(frame, path)
    with write_whole(path, "w") as file:
        file.write(text)


def format_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> str:
    """The text that `write_table` writes to `path`."""
    names = [str(name) for name in frame.columns]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: cannot be written, its column {name!r} is there twice")
    columns = [_texts(frame.iloc[:, i], name, path) for i, name in enumerate(names)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_texts(pd.Series(names, dtype=object), "column names", path))
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows as text, and the line that each row stands on."""
    # Not `splitlines`: it would break lines at characters that are part of a text.
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter="\t", strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    started, blank = 1, 0
    try:
        for cells in reader:
            line, started = started, reader.line_num + 1
            if reader.line_num > line or any("\n" in cell or "\r" in cell for cell in cells):
                raise TableError(f"{path}, line {line}: a quote is opened and not closed on the line")
            if not header:
                header = cells
                _check_header(header, path)
                continue
            if not cells:
                blank = blank or line
                continue
            if blank:  # blank lines may only end the file
                _check_cells([], header, path, blank)
            _check_cells(cells, header, path, line)
            rows.append(cells)
            lines.append(line)
    except csv.Error as error:
        raise TableError(f"{path}, line {started}: a quote is not closed ({error})") from None
    if not header:
        raise TableError(f"{path}: the table is empty; expected a line of column names")
    return header, rows, lines


def _text(path: Path) -> str:
    if path.is_dir():
        raise TableError(f"{path}: this is a folder, expected a TSV file")
    if not path.is_file():
        near = sorted(entry.name for entry in path.parent.glob("*.tsv")) if path.parent.is_dir() else []
        hint = suggestion(path.name, near) if near else f"{path.parent} holds no TSV files"
        raise NotFoundError(f"{path}: there is no such table; {hint}")
    content = path.read_bytes()
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise TableError(f"{path}, line {line}: there is a NUL byte; the file is damaged or no text")
    try:
        # "utf-8-sig" drops the byte-order mark that spreadsheets write.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the table as UTF-8"
        ) from None


def _check_header(header: list[str], path: Path) -> None:
    if not header or not any(name.strip() for name in header):
        raise TableError(f"{path}: the table is empty; expected a line of column names")
    if len(header) == 1:
        for sign, name in ((",", "commas"), (";", "semicolons")):
            if sign in header[0]:
                raise TableError(
                    f"{path}, line 1: columns seem to be separated by {name}, expected tabs: {header[0]!r}"
                )
    for name in header:
        if name != name.strip():
            raise TableError(f"{path}, line 1: there are spaces around the column name {name!r}; remove them")
        if not name and header.index(name) > 0:
            raise TableError(f"{path}, line 1: column {header.index(name) + 1} has no name")
        if header.count(name) > 1:
            raise TableError(f"{path}, line 1: the column {name!r} is there twice")


def _check_cells(cells: list[str], header: list[str], path: Path, line: int) -> None:
    if len(cells) != len(header):
        raise TableError(
            f"{path}, line {line}: {len(cells)} cells, expected {len(header)} as in the header "
            f"({', '.join(header)}); found {cells!r}"
        )
    for name, cell in zip(header, cells, strict=True):
        if cell != cell.strip():
            raise TableError(f"{path}, line {line}: there are spaces around the {name} {cell!r}; remove them")


def _column(cells: list[str], text: bool) -> pd.Series:
    """The cells of one column, as numbers where all of them are."""
    filled = [cell for cell in cells if cell not in MISSING]
    if text or not all(_is_number(cell) for cell in filled):
        # pandas 3 has a dtype for text; in pandas 2 text is objects.
        dtype = pd.Series(filled or ["text"]).dtype
        return pd.Series([math.nan if cell in MISSING else cell for cell in cells], dtype=dtype)
    if len(filled) == len(cells) and all(_INTEGER.fullmatch(cell) for cell in cells):
        return pd.Series([int(cell) for cell in cells], dtype="int64")
    return pd.Series([math.nan if cell in MISSING else float(cell) for cell in cells], dtype="float64")


def _is_number(cell: str) -> bool:
    # With leading zeros, or more digits than the machine's whole numbers have, it is a name: "001".
    if not _NUMBER.fullmatch(cell) or _LEADING_ZERO.match(cell):
        return False
    return bool(_INTEGER.fullmatch(cell)) or not cell.lstrip("+-").isdigit()


def _texts(column: pd.Series, name: str, path: object) -> list[str]:
    """The cells of one column as they are written."""
    texts = []
    for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True):
        # repr is the shortest text from which the same float is read.
        text = "n/a" if missing else repr(float(value)) if isinstance(value, float) else str(value)
        if text != text.strip() or "\n" in text or "\r" in text or "\0" in text:
            raise TableError(
                f"{path}: cannot write {text!r} in {name}: spaces around it, or a line break, are lost"
            )
        texts.append(text)
    return texts
