"""Search of settings: trials within each training set, and evaluation of the best trial on the validation set."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocnn import data, engine
from neurocnn.engine.metrics import smaller_is_better
from neurocnn.errors import SettingError, suggestion
from neurocnn.errors.arguments import (
    argument_error,
    check_flag,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_path,
    check_text,
)
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment.experiment import Experiment
from neurocnn.experiment.recipe import choose
from neurocnn.results import Results
from neurocnn.results.encoding import encode
from neurocnn.results.paths import Fold
from neurocnn.storage.files import is_file, write_whole
from neurocnn.storage.tensors import plain

_WHERE = "search"
_TRAINER = [field.name for field in dataclasses.fields(engine.Trainer)]
#: These fields of an experiment may differ between the folds of a result folder.
_FIELDS = ("architecture", "augmentation", "transfer_from", "transfer_selection")
_OTHERS = [field.name for field in dataclasses.fields(Experiment) if field.name not in _FIELDS]


def search(
    experiment: Experiment,
    space: Mapping[str, Any],
    n_trials: int,
    folder: str | Path,
    inner: float = 0.2,
    *,
    by: str | None = None,
    seed: int = 0,
    splits: Iterable[int] | None = None,
    callbacks: Sequence[engine.Callback] = (),
    verbose: bool = True,
) -> Results:
    """Search settings at random, separately for each split, without the split's validation set.

    The training set of a split is divided into two sets: each trial is trained on one set and evaluated on the other
    set. Then a network is trained with the settings of the best trial, the winner, on the complete training set, and
    evaluated on the validation set, which no trial has seen. The winners of the splits may differ (Varma and Simon, BMC
    Bioinformatics 7:91, 2006).

    Parameters
    ----------
    experiment
        Experiment whose settings are searched.
    space
        Possible values of each setting, by name of the setting: a list, or a distribution with ``rvs(random_state=…)``,
        such as ``scipy.stats.loguniform(1e-5, 1e-2)``. A name is a field of `Trainer`, or ``architecture``,
        ``augmentation``, ``transfer_from`` or ``transfer_selection``; any other name is an option of the architecture,
        such as ``dropout``.
    n_trials
        Number of trials per split. The values of trial k depend only on `seed` and k.
    folder
        Folder of the search. It contains a result folder per trial, ``trial-<k>``, in which ``fold-<i>`` is the divided
        training set of split i, and ``best``, in which ``fold-<i>`` is the winner of split i (``winner.json``).
    inner
        Fraction of the participants of each training set on which the trials are evaluated.
    by
        Metric at image level by which trials are compared. With None, the metric of the task's last selection, or the
        first metric if that metric is missing at image level.
    seed
        Seed of the drawn values and of the divisions of the training sets.
    splits
        Indices of the splits to search; all by default. Processes with different splits may share the folder.
    callbacks, verbose
        See `Experiment.run`.

    Returns
    -------
    Results
        Results of the folder ``best``.

    Raises
    ------
    SettingError
        If a setting in `space` cannot be searched, or the folder contains another search.
    NeurocnnError
        See `Experiment.run`.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=16, preprocessing="t1-volume", shape=(18, 20, 18))
    >>> caps, splits = nc.Caps(tmp / "caps", "t1-volume"), nc.kfold(labels, n_splits=2, stratify=["diagnosis"])
    >>> trainer = nc.Trainer(epochs=1, device="cpu")
    >>> experiment = nc.Experiment(caps, splits, nc.WholeImage(), nc.classification(), "Conv3_FC1", trainer)
    >>> space = {"learning_rate": [1e-4, 1e-3, 1e-2], "dropout": [0.0, 0.5]}
    >>> search(experiment, space, n_trials=2, folder=tmp / "search", splits=[0])
    Results(...): classification of images, splits [0] done
    >>> sorted(path.name for path in (tmp / "search").iterdir())
    ['best', 'trial-0', 'trial-1']
    """
    check_instance("experiment", experiment, Experiment, "an nc.Experiment", where=_WHERE)
    space = _check_space(space)
    n_trials = check_integer("n_trials", n_trials, minimum=1, where=_WHERE)
    root = check_path("folder", folder, where=_WHERE)
    inner = check_number("inner", inner, above=0, below=1, where=_WHERE)
    seed = check_integer("seed", seed, minimum=0, where=_WHERE)
    if by is not None:
        check_text("by", by, expected="a metric, or None", where=_WHERE)
    check_flag("verbose", verbose, where=_WHERE)
    by_index = {split.index: split for split in experiment.splits}
    chosen = choose("splits", splits, by_index)
    values = [draw_values(space, seed, trial) for trial in range(n_trials)]
    trials = [with_values(experiment, own) for own in values]
    inner_splits = [_divide_training_set(split, experiment.task, inner, seed) for split in experiment.splits]
    for index in chosen:
        scores = []
        for number, trial in enumerate(trials):
            LOGGER.info("split %d, trial %d of %d: %s", index, number, n_trials, values[number])
            made = dataclasses.replace(trial, splits=inner_splits)
            results = made.run(root / f"trial-{number}", [index], callbacks=callbacks, verbose=verbose)
            scores.append(_trial_score(results, index, by))
        winner = best_trial(scores)
        _run_winner(
            experiment, trials[winner], winner, values[winner], root / "best", index, callbacks, verbose
        )
    return Results(root / "best")


def draw_values(space: Mapping[str, Any], seed: int, trial: int) -> dict[str, Any]:
    """Return the values of a trial, which depend only on the seed and the number of the trial.

    Examples
    --------
    >>> draw_values({"batch_size": [2, 4]}, seed=0, trial=3) == draw_values({"batch_size": [2, 4]}, seed=0, trial=3)
    True
    """
    random = np.random.default_rng([seed, trial])
    return {
        name: plain(choices.rvs(random_state=random))
        if hasattr(choices, "rvs")
        else choices[int(random.integers(len(choices)))]
        for name, choices in space.items()
    }


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment with new values of fields of its trainer, of its own fields, or of options."""
    trainer = {name: value for name, value in values.items() if name in _TRAINER}
    fields = {name: value for name, value in values.items() if name in _FIELDS}
    options = {name: value for name, value in values.items() if name not in (*trainer, *fields)}
    return dataclasses.replace(
        experiment,
        trainer=dataclasses.replace(experiment.trainer, **trainer),
        options={**experiment.options, **options},
        **fields,
    )


