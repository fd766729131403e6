"""Display of values: at most 400 characters in a console, a table in a notebook."""

import contextlib
import dataclasses
import html
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

from neurocnn.errors import NeurocnnError
from neurocnn.storage.identity import PARTICIPANT, key_columns

_MAX_LENGTH = 400
#: Largest number of different numbers in a column that are regarded as classes.
_MAX_CLASSES = 10


def short_repr(value: Any) -> str:
    """Return the class name of a value and the settings that differ from their defaults, in at most 400 characters.

    Examples
    --------
    >>> from neurocnn.engine import Trainer
    >>> short_repr(Trainer(epochs=50, patience=10))
    'Trainer(epochs=50)'
    """
    texts = {name: _setting_text(found) for name, found in changed_settings(value).items()}
    room = (_MAX_LENGTH - len(type(value).__name__) - sum(len(name) + 3 for name in texts)) // max(
        1, len(texts)
    )
    if sum(map(len, texts.values())) > room * len(texts):
        # Long values are shortened, so that the names of all settings can be shown.
        texts = {name: limit_length(text, max(1, room)) for name, text in texts.items()}
    settings = ", ".join(f"{name}={text}" for name, text in texts.items())
    return limit_length(f"{type(value).__name__}({settings})")


def html_view(value: Any) -> str:
    """Return an HTML view of a value: its settings that differ from the defaults, and tables of its participants.

    Examples
    --------
    >>> from neurocnn.engine import Trainer
    >>> html_view(Trainer(epochs=50))
    '<h4>Trainer</h4><table><tr><th>epochs</th><td>50</td></tr></table>'
    """
    settings = changed_settings(value)
    label = getattr(getattr(value, "task", value), "label", None)
    people = [
        f"<p>{html.escape(name)}</p>{describe_people(table, label).to_html(border=0)}"
        for name, table in [*_tables(settings), *_found_sessions(value)]
    ]
    return f"<h4>{type(value).__name__}</h4>{settings_table(settings)}{''.join(people)}"


def settings_table(settings: Mapping[str, Any]) -> str:
    """Return settings as an HTML table.

    Examples
    --------
    >>> settings_table({"epochs": 50})
    '<table><tr><th>epochs</th><td>50</td></tr></table>'
    """
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_setting_text(found))}</td></tr>"
        for name, found in settings.items()
    )
    return f"<table>{rows}</table>"


def limit_length(text: str, maximum: int = _MAX_LENGTH) -> str:
    """Return `text`, shortened to at most `maximum` characters. A shortened text ends with "…"."""
    return text if len(text) <= maximum else f"{text[: maximum - 1]}…"


def changed_settings(value: Any) -> dict[str, Any]:
    """Return the settings of a value that differ from their defaults, and all settings without a default.

    A class may list the names of its settings as `shown_settings`, or return their values as `shown_settings()`.
    """
    shown = getattr(value, "shown_settings", None)
    if callable(shown):
        return dict(shown())
    if shown is not None:
        defaults = inspect.signature(type(value)).parameters
        settings = {name: getattr(value, name) for name in shown}
        return {
            name: found
            for name, found in settings.items()
            if _setting_text(found) != _setting_text(defaults[name].default)
        }
    found = {}
    for field in dataclasses.fields(value):
        if not (field.init and field.repr):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        setting = getattr(value, field.name)
        if default is dataclasses.MISSING or not (
            setting is default or _setting_text(setting) == _setting_text(default)
        ):
            found[field.name] = setting
    return found


def describe_people(sessions: pd.DataFrame, label: str | None = None) -> pd.DataFrame:
    """Return the number of participants of each class, with their ages and sexes, if the table has these columns.

    Parameters
    ----------
    sessions
        Table of sessions.
    label
        Column of the classes. If it is missing or has more than 10 different numbers, the classes are the diagnoses.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["a", "b"], "age": [70, 61], "sex": ["F", "M"]})
    >>> describe_people(table).to_dict("index")["all"]
    {'participants': 2, 'age': '65.5 ± 6.4', 'sex': '1 F, 1 M'}
    """
    people = sessions.drop_duplicates(key_columns(sessions, PARTICIPANT))
    groups = {"all": people}
    is_class = label in people and (
        not pd.api.types.is_numeric_dtype(people[label]) or people[label].nunique() <= _MAX_CLASSES
    )
    by = label if is_class else "diagnosis"
    if by in people:
        groups = {str(name): own for name, own in people.groupby(by)} | groups
    return pd.DataFrame.from_dict(
        {name: _describe_group(own) for name, own in groups.items()}, orient="index"
    )


def _describe_group(people: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {"participants": len(people)}
    if "age" in people and pd.api.types.is_numeric_dtype(people["age"]):
        spread = f" ± {people['age'].std():.1f}" if people["age"].count() > 1 else ""
        row["age"] = f"{people['age'].mean():.1f}{spread}"
    if "sex" in people:
        counts = people["sex"].value_counts().sort_index()
        row["sex"] = ", ".join(f"{n} {name}" for name, n in counts.items())
    return row


def _tables(settings: dict[str, Any]) -> Iterable[tuple[str, pd.DataFrame]]:
    """Yield the name and content of each table of participants. The tables of all splits are joined into one."""
    for name, value in settings.items():
        if isinstance(value, pd.DataFrame):
            yield name, value
        elif isinstance(value, list) and value and hasattr(value[0], "validation"):
            yield (
                "participants",
                pd.concat([table for split in value for table in (split.train, split.validation)]),
            )


def _found_sessions(value: Any) -> Iterable[tuple[str, pd.DataFrame]]:
    """Yield the sessions of a `Caps` that have an image, if its folder can be read."""
    if callable(getattr(value, "sessions", None)):
        with contextlib.suppress(NeurocnnError):
            yield "sessions with an image", value.sessions()


def _setting_text(value: object) -> str:
    if isinstance(value, pd.DataFrame):
        people = value.drop_duplicates(key_columns(value, PARTICIPANT))
        return f"<{len(value)} images of {len(people)} participants>"
    if isinstance(value, list) and value and hasattr(value[0], "validation"):
        return f"<{len(value)} splits>"
    if isinstance(value, Path):
        return repr(str(value))
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return shorten(repr(value), 100, placeholder=" …")
