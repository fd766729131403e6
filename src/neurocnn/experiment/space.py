"""Space of a search: the settings that are searched, by name, and their possible values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neurocnn import data, engine
from neurocnn.errors import SettingError, suggestion
from neurocnn.errors.arguments import argument_error, check_list, check_text
from neurocnn.experiment.experiment import Experiment
from neurocnn.nn.registry import option_names
from neurocnn.storage.tensors import plain

WHERE = "search"
_TRAINER = [field.name for field in dataclasses.fields(engine.Trainer)]
#: Fields of an experiment that are the same for all folds of a result folder.
_FIXED = ("caps", "splits", "task", "reconstructions")
_FIELDS = [field.name for field in dataclasses.fields(Experiment) if field.name not in _FIXED]


@runtime_checkable
class Distribution(Protocol):
    """Distribution of a setting, such as ``scipy.stats.loguniform(1e-5, 1e-2)``."""

    def rvs(self, *, random_state: np.random.Generator) -> Any:
        """Return a random value."""


#: Possible values of each setting, by name of the setting.
Space = Mapping[str, Sequence[Any] | Distribution]


def check_space(space: object, experiment: Experiment) -> dict[str, Any]:
    """Return a space whose names are settings of the experiment, and whose values are lists or distributions.

    Raises
    ------
    SettingError
        If a name is unknown, or a setting has no possible values.
    """
    expected = (
        "a dict from names of settings to lists or distributions, such as {'learning_rate': [1e-4, 1e-3]}"
    )
    if not isinstance(space, Mapping) or not space:
        raise argument_error("space", space, expected, where=WHERE)
    found = {}
    for name, choices in space.items():
        check_text("space", name, expected=expected, where=WHERE)
        where = f"space[{name!r}]"
        if isinstance(choices, type) or not isinstance(choices, Distribution):
            choices = check_list(where, choices, "a list of values, or a distribution with rvs", where=WHERE)
            if not choices:
                raise argument_error(where, choices, "at least one value", where=WHERE)
        found[name] = choices
    architectures = found.get("architecture", [experiment.architecture])
    options = [option_names(each) for each in architectures]
    for name in found:
        _check_setting_name(name, options)
    for parts in found.get("parts", []):
        _check_parts(parts, experiment)
    return found


def _check_setting_name(name: str, accepted_options: Sequence[list[str] | None]) -> None:
    """Check a name in the space. `accepted_options` are the options of each architecture; None if any is accepted."""
    known_options = [option for names in accepted_options for option in names or []]
    if name in (*_TRAINER, *known_options, *_FIELDS):
        return
    if name in _FIXED:
        raise SettingError(
            f"{WHERE}: space[{name!r}]; expected a setting that may differ between trials; run one search for each "
            "value, and compare the folders with nc.leaderboard"
        )
    if None not in accepted_options:
        known = {*_TRAINER, *known_options, *_FIELDS}
        raise SettingError(
            f"{WHERE}: space[{name!r}]; expected a field of Trainer, an option of the architecture, or a field of "
            f"Experiment; {suggestion(name, known)}"
        )


def _check_parts(parts: object, experiment: Experiment) -> None:
    name = experiment.parts.name
    if not isinstance(parts, data.Parts) or parts.name != name:
        raise argument_error(
            "space['parts']", parts, f"parts with the name {name!r}, as in the experiment", where=WHERE
        )


def draw_values(space: Space, seed: int, trial: int) -> dict[str, Any]:
    """Return the values of a trial, which depend only on the seed and the number of the trial.

    Examples
    --------
    >>> draw_values({"batch_size": [2, 4]}, seed=0, trial=3) == draw_values({"batch_size": [2, 4]}, seed=0, trial=3)
    True
    """
    random = np.random.default_rng([seed, trial])
    return {
        name: plain(choices.rvs(random_state=random))
        if isinstance(choices, Distribution)
        else choices[int(random.integers(len(choices)))]
        for name, choices in space.items()
    }


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment with new values of fields of its trainer, of options, or of its own fields.

    A name is a field of the trainer, otherwise an option of the architecture (that in `values`, if any), otherwise a
    field of the experiment.
    """
    accepted = option_names(values.get("architecture", experiment.architecture)) or []
    trainer = {name: value for name, value in values.items() if name in _TRAINER}
    fields = {
        name: value
        for name, value in values.items()
        if name in _FIELDS and name not in trainer and name not in accepted
    }
    options = {name: value for name, value in values.items() if name not in (*trainer, *fields)}
    changed = dataclasses.replace(experiment, **fields)
    return dataclasses.replace(
        changed,
        trainer=dataclasses.replace(changed.trainer, **trainer),
        options={**changed.options, **options},
    )
