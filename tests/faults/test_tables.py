"""Invalid tables are refused with an error that contains the file, the line, the value and a remedy."""

from pathlib import Path

import pandas as pd
import pytest
from faults.clauses import covers, refuse

import neurocnn as nc

HEAD = "participant_id\tsession_id\tdiagnosis\tage\n"
GOOD = HEAD + "".join(f"sub-{i}\tses-M00\t{'AD' if i % 2 else 'CN'}\t{60 + i}\n" for i in range(6))


def case(clause: str, content: str | bytes, *words: str, name: str = "") -> object:
    content = content.encode() if isinstance(content, str) else content
    return pytest.param(content, words, marks=covers(clause), id=name or clause)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        case("empty", "", "table.tsv"),
        case("header only", HEAD, "table.tsv"),
        case("required column absent", GOOD.replace("session_id", "sesion_id"), "session_id", "sesion_id"),
        case("comma-separated", GOOD.replace("\t", ","), "comma"),
        case("ragged line", GOOD + "sub-7\tses-M00\tAD\t1\t2\n", "line 8"),
        case("ragged line", GOOD + "sub-7\tses-M00\n", "line 8", name="short line"),
        case("column twice", GOOD.replace("diagnosis", "age"), "age"),
        case("session twice", GOOD + "sub-0\tses-M00\tCN\t60\n", "sub-0", "2", "8"),
        case("id without prefix", GOOD.replace("sub-3", "003"), "003", "sub-"),
        case("id without prefix", GOOD.replace("ses-M00\tCN", "M00\tCN"), "M00", "ses-", name="session"),
        case("not UTF-8", GOOD.replace("CN", "Zürich").encode("latin-1"), "UTF-8"),
        case("UTF-16", GOOD.encode("utf-16"), "UTF-16"),
        case("NUL or unclosed quote", GOOD.replace("CN", "C\0"), "NUL"),
        case("NUL or unclosed quote", GOOD.replace("\tCN", '\t"CN', 1), "quot", name="quote"),
        case("spaces around a value", GOOD.replace("AD", "AD "), "AD "),
        case("separator or .. in an id", GOOD.replace("sub-3", "sub-../3"), "sub-../3"),
        case("separator or .. in an id", GOOD.replace("sub-3", "sub-a/b"), "sub-a/b", name="slash"),
        case("number that overflows or of another script", GOOD.replace("63", "1e999"), "1e999"),
        case("number that overflows or of another script", GOOD.replace("63", "٦٣"), "٦٣", name="digits"),
        case(
            "index column of pandas",
            "".join(f"{i or ''}\t{line}\n" for i, line in enumerate(GOOD.splitlines())),
            "index",
        ),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, content: bytes, words: tuple[str, ...]):
    (tmp_path / "table.tsv").write_bytes(content)
    refuse(lambda: nc.read_table(tmp_path / "table.tsv"), nc.TableError, "table.tsv", *words)


@covers("missing file")
def test_the_error_of_a_missing_table_names_a_similar_table(tmp_path: Path):
    (tmp_path / "labels.tsv").write_text(GOOD)
    refuse(lambda: nc.read_table(tmp_path / "label.tsv"), nc.NotFoundError, "label.tsv", "labels.tsv")


@covers("only n/a and empty cells are missing")
def test_only_n_a_and_empty_cells_are_missing(tmp_path: Path):
    (tmp_path / "t.tsv").write_text(
        "participant_id\tsession_id\ta\n"
        + "".join(f"sub-{i}\tses-M0\t{v}\n" for i, v in enumerate(("n/a", "", "NA", "None")))
    )
    assert nc.read_table(tmp_path / "t.tsv")["a"].isna().tolist() == [True, True, False, False]


@covers("not UTF-8")
def test_a_byte_order_mark_is_accepted(tmp_path: Path):
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert next(iter(nc.read_table(tmp_path / "t.tsv"))) == "participant_id"


@covers("number column with one string")
@pytest.mark.parametrize("cell", ["NA", "-", "90+", "63,5"])
def test_a_column_of_numbers_with_one_string_is_not_stratified_as_classes(tmp_path: Path, cell: str):
    rows = "".join(f"sub-{i}\tses-M00\tCN\t{60 + i}\n" for i in range(10))
    (tmp_path / "t.tsv").write_text(HEAD + rows.replace("63", cell))
    table = nc.read_table(tmp_path / "t.tsv")
    refuse(lambda: nc.kfold(table, 2, stratify=["age"]), nc.TableError, "age", cell)
    refuse(lambda: nc.holdout(table, 0.5, stratify=["age"]), nc.TableError, "age", cell)


@covers("value that a table cannot return")
@pytest.mark.parametrize("value", ["a\nb", " a", "n/a", ""])
def test_a_value_that_would_be_read_as_a_different_value_is_not_written(tmp_path: Path, value: str):
    frame = pd.DataFrame({"participant_id": ["sub-1"], "session_id": ["ses-M0"], "note": [value]})
    refuse(lambda: nc.write_table(frame, tmp_path / "t.tsv"), nc.TableError, "note")
    assert not list(tmp_path.iterdir())


@covers("ids that differ only in case, normalisation or invisible characters")
@pytest.mark.parametrize(("one", "other"), [("sub-a1", "sub-A1"), ("sub-é", "sub-e\u0301")])
def test_similar_ids_cause_a_warning(one: str, other: str, caplog: pytest.LogCaptureFixture):
    table = pd.DataFrame(
        {"participant_id": [one, other, "sub-x", "sub-y"], "session_id": "ses-M00", "age": [60, 61, 62, 63]}
    )
    nc.kfold(table, 2)
    assert ascii(one) in caplog.text
    assert ascii(other) in caplog.text


@covers("sub-1 against sub-001")
def test_an_error_names_a_participant_with_a_similar_id_without_using_its_images(tmp_path: Path):
    labels = nc.make_caps(tmp_path / "caps", n_participants=4, shape=(12, 14, 12))
    caps = nc.Caps(tmp_path / "caps")
    rows = labels.assign(participant_id=labels["participant_id"].str.replace("sub-000", "sub-"))
    refuse(lambda: nc.CapsDataset(caps, rows), nc.NotFoundError, "sub-1", "sub-0001")
