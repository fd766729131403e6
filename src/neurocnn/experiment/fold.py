"""Run of one fold: training of its networks, and evaluation of the best models for the tables."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import pandas as pd
from filelock import BaseFileLock
from torch import nn as torch_nn

from neurocnn import data, engine, storage
from neurocnn.engine.epochs import updates_per_epoch
from neurocnn.engine.inputs import check_sets
from neurocnn.engine.requirements import Requirements, requirements_of
from neurocnn.engine.runtime import find_device
from neurocnn.errors.logger import LOGGER
from neurocnn.experiment import reconstructions, transfer_source
from neurocnn.experiment.best_predictions import best_predictions
from neurocnn.experiment.recipe import Recipe
from neurocnn.results import leakage, scoring
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import SETS, Fold
from neurocnn.results.placing import check_placeable
from neurocnn.results.reading import read_network_histories
from neurocnn.results.same_study import write_images
from neurocnn.results.votes import read_vote
from neurocnn.storage.identity import interleave_parts, key_columns
from neurocnn.storage.locks import hold
from neurocnn.storage.memory import available_memory

T = TypeVar("T")
#: Predictions by data set, one row per part.
Tables = Mapping[str, pd.DataFrame]
Models = Mapping[int, torch_nn.Module]


@dataclasses.dataclass(frozen=True)
class FoldRun:
    """Training and evaluation of one fold.

    Parameters
    ----------
    recipe
        Settings of the experiment.
    folder, fold
        Result folder, and paths of this fold in the folder.
    train, validation
        Data sets with all their parts.
    images
        Fingerprints of the images of all splits.
    source_seen
        Participants that the transfer's source has seen; None without a transfer.
    callbacks
        See `Trainer.fit`.
    """

    recipe: Recipe
    folder: ResultFolder
    fold: Fold
    train: data.CapsDataset
    validation: data.CapsDataset
    images: pd.DataFrame
    source_seen: pd.DataFrame | None = None
    callbacks: tuple[engine.Callback, ...] = ()

    def check(self, networks: Sequence[int] | None) -> Requirements:
        """Check everything that could stop `run` after it has written files, and return the requirements of the run.

        Raises
        ------
        NeurocnnError
            If labels are unknown to the task, a network cannot be built, weights are missing or do not fit, or
            reconstructions do not fit into the volume.
        """
        if self.is_done:
            return Requirements()
        recipe = self.recipe
        check_sets(recipe.task, self.sets, recipe.trainer.sampler)
        if isinstance(recipe.transfer_from, Path):
            parts: Sequence[int | None] = networks or [None]
            for part in parts:
                transfer_source.checkpoint(
                    recipe.transfer_from, self.fold.index, part, recipe.transfer_selection
                )
        model = self._build_network(networks[0] if networks else None)
        if recipe.reconstructions:
            check_placeable(self.train, "reconstructions=True")
        n_updates = updates_per_epoch(recipe.trainer, self.train, networks or [None])
        return requirements_of(
            recipe.trainer, [model] * len(networks or [None]), n_updates, len(recipe.task.selection)
        )

    def run(self, networks: Sequence[int] | None) -> None:
        """Train and evaluate networks that are not done. `networks` are part_ids; None for a single network."""
        if self._broadcast(self.is_done):
            LOGGER.info("%s is done", self.fold.path)
            self._remove_checkpoints()
            return
        claimed = self.folder.is_claimed
        if networks is None:
            with self._hold(None) as lock:
                # Another process may have finished the fold and removed the lock since the first check.
                if not self._broadcast(self.is_done):
                    self._write_participants(lock, claimed)
                    self._write_tables(self._train_one())
        else:
            with self._hold(None, wait=True) as lock:
                if not self._broadcast(self.is_done):
                    self._write_participants(lock, claimed)
            self._train_several(networks)
            with self._hold(None, wait=True) as lock:
                if lock is not None and not self.is_done:
                    storage.remove_leftovers(lock, *self._paths_under_lock())
                if self._broadcast(not self.is_done and all(map(self._is_predicted, self.train.part_ids))):
                    self._write_tables(
                        {name: self._read_predictions(name) for name in self.folder.selections}
                    )
        self._remove_checkpoints()

    def _write_participants(self, lock: BaseFileLock | None, claimed: bool) -> None:
        """On rank 0, which holds the lock, write the tables of seen participants and of fingerprints."""
        if lock is None:
            return
        storage.remove_leftovers(lock, *self._paths_under_lock())
        seen = leakage.record_seen(self.train.sessions, self.validation.sessions, self.source_seen)
        storage.write_table(seen, self.fold.seen)
        key = key_columns(self.images.columns)
        own = {name: dataset.sessions[key].merge(self.images, on=key) for name, dataset in self.sets.items()}
        if not self.fold.images.is_file() or not claimed:
            write_images(self.fold, own)

    def _paths_under_lock(self) -> list[Path]:
        """Return the paths of all files that are written under the lock of the fold."""
        fold, selections = self.fold, self.folder.selections
        paths = [fold.seen, fold.images, *([fold.training()] if self.recipe.multi else [])]
        paths += [fold.part_accuracy(name, suffix) for name in selections for suffix in ("tsv", "nii.gz")]
        paths += [
            fold.table(*key)
            for key in product(selections, SETS, self.folder.levels, ("metrics", "prediction"))
        ]
        # With one network per part, reconstructions are protected by the locks of the networks.
        if self.recipe.reconstructions and (
            not self.recipe.multi or all(map(self._is_predicted, self.train.part_ids))
        ):
            numbers = range(len(self.train.part_ids))
            files = [f"{kind}-{k}.nii.gz" for kind in ("input", "output") for k in numbers]
            paths += [fold.tables / name / file for name in SETS for file in files]
        return paths

    @property
    def sets(self) -> dict[str, data.CapsDataset]:
        """Data sets by name."""
        return {"train": self.train, "validation": self.validation}

    @property
    def is_done(self) -> bool:
        """Whether the fold is done, that is, whether the table that is written last exists."""
        return self.folder.is_done(self.fold)

    def _remove_checkpoints(self) -> None:
        """Remove the checkpoints if the fold is done, even if another process finished it and was killed."""
        if self._is_writer and self.is_done:
            shutil.rmtree(self.fold.state, ignore_errors=True)

    @property
    def _is_writer(self) -> bool:
        """Whether this process is rank 0, the only one that writes files."""
        return engine.find_ranks().rank == 0

    def _broadcast(self, value: T) -> T:
        """Return rank 0's value on all ranks, because files may change between the checks of two ranks."""
        values: list[T] = engine.find_ranks().gather(value, "to share rank 0's view of the folder")
        return values[0]

    def _train_one(self) -> dict[str, Tables]:
        model = self._build_network(None, initialize_decoder=True)
        training = self.recipe.trainer.fit(model, *self._fit_arguments)
        self._compare_with_mean({None: training})
        predictions: dict[str, Tables] = {}
        for selection in self.folder.selections:
            found = best_predictions(selection, {None: model}, {None: training}, self.sets, self.recipe)
            predictions[selection] = {name: table for name in SETS for table in found[name].values()}
        if self.recipe.reconstructions:
            model.load_state_dict(training.best[self.folder.selections[0]])
            self._reconstruct(dict.fromkeys(self.train.part_ids, model))
        return predictions

    def _train_several(self, networks: Sequence[int]) -> None:
        pending = self._broadcast([part for part in networks if not self._is_predicted(part)])
        size = self.recipe.networks_at_once or self._broadcast(self._n_networks_in_memory())
        for start in range(0, len(pending), size):
            chosen = pending[start : start + size]
            with ExitStack() as locks:
                for part in chosen:
                    locks.enter_context(self._hold(part))
                group = [part for part in chosen if not (self.is_done or self._is_predicted(part))]
                group = self._broadcast(group)
                models = {part: self._build_network(part, initialize_decoder=True) for part in group}
                if models:
                    self._train_group(models)

    def _train_group(self, models: Models) -> None:
        trainings = self.recipe.trainer.fit(models, *self._fit_arguments)
        self._compare_with_mean(trainings)
        if self.recipe.reconstructions:
            for part, model in models.items():
                model.load_state_dict(trainings[part].best[self.folder.selections[0]])
            self._reconstruct(models)
        for selection in self.folder.selections:
            found = best_predictions(selection, models, trainings, self.sets, self.recipe)
            for name, tables in found.items():
                if self._is_writer:
                    for part, table in tables.items():
                        storage.write_table(table, self.fold.network_prediction(part, selection, name))
        engine.find_ranks().barrier("after tables were written")

    @property
    def _fit_arguments(
        self,
    ) -> tuple[engine.Task, data.CapsDataset, data.CapsDataset, Path, tuple[engine.Callback, ...]]:
        callbacks = tuple(partial(_call_with_split, callback, self.fold.index) for callback in self.callbacks)
        return self.recipe.task, self.train, self.validation, self.fold.path, callbacks

    def _build_network(self, part: int | None, initialize_decoder: bool = False) -> torch_nn.Module:
        return self.recipe.build_network(self.train, self.fold.index, part, initialize_decoder)

    def _n_networks_in_memory(self) -> int:
        """Return the number of networks that fit into a quarter of the available memory."""
        tensors = self._build_network(self.train.part_ids[0]).state_dict().values()
        # For each weight, memory contains the weight, its gradient, Adam's two moments, and a copy per selection.
        needed = sum(tensor.nbytes for tensor in tensors) * (4 + len(self.folder.selections))
        device = find_device(self.recipe.trainer.device, engine.find_ranks().local)
        return int(max(1, available_memory(device) // 4 // needed))

    def _is_predicted(self, part: int) -> bool:
        """Return whether the network of a part is done, that is, whether all its tables of predictions exist."""
        return all(
            self.fold.network_prediction(part, selection, name).is_file()
            for selection in self.folder.selections
            for name in SETS
        )

    def _read_predictions(self, selection: str) -> dict[str, pd.DataFrame]:
        """Return the predictions of all networks in one table, image by image, as for a single network."""
        parts = self.train.part_ids
        return {
            name: interleave_parts(
                [storage.read_table(self.fold.network_prediction(part, selection, name)) for part in parts]
            )
            for name in SETS
        }

    def _write_tables(self, predictions: Mapping[str, Tables]) -> None:
        """Write all tables; the last one marks the fold as done."""
        if self._is_writer:
            if self.recipe.multi:
                history = read_network_histories(self.folder, self.fold.index, self.train.part_ids)
                storage.write_table(history, self.fold.training())
            for selection, tables in predictions.items():
                self._write_selection(selection, tables)
        engine.find_ranks().barrier("after tables were written")

    def _write_selection(self, selection: str, tables: Tables) -> None:
        folder, validation = self.folder, tables["validation"]
        vote = read_vote(folder, self.recipe.selection_threshold)
        fold_vote = vote.of_fold(folder, self.fold, selection, validation)
        for name in SETS:
            scoring.write_tables(folder, self.fold, selection, name, tables[name], fold_vote)
        if fold_vote.weights is not None:
            scoring.write_part_accuracy(self.fold, selection, validation, fold_vote.weights, self.train)

    def _compare_with_mean(self, trainings: Mapping[int | None, engine.Training]) -> None:
        if self.recipe.task.reconstructs and self._is_writer:
            for part, training in trainings.items():
                error = training.history["validation_loss"].min()
                reconstructions.compare_with_mean(error, self.train, self.validation, part)

    def _reconstruct(self, models: Models) -> None:
        if self._is_writer:
            for name, dataset in self.sets.items():
                reconstructions.write(self.fold.tables / name, models, dataset.without_augmentation())

    @contextmanager
    def _hold(self, part: int | None, *, wait: bool = False) -> Iterator[BaseFileLock | None]:
        """Hold the lock of the fold, or of the network of `part`, on rank 0; yield None on other ranks."""
        what = f"split {self.fold.index}" + ("" if part is None else f", network {part}")
        lock = hold(self.fold.lock(part), f"{what} of {self.fold.root}", wait=wait)
        with lock if self._is_writer else nullcontext() as held:
            yield held


def _call_with_split(callback: engine.Callback, split: int, state: engine.TrainingState) -> None:
    callback(dataclasses.replace(state, split=split))
