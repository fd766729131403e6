"""Metrics of an evaluation during training, for all networks in one pass over each set."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from neurocnn.engine.batch import Dataset, Network, sessions_of
from neurocnn.engine.evaluation import task_functions
from neurocnn.engine.inference import Computation, network_tables
from neurocnn.engine.inputs import check_classes, check_disjoint, image_targets
from neurocnn.engine.non_finite import log_non_finite_outputs, pop_non_finite, scores_or_nan
from neurocnn.engine.run import Run
from neurocnn.engine.settings import scored_sets
from neurocnn.engine.task import Task, table_metrics


def compute_scores(
    runs: Sequence[Run],
    sets: Mapping[str, Dataset],
    task: Task,
    computation: Computation,
    on_batch: Callable[[], None],
) -> dict[Network, dict[str, float]]:
    """Return the metrics of each network by name, such as ``train_loss``, and store the tables in `Run.tables`.

    Parameters
    ----------
    runs
        Networks in training.
    sets
        Training set, and validation set if there is one.
    task, computation
        Task, and settings of the computation.
    on_batch
        Function that is called before each batch.
    """
    for run in runs:
        run.check()
        run.broadcast_buffers()
    models, functions = {run.part: run.model for run in runs}, task_functions(task, computation)
    trainer, wanted = runs[0].trainer, set(scored_sets(runs[0].trainer))
    if not all(run.history for run in runs) and not _has_checked_sessions(task, sets["train"]):
        wanted.add("train")
    tables = {
        name: network_tables(models, dataset, computation, functions, on_batch, seed=trainer.seed)
        for name, dataset in sets.items()
        if name in wanted
    }
    for run in runs:
        run.tables, run.is_training = {name: tables[name][run.part] for name in tables}, False
    return {run.part: _network_scores(run, sets) for run in runs}


def _has_checked_sessions(task: Task, dataset: Dataset) -> bool:
    """Return whether `inputs.check_sets` has already checked the participants and classes of this set."""
    sessions = sessions_of(dataset)
    if sessions is None or "participant_id" not in sessions:
        return False
    return task.classes is None or image_targets(task, dataset) is not None


def _network_scores(run: Run, sets: Mapping[str, Dataset]) -> dict[str, float]:
    """Return the metrics of a network from its tables by set; all metrics are NaN if an output is not finite."""
    task, tables, scored = run.task, run.tables, scored_sets(run.trainer)
    wrong: dict[str, pd.DataFrame] = {name: pop_non_finite(table) for name, table in tables.items()}
    for name, rows in wrong.items():
        if len(rows) and run.ranks.rank == 0:
            log_non_finite_outputs(run.where(), rows, name)
    if not run.history:
        known = [tables.get(name, sessions_of(dataset)) for name, dataset in sets.items()]
        check_disjoint([table for table in known if table is not None])
        if task.classes and "train" in tables:
            check_classes(task, tables["train"]["true_label"])
    all_finite = not any(map(len, wrong.values()))
    found = {
        name: scores_or_nan(partial(table_metrics, task), table, all_finite)
        for name, table in tables.items()
        if name in scored
    }
    not_scored = dict.fromkeys(next(iter(found.values())), math.nan)
    return {
        f"{name}_{metric}": score for name in sets for metric, score in found.get(name, not_scored).items()
    }
