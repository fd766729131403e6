"""One fold of an experiment: its networks trained, its best models turned into tables."""

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
from torch import nn as torch_nn

from neurocnn import data, engine, nn, storage
from neurocnn.engine.inputs import check_sets
from neurocnn.experiment import reconstructions
from neurocnn.experiment import transfer_source as source
from neurocnn.results import leakage as seen
from neurocnn.results import networks, scoring
from neurocnn.results.paths import Fold
from neurocnn.storage.locks import hold

if TYPE_CHECKING:
    from neurocnn.experiment.experiment import Experiment

_LOGGER = logging.getLogger("neurocnn")
_SETS = ("train", "validation")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FoldRun:
    """What the run of one fold needs.

    Parameters
    ----------
    experiment
        The settings.
    fold
        Where its files lie.
    train, validation
        The sets, with all their parts.
    origin
        Whom the transfer's source has seen, None without a transfer.
    callbacks
        Passed on to the trainer.
    """

    experiment: "Experiment"
    fold: Fold
    train: data.CapsDataset
    validation: data.CapsDataset
    origin: pd.DataFrame | None = None
    callbacks: tuple[Callable[..., Any], ...] = ()

    def check(self, networks: list[int] | None) -> None:
        """Raise now, before a file is written, what would stop `run` later.

        Raises
        ------
        NeurocnnError
            Labels that the task does not know, a network that cannot be built, weights that are missing or do
            not fit, reconstructions that have no place in the volume.
        """
        if self.is_done:
            return
        experiment = self.experiment
        sets = {"train": self.train, "validation": self.validation}
        check_sets(experiment.task, sets, experiment.trainer.sampler)
        origin = source.as_source(experiment.transfer_from)
        if isinstance(origin, Path):
            for part in [None] if networks is None else networks:
                source.checkpoint(origin, self.fold.index, part, experiment.transfer_selection)
        self._network(networks[0] if networks else None)
        if experiment.reconstructions:
            reconstructions.check(self.train)

    def run(self, networks: list[int] | None) -> None:
        """Train and score what is not done; `networks` are part_ids, None where one network serves all."""
        if self._first_ranks(self.is_done):
            _LOGGER.info("%s is done", self.fold.path)
            self._tidy()
            return
        if self._writes:
            train, validation = self.train.sessions, self.validation.sessions
            storage.write_table(seen.record(train, validation, self.origin), self.fold.seen)
        if networks is None:
            with self._held(None):
                if not self._first_ranks(self.is_done):
                    self._score(self._train_one())
        else:
            self._train_several(networks)
            with self._held(None, wait=True):
                if self._first_ranks(not self.is_done and self._all_there()):
                    self._score({name: self._assemble(name) for name in self._selections})
        self._tidy()

    @property
    def is_done(self) -> bool:
        """Whether the table that is written last is there."""
        return scoring.last_table(self.fold, self.experiment.task, self.experiment.parts).is_file()

    def _tidy(self) -> None:
        """Remove the states of a fold that is done, whoever has finished it or was killed while tidying."""
        if self._writes and self.is_done:
            shutil.rmtree(self.fold.state, ignore_errors=True)

    @property
    def _writes(self) -> bool:
        """Whether this process writes: with several ranks the first one does."""
        return engine.find_ranks().rank == 0

    def _first_ranks(self, value: T) -> T:
        """What the first rank says: files may come and go between the looks of two ranks."""
        values: list[T] = engine.find_ranks().gather(value, "to agree on what is to be done")
        return values[0]

    @property
    def _selections(self) -> list[str]:
        return scoring.selections(self.experiment.task)

    def _train_one(self) -> dict[str, dict[str, pd.DataFrame]]:
        model = self._network(None)
        training = self._fit(model)
        predictions = {}
        for selection in self._selections:
            model.load_state_dict(training.best[selection])
            predictions[selection] = self._evaluate(model)
            if selection == self._selections[0]:
                self._reconstruct(dict.fromkeys(self.train.part_ids, model))
        return predictions

    def _train_several(self, networks: list[int]) -> None:
        waiting = self._first_ranks([part for part in networks if not self._is_there(part)])
        size = self.experiment.networks_at_once or self._first_ranks(self._fitting())
        for start in range(0, len(waiting), size):
            with ExitStack() as locks:
                for part in waiting[start : start + size]:
                    locks.enter_context(self._held(part))
                group = [part for part in waiting[start : start + size] if not self._is_there(part)]
                models = {part: self._network(part) for part in self._first_ranks(group)}
                if models:
                    self._train_group(models)

    def _train_group(self, models: dict[int, torch_nn.Module]) -> None:
        trainings = self._fit(models)
        for selection in self._selections:
            for part, model in models.items():
                model.load_state_dict(trainings[part].best[selection])
            if selection == self._selections[0]:
                self._reconstruct(models)
            for name, table in self._evaluate(models).items():
                if self._writes:
                    for part in models:
                        rows = table[table["part_id"] == part]
                        storage.write_table(rows, self.fold.partial(part, selection, name))
        engine.find_ranks().barrier("after tables were written")

    def _fit(self, model: Any) -> Any:
        return self.experiment.trainer.fit(
            model,
            self.experiment.task,
            self.train,
            self.validation,
            folder=self.fold.path,
            callbacks=self.callbacks,
        )

    def _evaluate(self, model: Any) -> dict[str, pd.DataFrame]:
        trainer = self.experiment.trainer
        return {
            name: engine.evaluate(
                model,
                self.experiment.task,
                dataset,
                batch_size=trainer.batch_size,
                n_workers=trainer.n_workers,
                device=trainer.device,
                precision=trainer.precision,
            )
            for name, dataset in zip(_SETS, (self.train, self.validation), strict=True)
        }

    def _network(self, part: int | None) -> torch_nn.Module:
        """Build one network with its first weights, the same for every part, and transfer into it."""
        experiment = self.experiment
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(experiment.trainer.seed)
            model = networks.build(
                experiment.architecture, self.train.input_shape, experiment.task, experiment.options
            )
        origin = source.as_source(experiment.transfer_from)
        if origin is not None:
            weights = source.weights(
                origin, self.fold.index, part, experiment.transfer_selection, experiment.task.classes
            )
            nn.transfer_weights(weights, model)
        return model

    def _fitting(self) -> int:
        """How many networks fit in a quarter of the free memory."""
        tensors = self._network(self.train.part_ids[0]).state_dict().values()
        # Weights, gradients, Adam's two moments, and a best state for each selection.
        needed: int = sum(tensor.nbytes for tensor in tensors) * (4 + len(self._selections))
        return max(1, _free_memory(self.experiment.trainer.device) // 4 // needed)

    def _is_there(self, part: int) -> bool:
        return all(
            self.fold.partial(part, selection, name).is_file()
            for selection in self._selections
            for name in _SETS
        )

    def _all_there(self) -> bool:
        return all(map(self._is_there, self.train.part_ids))

    def _assemble(self, selection: str) -> dict[str, pd.DataFrame]:
        """Give the rows of all networks in the order that one network for all parts would give."""
        return {name: self._assemble_set(selection, name) for name in _SETS}

    def _assemble_set(self, selection: str, name: str) -> pd.DataFrame:
        parts = self.train.part_ids
        tables = [storage.read_table(self.fold.partial(part, selection, name)) for part in parts]
        whole = pd.concat(tables, keys=range(len(parts)), names=["network", "image"])
        return whole.sort_index(level=["image", "network"]).reset_index(drop=True)

    def _score(self, predictions: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
        """Write every table, the one that says that the fold is done last of all."""
        if self._writes:
            for selection, tables in predictions.items():
                self._score_selection(selection, tables)
            if self.experiment.multi:
                self._gather_history()
        engine.find_ranks().barrier("after tables were written")

    def _score_selection(self, selection: str, tables: Mapping[str, pd.DataFrame]) -> None:
        experiment, validation = self.experiment, tables["validation"]
        task, parts = experiment.task, experiment.parts
        painted = scoring.paints(task, parts)
        weights = scoring.weights(task, validation, experiment.selection_threshold) if painted else None
        for name in _SETS:
            scoring.write_tables(self.fold, selection, name, tables[name], task, parts, weights)
        if weights is not None:
            shape, affine = self._space()
            scoring.write_part_accuracy(self.fold, selection, validation, weights, parts, shape, affine)

    def _space(self) -> tuple[tuple[int, int, int], Any]:
        first = self.train.sessions.iloc[0]
        who = first["participant_id"], first["session_id"], first.get("cohort")
        return self.experiment.caps.shape(*who), self.experiment.caps.affine(*who)

    def _gather_history(self) -> None:
        tables = []
        for part in self.train.part_ids:
            table = storage.read_table(self.fold.training(part), required=())
            table.insert(0, "network", part)
            tables.append(table)
        storage.write_table(pd.concat(tables, ignore_index=True), self.fold.training())

    def _reconstruct(self, models: Mapping[int, torch_nn.Module]) -> None:
        if not self.experiment.reconstructions:
            return
        for name, dataset in zip(_SETS, (self.train, self.validation), strict=True):
            first = dataset.without_augmentation()
            if self._writes:
                reconstructions.write(self.fold.tables / name, models, first, self._space()[1])

    @contextmanager
    def _held(self, part: int | None, *, wait: bool = False) -> Iterator[None]:
        """Hold the lock of the fold or of one network; with several ranks the first one does."""
        what = f"split {self.fold.index}" + ("" if part is None else f", network {part}")
        with ExitStack() as stack:
            if self._writes:
                stack.enter_context(hold(self.fold.lock(part), f"{what} of {self.fold.root}", wait=wait))
            yield


def _free_memory(device: str) -> int:
    """Give the free bytes of the memory that networks are trained in."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    if sys.platform == "linux":
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return 8 << 30  # no figure is to be had: a small machine's
