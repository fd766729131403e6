"""Search of settings: trials within each training set, and evaluation of the best trial on the validation set."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from neurocnn import data, engine
from neurocnn.engine.metrics import smaller_is_better
from neurocnn.errors import SettingError, suggestion
from neurocnn.errors.arguments import (
    argument_error,
    check_flag,
    check_instance,
    check_integer,
    check_number,
    check_path,
    check_text,
)
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment.experiment import Experiment
from neurocnn.experiment.recipe import resolve_numbers
from neurocnn.experiment.space import WHERE, check_space, draw_values, with_values
from neurocnn.experiment.study import Pruned, Study, check_optuna, make_study
from neurocnn.results import Results
from neurocnn.results.paths import Fold
from neurocnn.results.setting_json import to_json
from neurocnn.storage.files import is_file, write_atomically

#: Settings that `Results` needs to load the networks of a winner.
_NETWORK_SETTINGS = (
    "architecture",
    "augmentation",
    "multi",
    "options",
    "parts",
    "selection_threshold",
    "trainer",
    "transform",
)  # fmt: skip


def search(
    experiment: Experiment,
    space: Mapping[str, Any],
    n_trials: int,
    folder: str | Path,
    inner: float = 0.2,
    *,
    by: str | None = None,
    sampler: object = None,
    pruner: object = None,
    seed: int = 0,
    splits: Iterable[int] | None = None,
    callbacks: Sequence[engine.Callback] = (),
    verbose: bool = True,
) -> Results:
    """Search settings, separately for each split, without the split's validation set.

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
        such as ``scipy.stats.loguniform(1e-5, 1e-2)``. A name is a field of `Trainer`, otherwise an option of the
        architecture, such as ``dropout``, otherwise a field of `Experiment`, such as ``transform``. All splits have the
        same ``caps``, ``splits``, ``task`` and ``reconstructions``, and parts of the same name.
    n_trials
        Number of trials per split. Without `sampler` and `pruner`, the values of trial k depend only on `seed` and k.
    folder
        Folder of the search. It contains a result folder per trial, ``trial-<k>``, in which ``fold-<i>`` is the divided
        training set of split i, and ``best``, in which ``fold-<i>`` is the winner of split i (``winner.json``).
    inner
        Fraction of the participants of each training set on which the trials are evaluated.
    by
        Metric at image level by which trials are compared. With None, the metric of the task's last selection, or the
        first metric if that metric is missing at image level.
    sampler
        Sampler of Optuna that suggests the values from the previous trials of the split: ``sampler(seed=…)``, such as
        the class ``optuna.samplers.TPESampler``, or a sampler, which must have a seed if the search is to be resumed.
        With None, the values are random. With a sampler or pruner, each split has its own trials, so that trial t of
        the p-th of n splits is in ``trial-<t·n + p>``.
    pruner
        Pruner of Optuna that stops trials whose validation metric after some epochs is worse than in previous trials.
        The folder of such a trial remains unfinished.
    seed
        Seed of the values and of the divisions of the training sets.
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
    check_instance("experiment", experiment, Experiment, "an nc.Experiment", where=WHERE)
    space = check_space(space, experiment)
    n_trials = check_integer("n_trials", n_trials, minimum=1, where=WHERE)
    root = check_path("folder", folder, where=WHERE)
    inner = check_number("inner", inner, above=0, below=1, where=WHERE)
    seed = check_integer("seed", seed, minimum=0, where=WHERE)
    if by is not None:
        check_text("by", by, expected="a metric, or None", where=WHERE)
    check_flag("verbose", verbose, where=WHERE)
    check_optuna(space, sampler, pruner, experiment.multi or any(space.get("multi", [])))
    chosen = resolve_numbers("splits", splits, [split.index for split in experiment.splits])
    drawn = [draw_values(space, seed, trial) for trial in range(n_trials)]
    for values in drawn:
        # Invalid values raise an error here, before the first file is written.
        with_values(experiment, values)
    divided = [_divide_training_set(split, experiment.task, inner, seed) for split in experiment.splits]
    trials = _Trials(experiment, divided, root, by, callbacks, verbose)
    custom: dict[str, Any] = {}
    for index in chosen:
        study = make_study(space, by or experiment.task.selection[-1], sampler, pruner, (seed, index))
        found = [trials.run(number, index, drawn[number], study) for number in range(n_trials)]
        winner = best_trial([score for _, score in found])
        best = with_values(experiment, found[winner][0])
        _run_winner(experiment, best, winner, found[winner][0], root / "best", index, callbacks, verbose)
        custom |= best.custom_settings
    return Results(root / "best", **custom)


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Trials of a search, trained on the divided training sets."""

    experiment: Experiment
    splits: Sequence[data.Split]
    root: Path
    by: str | None
    callbacks: Sequence[engine.Callback]
    verbose: bool

    def run(
        self, number: int, index: int, drawn: Mapping[str, Any], study: Study | None
    ) -> tuple[Mapping[str, Any], tuple[str, float]]:
        """Run a trial of a split; return its values, and the name and value of its metric (NaN if it was pruned)."""
        values, splits, name = drawn, self.splits, number
        if study is not None:
            values = study.ask()
            # The values depend on the split, so that each trial of each split has its own folder.
            name = number * len(splits) + [split.index for split in splits].index(index)
            splits = [split for split in splits if split.index == index]
        LOGGER.info("split %d, trial %d: %s", index, number, values)
        made = dataclasses.replace(with_values(self.experiment, values), splits=splits)
        folder = made.recipe.folder(self.root / f"trial-{name}")
        if study is None:
            return values, self._score(made, folder.root, index, self.callbacks)
        score = None
        if not study.is_pruned(folder, folder.fold(index)):
            callbacks: list[engine.Callback] = [*self.callbacks, study.pruning_callback(folder.fold(index))]
            with suppress(Pruned):
                score = self._score(made, folder.root, index, callbacks)
        study.tell(score)
        return values, (self.by or "", math.nan) if score is None else score

    def _score(
        self, made: Experiment, folder: Path, index: int, callbacks: Sequence[engine.Callback]
    ) -> tuple[str, float]:
        """Train a trial on a split, and return the name and value of the metric by which trials are compared."""
        results = made.run(folder, [index], callbacks=callbacks, verbose=self.verbose)
        level = "part" if results.task.reconstructs else "image"
        row: dict[Any, Any] = results.metrics(level).loc[index].to_dict()
        usual = results.selections[-1].removeprefix("best_")
        name = self.by if self.by is not None else usual if usual in row else str(next(iter(row)))
        if name not in row:
            remedy = suggestion(name, map(str, row))
            raise argument_error("by", name, "a metric of the task", where=WHERE, remedy=remedy)
        return name, float(row[name])


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
    name = next((name for name, _ in scores if name), "the metric")
    sign = -1 if smaller_is_better(name) else 1
    order = [sign * value if math.isfinite(value) else -math.inf for _, value in scores]
    if max(order) == -math.inf:
        raise SettingError(f"{WHERE}: {name} is not finite in any trial; choose another metric with by=…")
    return order.index(max(order))


def _divide_training_set(split: data.Split, task: engine.Task, inner: float, seed: int) -> data.Split:
    """Return the training set of a split, divided by participants and stratified by the label."""
    stratify = [task.label] if task.label is not None and task.label in split.train else []
    return data.Split(split.index, *data.holdout(split.train, inner, stratify, seed))


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
        content = {"trial": trial, "values": to_json(dict(values))}
        content |= {name: to_json(getattr(winner, name)) for name in _NETWORK_SETTINGS}
        train, _ = winner.recipe.datasets(
            winner.caps, next(each for each in winner.splits if each.index == split)
        )
        content["input_shape"] = list(train.input_shape)
        with write_atomically(record, "w") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
    engine.find_ranks().barrier("after the winner was recorded")