def best_trial(scores: Sequence[tuple[str, float]]) -> int:
    """Return the number of the first trial with the best value of a metric; NaN is never the best.

    Raises
    ------
    SettingError
        If no trial has a finite value.

    Examples
    --------
    >>> best_trial([("roc_auc", 0.6), ("roc_auc", 0.8), ("roc_auc", float("nan"))])
    1
    >>> best_trial([("mae", 3.0), ("mae", 5.0)])
    0
    """
    sign = -1 if smaller_is_better(scores[0][0]) else 1
    order = [sign * value if math.isfinite(value) else -math.inf for _, value in scores]
    if max(order) == -math.inf:
        raise SettingError(
            f"{_WHERE}: {scores[0][0]} is not finite in any trial; choose another metric with by=…"
        )
    return order.index(max(order))


def _check_space(space: object) -> dict[str, Any]:
    expected = (
        "a dict from names of settings to lists or distributions, such as {'learning_rate': [1e-4, 1e-3]}"
    )
    if not isinstance(space, Mapping) or not space:
        raise argument_error("space", space, expected, where=_WHERE)
    found = {}
    for name, choices in space.items():
        where = f"space[{name!r}]"
        check_text("space", name, expected=expected, where=_WHERE)
        if name in _OTHERS:
            raise SettingError(
                f"{_WHERE}: {where}: all splits of a search have the same {name}; expected a field of Trainer, one of "
                f"{', '.join(_FIELDS)}, or an option of the architecture; run one search for each {name}, and "
                "compare the folders with nc.leaderboard"
            )
        if isinstance(choices, type) or not hasattr(choices, "rvs"):
            choices = check_list(where, choices, "a list of values, or a distribution with rvs", where=_WHERE)
            if not choices:
                raise argument_error(where, choices, "at least one value", where=_WHERE)
        found[name] = choices
    return found


def _divide_training_set(split: data.Split, task: engine.Task, inner: float, seed: int) -> data.Split:
    """Return the training set of a split, divided by participants and stratified by the label."""
    stratify = [task.label] if task.label is not None and task.label in split.train else []
    return data.Split(split.index, *data.holdout(split.train, inner, stratify, seed))


def _trial_score(results: Results, split: int, by: str | None) -> tuple[str, float]:
    """Return the name of the metric by which trials are compared, and the metric's value for a split."""
    level = "part" if results.task.reconstructs else "image"
    row: dict[Any, Any] = results.metrics(level).loc[split].to_dict()
    usual = results.selections[-1].removeprefix("best_")
    name = by if by is not None else usual if usual in row else str(next(iter(row)))
    if name not in row:
        remedy = suggestion(name, map(str, row))
        raise argument_error("by", by, "a metric of the task", where=_WHERE, remedy=remedy)
    return name, float(row[name])


def _run_winner(
    experiment: Experiment,
    winner: Experiment,
    trial: int,
    values: Mapping[str, Any],
    folder: Path,
    split: int,
    callbacks: Sequence[engine.Callback],
    verbose: bool,
) -> None:
    """Train the best trial of a split on the complete training set, and record the trial."""
    record = Fold(folder, split).winner
    if is_file(record):
        before = json.loads(record.read_text(encoding="utf-8"))["trial"]
        if before != trial:
            raise SettingError(
                f"{record}: trial={before}; expected {trial}, the best trial after a change of the trials or the "
                "metric; use the same n_trials and by, or another folder"
            )
        return
    LOGGER.info("split %d: trial %d is the best", split, trial)
    changed = dataclasses.replace(experiment)
    object.__setattr__(changed, "_recipes", {split: winner.recipe})
    changed.run(folder, [split], callbacks=callbacks, verbose=verbose)
    if engine.find_ranks().rank == 0:
        content = {"trial": trial, "values": encode(dict(values))}
        content |= {name: encode(getattr(winner, name)) for name in ("architecture", "options", "trainer")}
        with write_whole(record, "w") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
    engine.find_ranks().barrier("after the winner was recorded")
