"""Tables are read exactly as they are written, or refused with an error."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurocnn.errors import NeurocnnError, NotFoundError, TableError
from neurocnn.storage import read_table, write_table
from neurocnn.storage.identity import check_ids

HEADER = "participant_id\tsession_id\tdiagnosis\tage\n"
ROW = "sub-001\tses-M00\tAD\t71.5\n"


def written(folder: Path, content: str | bytes, name: str = "labels.tsv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_columns_of_numbers_are_numeric_and_ids_are_text(tmp_path: Path):
    text = "participant_id\tsession_id\tcohort\tage\tvisits\tsite\tmms\n"
    text += "sub-01\tses-M00\t1\t70\t3\t001\t29\nsub-02\tses-M00\t2\t71.5\t4\t012\tn/a\n"
    frame = read_table(written(tmp_path, text))
    assert frame["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert frame["cohort"].tolist() == ["1", "2"]
    assert frame["site"].tolist() == ["001", "012"]
    assert frame["age"].tolist() == [70.0, 71.5]
    assert frame["visits"].dtype == np.int64
    assert frame["mms"].dtype == np.float64
    assert math.isnan(frame["mms"][1])


@pytest.mark.parametrize(
    "word", ["NA", "None", "nan", "NaN", "null", "N/A", "1_000", "0x10", "12345678901234567890"]
)
def test_only_n_a_and_the_empty_cell_are_missing(tmp_path: Path, word: str):
    text = f"participant_id\tsession_id\tx\nsub-1\tses-M00\t{word}\nsub-2\tses-M00\tn/a\nsub-3\tses-M00\t\n"
    frame = read_table(written(tmp_path, text))
    assert frame["x"][0] == word
    assert frame["x"].isna().tolist() == [False, True, True]


def test_the_error_of_a_missing_table_lists_similar_names(tmp_path: Path):
    written(tmp_path, HEADER + ROW, "labels.tsv")
    with pytest.raises(NotFoundError, match=r"did you mean 'labels\.tsv'") as caught:
        read_table(tmp_path / "label.tsv")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(NotFoundError, match="contains no TSV files"):
        read_table(tmp_path / "nowhere" / "label.tsv")
    with pytest.raises(TableError, match="this is a folder"):
        read_table(tmp_path)


# Content of a faulty table, and a pattern of the error message, by name of the fault.
FAULTS = {
    "empty": ("", "the table is empty"),
    "header only": (HEADER, "no rows"),
    "required column absent": (
        HEADER.replace("session_id", "session") + ROW,
        "'session_id' is missing; did you mean 'session'",
    ),
    "comma-separated": ((HEADER + ROW).replace("\t", ","), "line 1: columns seem to be separated by commas"),
    "ragged: too many": (HEADER + ROW + "sub-002\tses-M00\tCN\t70\t29\n", "line 3: 5 cells; expected 4"),
    "ragged: too few": (HEADER + ROW + "sub-002\tses-M00\tCN\n", "line 3: 3 cells; expected 4"),
    "blank line within": (HEADER + "\n" + ROW, "line 2: 0 cells; expected 4"),
    "column twice": (HEADER.replace("age", "diagnosis") + ROW, "'diagnosis' occurs twice"),
    "same image twice": (
        HEADER + ROW + "sub-002\tses-M00\tCN\t70\n" + ROW,
        "line 2 and line 4 are both sub-001 ses-M00",
    ),
    "participant without sub-": (
        HEADER + ROW.replace("sub-", ""),
        "line 2: participant_id='001'; expected text such as 'sub-001'",
    ),
    "session without ses-": (HEADER + ROW.replace("ses-", ""), "line 2: session_id='M00'; expected"),
    "id missing": (HEADER + "n/a\tses-M00\tAD\t70\n", "line 2: participant_id=nan"),
    "not UTF-8": (
        (HEADER + ROW).encode() + "sub-002\tses-M00\tdément\t70\n".encode("latin-1"),
        "line 3: byte 0xe9 found; expected UTF-8",
    ),
    "NUL": (HEADER + ROW + "sub-002\tses-M00\tA\0D\t70\n", "line 3: NUL byte"),
    "unclosed quote": (HEADER + ROW + 'sub-002\tses-M00\t"AD\t70\n', "line 3: a quote is"),
    "quote closed on another line": (
        HEADER + 'sub-001\tses-M00\t"AD\t70\nsub-002\tses-M00\tAD"\t70\n',
        "line 2: a quote is",
    ),
    "spaces around a value": (
        HEADER + ROW.replace("AD", "AD "),
        "line 2: spaces around the diagnosis 'AD '",
    ),
    "spaces around a name": (
        HEADER.replace("age", " age") + ROW,
        "line 1: spaces around the column name ' age'",
    ),
    "slash in an id": (HEADER + ROW.replace("001", "0/1"), "line 2: participant_id='sub-0/1'"),
    "UTF-16": ((HEADER + ROW).encode("utf-16"), "found UTF-16 text; expected UTF-8"),
    "UTF-16, big end first": (b"\xfe\xff" + (HEADER + ROW).encode("utf-16-be"), "found UTF-16 text"),
    "row index of pandas": (
        "\t" + HEADER + "0\t" + ROW,
        "line 1: column 1 has no name; write it with index=False",
    ),
    "row index of pandas, read and written again": (
        "Unnamed: 0\t" + HEADER + "0\t" + ROW,
        "line 1: column 1 has no name; write it with index=False",
    ),
    "number that overflows": (
        HEADER + ROW + ROW.replace("001", "002").replace("71.5", "1e999"),
        "line 3: age='1e999'",
    ),
    "negative overflow": (HEADER + ROW.replace("71.5", "-2e308"), "line 2: age='-2e308'"),
    "digits of another script": (HEADER + ROW.replace("71.5", "٧١"), "line 2: age='٧١'"),
    "full-width digits": (HEADER + ROW.replace("71.5", "７１.5"), "line 2: age='７１.5'"),
    "dots in an id": (HEADER + ROW.replace("M00", ".."), "line 2: session_id='ses-..'"),
}


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_table_is_refused_with_the_value_and_the_line(tmp_path: Path, fault: str):
    content, message = FAULTS[fault]
    path = written(tmp_path, content)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, NeurocnnError)
    assert isinstance(again, ValueError)
    assert str(again) == str(caught.value)


def test_a_byte_order_mark_and_line_ends_of_windows_are_accepted(tmp_path: Path):
    path = written(tmp_path, b"\xef\xbb\xbf" + (HEADER + ROW).replace("\n", "\r\n").encode())
    assert read_table(path)["participant_id"].tolist() == ["sub-001"]
    assert read_table(path).columns[0] == "participant_id"


def test_a_quote_within_a_value_is_text(tmp_path: Path):
    frame = read_table(written(tmp_path, HEADER + ROW.replace("AD", 'so-called "AD"')))
    assert frame["diagnosis"][0] == 'so-called "AD"'


def test_only_line_feeds_end_a_line(tmp_path: Path):
    text = "a\x0bb\x1cc\x85d\u2028e"
    write_table(pd.DataFrame({"x": [text], "y": [1]}), tmp_path / "t.tsv")
    assert read_table(tmp_path / "t.tsv", required=())["x"].tolist() == [text]


def test_blank_lines_at_the_end_are_not_rows(tmp_path: Path):
    assert len(read_table(written(tmp_path, HEADER + ROW + "\n\n"))) == 1


def test_rows_of_one_session_in_two_cohorts_or_parts_are_accepted(tmp_path: Path):
    text = "cohort\tparticipant_id\tsession_id\nA\tsub-1\tses-M00\nB\tsub-1\tses-M00\n"
    assert len(read_table(written(tmp_path, text))) == 2
    text = "part_id\tparticipant_id\tsession_id\n0\tsub-1\tses-M00\n1\tsub-1\tses-M00\n"
    assert len(read_table(written(tmp_path, text))) == 2


def test_a_table_without_ids_is_read_if_no_columns_are_required(tmp_path: Path):
    path = written(tmp_path, "epoch\tloss\n1\t0.5\n1\t0.25\n")
    assert read_table(path, required=())["loss"].tolist() == [0.5, 0.25]
    with pytest.raises(TableError, match="'participant_id' is missing"):
        read_table(path)


def test_an_error_names_the_row_of_an_invalid_id_in_a_data_frame():
    frame = pd.DataFrame({"participant_id": ["sub-1", 2], "session_id": ["ses-M00", "ses-M00"]})
    with pytest.raises(TableError, match="sessions, row 1: participant_id=2"):
        check_ids(frame, "sessions")


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=8).filter(
    lambda t: t not in ("", "n/a")
)
floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(texts, floats, st.integers(-(10**17), 10**17)), min_size=1, max_size=8))
def test_a_written_table_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float, int]]
):
    frame = pd.DataFrame(rows, columns=["text", "float", "int"])
    # The prefix prevents that a column of text is read as numbers, because a TSV file has no types.
    frame["text"] = "t" + frame["text"].astype(str)
    frame["part_id"] = range(len(frame))
    path = tmp_path_factory.mktemp("tables") / "table.tsv"
    write_table(frame, path)
    again = read_table(path, required=())
    assert again["text"].tolist() == frame["text"].tolist()
    assert again["int"].tolist() == frame["int"].tolist()
    floats = again["float"].to_numpy(dtype=float)
    assert np.array_equal(floats, frame["float"].to_numpy(), equal_nan=True)
    assert (
        np.array_equal(np.signbit(floats), np.signbit(frame["float"].to_numpy()))
        or frame["float"].isna().any()
    )


def test_missing_values_are_written_as_n_a(tmp_path: Path):
    frame = pd.DataFrame({"a": ["x", None], "b": [1.5, np.nan], "c": [pd.NA, "y"]})
    write_table(frame, tmp_path / "t.tsv")
    assert (tmp_path / "t.tsv").read_text() == "a\tb\tc\nx\t1.5\tn/a\nn/a\tn/a\ty\n"


def test_a_code_like_1e999_among_strings_is_text(tmp_path: Path):
    frame = read_table(written(tmp_path, "hash\n1e999\n3fa\n"), required=())
    assert frame["hash"].tolist() == ["1e999", "3fa"]


def test_a_string_that_looks_like_a_number_is_read_as_a_number(tmp_path: Path):
    write_table(pd.DataFrame({"x": ["12", "1.50"], "y": ["12", "a"]}), tmp_path / "t.tsv")
    again = read_table(tmp_path / "t.tsv", required=())
    assert again["x"].tolist() == [12, 1.5]
    assert again["y"].tolist() == ["12", "a"]


@pytest.mark.faults
@pytest.mark.parametrize("value", ["a\nb", " a", "a ", "a\r", "", "n/a"])
def test_a_value_that_could_not_be_read_back_is_not_written(tmp_path: Path, value: str):
    with pytest.raises(TableError, match="a TSV file cannot keep this string"):
        write_table(pd.DataFrame({"x": [value]}), tmp_path / "t.tsv")
    assert os.listdir(tmp_path) == []


def test_a_table_with_a_repeated_column_is_not_written(tmp_path: Path):
    with pytest.raises(TableError, match="twice"):
        write_table(pd.DataFrame([[1, 2]], columns=["x", "x"]), tmp_path / "t.tsv")


def test_a_full_disk_keeps_the_old_table_and_the_error_names_the_path(tmp_path: Path):
    path = tmp_path / "t.tsv"
    write_table(pd.DataFrame({"x": [1]}), path)
    script = (
        "import resource, signal, sys, pandas as pd; from neurocnn.storage import write_table;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));"
        "frame = pd.DataFrame({'x': range(1000)});\n"
        "try:\n    write_table(frame, sys.argv[1])\nexcept OSError as error:\n    print(error.filename)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(path)
    assert path.read_text() == "x\n1\n"
    assert os.listdir(tmp_path) == ["t.tsv"]
