"""Trials of one split whose values a sampler of Optuna suggests, and which a pruner of Optuna may stop."""

import copy
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurocnn import storage
from neurocnn.engine import TrainingState, find_ranks
from neurocnn.engine.metrics import smaller_is_better
from neurocnn.errors import MissingExtraError
from neurocnn.errors.arguments import argument_error, check_instance
from neurocnn.experiment.space import WHERE, Distribution, Space
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.storage.files import is_file, write_atomically
from neurocnn.storage.tensors import plain

# Quantiles 0 and 1 are excluded, because they may be infinite.
_QUANTILES = (1e-6, 1 - 1e-6)


class Pruned(Exception):
    """Exception that stops the training of a pruned trial."""


class Study:
    """Study of Optuna in memory, which is the same after a restart.

    The study depends only on the seed and on the files of the trials: after a restart, the finished trials are reported
    again in the same order.

    Parameters
    ----------
    space
        See `search`.
    metric
        Metric that the pruner compares.
    sampler, pruner
        See `search`.
    seed
        Seed of the sampler.
    """

    def __init__(self, space: Space, metric: str, sampler: object, pruner: object, seed: int) -> None:
        self._optuna = import_optuna()
        self._space, self._metric, self._pruner = space, f"validation_{metric}", pruner
        self._smaller = smaller_is_better(metric)
        logging = self._optuna.logging
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            self._study = self._optuna.create_study(
                sampler=_make_sampler(self._optuna, sampler, seed),
                pruner=self._optuna.pruners.NopPruner() if pruner is None else copy.deepcopy(pruner),
                direction="minimize" if self._smaller else "maximize",
            )
        finally:
            logging.set_verbosity(verbosity)

    def ask(self) -> dict[str, Any]:
        """Start a trial, and return its values."""
        self._trial, self._reported = self._study.ask(), -1
        return {name: self._suggest(name, choices) for name, choices in self._space.items()}

    def _suggest(self, name: str, choices: Sequence[Any] | Distribution) -> Any:
        if isinstance(choices, Distribution):
            quantile = self._trial.suggest_float(name, *_QUANTILES)
            return plain(choices.ppf(quantile))  # type: ignore[attr-defined]  # checked by `check_optuna`
        # Optuna stores categories as numbers or text, so that the index stands for any other object.
        return choices[self._trial.suggest_categorical(name, list(range(len(choices))))]

    def pruning_callback(self, fold: Fold) -> "PruningCallback":
        """Return the callback of the current trial, which raises `Pruned` if the pruner stops the trial."""
        return PruningCallback(self, fold)

    def is_pruned(self, folder: ResultFolder, fold: Fold) -> bool:
        """Return whether the current trial was pruned before a restart; report its evaluations if it has ended."""
        pruned = is_file(fold.pruned)
        if self._pruner is not None and (pruned or folder.is_done(fold)):
            history = storage.read_table(fold.training(), required=()).to_dict("records")
            last = json.loads(fold.pruned.read_text(encoding="utf-8"))["epoch"] if pruned else math.inf
            self.report([row for row in history if row["epoch"] <= last])
        return pruned

    def report(self, history: Sequence[Mapping[Any, Any]]) -> bool:
        """Report the last evaluation of each epoch, if it is new, and return whether the pruner stops the trial."""
        for epoch, row in {int(row["epoch"]): row for row in history}.items():
            if epoch > self._reported and self._metric in row:
                self._trial.report(float(row[self._metric]), epoch)
                self._reported = epoch
                if self._trial.should_prune():
                    return True
        return False

    def tell(self, score: tuple[str, float] | None) -> None:
        """End the current trial with the name and value of the metric; None if it was pruned."""
        states = self._optuna.trial.TrialState
        if score is None:
            self._study.tell(self._trial, state=states.PRUNED)
        elif not math.isfinite(score[1]):
            self._study.tell(self._trial, state=states.FAIL)
        else:
            # The scored metric may have the opposite direction of the metric that the pruner compares.
            sign = 1 if smaller_is_better(score[0]) == self._smaller else -1
            self._study.tell(self._trial, sign * score[1])


class PruningCallback:
    """Callback that reports each epoch of a trial and raises `Pruned` if the pruner prunes the trial."""

    def __init__(self, study: Study, fold: Fold) -> None:
        self._study, self._fold = study, fold

    def __call__(self, state: TrainingState) -> None:
        """Report the evaluations up to the end of an epoch; raise `Pruned` to stop the training."""
        if state.epoch_ended and self._study.report(state.history):
            if find_ranks().rank == 0:
                with write_atomically(self._fold.pruned, "w") as file:
                    json.dump({"epoch": state.epoch}, file)
            raise Pruned


def make_study(
    space: Space, metric: str, sampler: object, pruner: object, seeds: tuple[int, int]
) -> Study | None:
    """Return the study of a split, whose seed depends on both `seeds`; None without a sampler and a pruner."""
    if sampler is None and pruner is None:
        return None
    return Study(space, metric, sampler, pruner, int(np.random.SeedSequence(seeds).generate_state(1)[0]))


def check_optuna(space: Space, sampler: object, pruner: object, multi: bool) -> None:
    """Raise an error if Optuna is needed and not installed, or cannot be used with these arguments.

    Raises
    ------
    SettingError
        If the sampler or pruner is not one of Optuna's, a distribution has no quantiles, or a pruner is used with one
        network per part.
    MissingExtraError
        If Optuna is not installed.
    """
    if sampler is None and pruner is None:
        return
    optuna = import_optuna()
    for name, choices in space.items():
        if isinstance(choices, Distribution) and not hasattr(choices, "ppf"):
            expected = "a list, or a distribution with ppf, which Optuna needs"
            raise argument_error(f"space[{name!r}]", choices, expected, where=WHERE)
    _make_sampler(optuna, sampler, seed=0)
    if pruner is not None:
        expected = "a pruner of Optuna, such as optuna.pruners.MedianPruner(), or None"
        check_instance("pruner", pruner, optuna.pruners.BasePruner, expected, where=WHERE)
        if multi:
            raise argument_error("pruner", pruner, "None, because each part has its own network", where=WHERE)


def _make_sampler(optuna: Any, sampler: object, seed: int) -> Any:
    """Return a new sampler, because a sampler changes with each trial, and each split has its own trials."""
    expected = "a sampler of Optuna, or sampler(seed=…) that returns one, or None"
    if sampler is None:
        return optuna.samplers.RandomSampler(seed=seed)
    found = sampler
    if callable(sampler):
        try:
            found = sampler(seed=seed)
        except Exception as error:
            raise argument_error("sampler", sampler, expected, where=WHERE) from error
    return copy.deepcopy(check_instance("sampler", found, optuna.samplers.BaseSampler, expected, where=WHERE))


def import_optuna() -> Any:
    """Return the module optuna; raise an error that names the extra if it cannot be imported."""
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise MissingExtraError(
            f"optuna, which samplers and pruners need, cannot be imported ({error}); pip install 'neurocnn[search]'"
        ) from error
