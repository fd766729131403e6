"""The table of sessions of a BIDS folder has all rows and columns of its files; errors name an invalid file."""

import math
from pathlib import Path

import pytest

from neurocnn.data import read_bids
from neurocnn.errors import NotFoundError, TableError


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write text files, in which spaces become tabs, and return the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace(" ", "\t"), encoding="utf-8")
    return folder


FILES = {
    "participants.tsv": "participant_id sex age diagnosis site\nsub-02 F 71 MCI 007\n"
    "sub-01 M 65 CN 12\nsub-03 F 80 AD n/a\n",
    "sub-02/sub-02_sessions.tsv": "session_id diagnosis MMS\nses-M000 MCI 27\nses-M012 AD n/a\n",
    "sub-01/sub-01_sessions.tsv": "session_id MMS diagnosis cdr\nses-M000 30 CN 0.5\n",
    "sub-02/ses-M000/anat/sub-02_ses-M000_T1w.nii.gz": "",
}


def test_the_table_has_a_row_per_session_and_the_columns_of_both_kinds_of_table(tmp_path, caplog):
    table = read_bids(write(tmp_path, FILES))
    assert list(table.columns) == [
        "participant_id",
        "session_id",
        "diagnosis",
        "MMS",
        "cdr",
        "sex",
        "age",
        "site",
    ]
    assert table.iloc[:, :4].values.tolist()[0] == ["sub-02", "ses-M000", "MCI", 27.0]
    assert table["diagnosis"].tolist() == ["MCI", "AD", "CN"]
    assert table["age"].tolist() == [71, 71, 65]
    # A column has the same type in all files: 007 is a string, so that 12 is a string too.
    assert table["site"].tolist() == ["007", "007", "12"]
    assert math.isnan(table["MMS"][1])
    assert math.isnan(table["cdr"][0])
    assert table["cdr"][2] == 0.5
    assert "1 participants without sessions are omitted: sub-03" in caplog.text


def test_without_a_sessions_table_the_folders_are_the_sessions(tmp_path):
    files = {"participants.tsv": "participant_id age\nsub-01 60\n"}
    files |= {f"sub-01/{session}/anat/x.nii.gz": "" for session in ("ses-M012", "ses-M000")}
    assert read_bids(write(tmp_path, files)).values.tolist() == [
        ["sub-01", "ses-M000", 60],
        ["sub-01", "ses-M012", 60],
    ]


def test_values_of_participants_are_used_only_without_values_of_the_own_sessions(tmp_path):
    files = {
        "participants.tsv": "participant_id diagnosis\nsub-01 CN\nsub-02 AD\nsub-03 MCI\nsub-04 CN\n",
        "sub-01/sub-01_sessions.tsv": "session_id diagnosis\nses-M000 CN\nses-M012 MCI\n",
        "sub-02/ses-M000/x": "",
        "sub-03/sub-03_sessions.tsv": "session_id MMS\nses-M000 27\n",
        "sub-04/sub-04_sessions.tsv": "session_id diagnosis\nses-M000 n/a\n",
    }
    table = read_bids(write(tmp_path, files))
    assert table["diagnosis"].fillna("missing").tolist() == ["CN", "MCI", "AD", "MCI", "missing"]


BROKEN = {
    "no participants": ({"README": ""}, NotFoundError, "participants.tsv: the table does not exist"),
    "no sessions": (
        {"participants.tsv": "participant_id sex\nsub-01 F\n"},
        NotFoundError,
        "no participant has a session",
    ),
    "id without prefix": (
        {"participants.tsv": "participant_id sex\n01 F\n"},
        TableError,
        "line 2: participant_id='01'",
    ),
    "path as id": (
        {"participants.tsv": "participant_id\nsub-/../x\n"},
        TableError,
        r"participants.tsv, line 2",
    ),
    "participant twice": (
        {"participants.tsv": "participant_id\nsub-01\nsub-02\nsub-01\n"},
        TableError,
        "line 2 and line 4 are both sub-01; expected different ids",
    ),
    "folder without row": (
        {**FILES, "sub-04/ses-M000/x": ""},
        TableError,
        "participants.tsv: no rows for the folders sub-04",
    ),
    "session without row": (
        {**FILES, "sub-01/ses-M00/x": ""},
        TableError,
        "sub-01_sessions.tsv: no rows for the folders ses-M00",
    ),
    "session twice": (
        {**FILES, "sub-01/sub-01_sessions.tsv": "session_id\nses-M000\nses-M000\n"},
        TableError,
        "sub-01_sessions.tsv: line 2 and line 3 are both sub-01 ses-M000",
    ),
    "table of another": (
        {**FILES, "sub-01/sub-01_sessions.tsv": "participant_id session_id\nsub-02 ses-M000\n"},
        TableError,
        "sub-01_sessions.tsv: participant_id='sub-02'; expected 'sub-01'",
    ),
    "no column session_id": (
        {**FILES, "sub-01/sub-01_sessions.tsv": "session\nses-M000\n"},
        TableError,
        "sub-01_sessions.tsv: the column 'session_id' is missing; did you mean 'session'",
    ),
    "ragged line": (
        {**FILES, "sub-01/sub-01_sessions.tsv": "session_id MMS\nses-M000\n"},
        TableError,
        "sub-01_sessions.tsv, line 2: 1 cells; expected 2",
    ),
    "number that overflows": (
        {**FILES, "sub-01/sub-01_sessions.tsv": "session_id MMS\nses-M000 1e999\n"},
        TableError,
        "sub-01 ses-M000: MMS='1e999'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_folder_is_refused_with_file_and_line(name, tmp_path):
    files, kind, message = BROKEN[name]
    with pytest.raises(kind, match=message):
        read_bids(write(tmp_path, files))


def test_an_error_names_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(NotFoundError, match="bids: the folder does not exist"):
        read_bids(tmp_path / "bids")
