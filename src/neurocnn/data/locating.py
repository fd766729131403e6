"""Locations of the images of sessions in the CAPS folders of all cohorts."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd

from neurocnn.data.preprocessing import Preprocessing
from neurocnn.data.sources import Source, find_source, missing_message
from neurocnn.errors import NotFoundError, SettingError, TableError, suggestion
from neurocnn.errors.arguments import check_text
from neurocnn.storage.identity import COHORT, REQUIRED, check_folder_name, check_ids

Folders = Mapping[str | None, Path]


def locate_images(sessions: pd.DataFrame, folders: Folders, preprocessing: Preprocessing) -> list[Source]:
    """Return the location of the image of each row.

    Parameters
    ----------
    sessions
        Table of sessions.
    folders
        CAPS folders by cohort, see `cohort_folders`.
    preprocessing
        Pipeline that wrote the images.

    Raises
    ------
    NotFoundError
        If images are missing. The message lists all of them.
    TableError
        If an id is invalid, or the cohort of a row is missing or unknown.
    """
    check_ids(sessions, "sessions")
    found: list[Source] = []
    missing = []
    for participant, session, cohort in image_keys(sessions, folders):
        source = find_source(folders[cohort], participant, session, cohort, preprocessing)
        if source is None:
            missing.append(missing_message(folders[cohort], participant, session, preprocessing))
        else:
            found.append(source)
    if missing:
        raise NotFoundError(
            missing_images_message(f"images ({preprocessing.name})", missing, len(missing), len(sessions))
        )
    return found


def missing_images_message(what: str, lines: Iterable[str], n_missing: int, n_sessions: int) -> str:
    """Return an error message that lists missing images, with one line per file."""
    advice = ["keep the sessions with an image: sessions.merge(caps.sessions())"]
    if n_missing == n_sessions:
        advice = []  # No session would remain.
    return "\n".join([f"{n_missing} of {n_sessions} {what} are missing:", *lines, *advice])


def locate_image(
    participant_id: str, session_id: str, cohort: str | None, folders: Folders, preprocessing: Preprocessing
) -> Source:
    """Return the location of the image of one session.

    Raises
    ------
    NotFoundError
        If the image is missing.
    SettingError
        If the cohort is unknown, or an id is not safe as the name of a folder.
    """
    check_key(participant_id, session_id, cohort, folders)
    source = find_source(folders[cohort], participant_id, session_id, cohort, preprocessing)
    if source is None:
        missing = missing_message(folders[cohort], participant_id, session_id, preprocessing)
        raise NotFoundError(f"the {preprocessing.name} image is missing: {missing}")
    return source


def check_key(
    participant_id: str, session_id: str, cohort: str | None, known: Collection[str | None]
) -> None:
    """Check the ids of one session. `known` is [None] if the images have no cohorts.

    Raises
    ------
    SettingError
        If the cohort is unknown, or an id is not safe as the name of a folder.
    """
    check_folder_name("participant_id", participant_id)
    check_folder_name("session_id", session_id)
    if cohort is not None:
        check_text("cohort", cohort, expected="a cohort of the images, or None")
    if cohort not in known:
        hint = suggestion(str(cohort), cohort_names(known))
        raise SettingError(f"{participant_id}: cohort={cohort!r}; expected a cohort of the images; {hint}")


def cohort_names(known: Iterable[str | None]) -> list[str]:
    """Return the names of the cohorts; an empty list if the images have no cohorts."""
    return [name for name in known if name is not None]


def image_keys(sessions: pd.DataFrame, known: Iterable[str | None]) -> list[tuple[str, str, str | None]]:
    """Return the participant, session and cohort of each row. The cohort is None if the images have none.

    Raises
    ------
    TableError
        If the column ``cohort`` is missing, or contains an unknown cohort.
    """
    cohorts, column = cohort_names(known), [None] * len(sessions)
    if cohorts:
        if COHORT not in sessions.columns:
            raise TableError(
                f"sessions: the column 'cohort' is missing; expected one of {', '.join(cohorts)} per row"
            )
        column = sessions[COHORT].tolist()
        unknown = sorted({str(name) for name in column} - set(cohorts))
        if unknown:
            hint = suggestion(unknown[0], cohorts)
            raise TableError(f"sessions: cohort {unknown[0]!r} is not a cohort of the images; {hint}")
    return list(zip(*(sessions[name].tolist() for name in REQUIRED), column, strict=True))
