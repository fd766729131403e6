"""Training loop.

One or several networks are trained on the same batches; each network receives the rows of its part. Checkpoints are
written between two updates. Therefore `train_epoch` can begin at any update. If an evaluation is due at this update and
has not been done, `train_epoch` evaluates first.
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
from torch import nn

from neurocnn.engine.batch import Batch, Dataset, Network, part_rows
from neurocnn.engine.clock import EpochClock
from neurocnn.engine.epoch_scores import compute_scores
from neurocnn.engine.epochs import TrainingBatches, updates_per_epoch
from neurocnn.engine.faults import check_initialized, translate_errors
from neurocnn.engine.fingerprint import settings_fingerprint
from neurocnn.engine.inference import Computation
from neurocnn.engine.inputs import check_sets
from neurocnn.engine.interruption import Interruption
from neurocnn.engine.loading import Loading
from neurocnn.engine.loggers import Progress
from neurocnn.engine.network_files import NetworkFiles, write_each
from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.requirements import log_requirements, requirements_of
from neurocnn.engine.run import Row, Run
from neurocnn.engine.runtime import find_device, use_deterministic_algorithms, use_device
from neurocnn.engine.settings import TrainingSettings, scored_sets
from neurocnn.engine.task import Task
from neurocnn.engine.training import Callback, Training, TrainingState
from neurocnn.engine.workers import catch_worker_death
from neurocnn.errors import CheckpointError, LeakError, SettingError, TableError, TrainingError
from neurocnn.errors.logger import LOGGER
from neurocnn.randomness import exclusive


class Loop:
    """Training of one or several networks.

    Parameters
    ----------
    trainer
        Settings.
    task, train, validation, folder, callbacks
        See `Trainer.fit`.
    """

    def __init__(
        self,
        trainer: TrainingSettings,
        task: Task,
        train: Dataset,
        validation: Dataset | None,
        folder: str | os.PathLike[str] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.trainer, self.task, self.callbacks = trainer, task, callbacks
        self.folder = None if folder is None else Path(folder)
        self.sets = {"train": train} | ({} if validation is None else {"validation": validation})
        check_sets(task, self.sets, trainer.sampler)
        if trainer.evaluate_train == "end" and validation is None:
            raise SettingError(
                "Trainer.fit: evaluate_train='end'; expected a validation set, which selects the best epoch; pass "
                "validation, or use evaluate_train='epoch'"
            )
        self.ranks = find_ranks(trainer.rank_seconds)
        self.device = find_device(trainer.device, self.ranks.local)
        # In the memory of the CPU, images are kept by the dataset, up to its `cache_bytes`.
        resident = trainer.resident if self.device.type == "cuda" else False
        loading = Loading(trainer.n_workers, self.device, resident)
        self.computation = Computation(
            trainer.batch_size, loading, self.device, trainer.precision, trainer.seed, self.ranks
        )
        self.interruption = Interruption()

    def train(self, networks: Mapping[Network, nn.Module]) -> dict[Network, Training]:
        """Train networks until each has stopped."""
        for model in networks.values():
            check_initialized(model)
        with ExitStack() as stack:
            stack.enter_context(exclusive("the training"))
            stack.enter_context(use_device(self.device))
            if self.ranks.world > 1:
                # torch warns if strides differ. For one input channel, different strides describe the same layout.
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            n_updates = updates_per_epoch(self.trainer, self.sets["train"], list(networks))
            runs = [
                Run(model, self.trainer, self.task, part, self.device, self.ranks, n_updates)
                for part, model in networks.items()
            ]
            needed = requirements_of(self.trainer, networks.values(), n_updates, len(self.task.selection))
            stack.enter_context(log_requirements("the training", needed, self.folder, self.device))
            for run in runs:
                stack.callback(run.release)
            self.files = self.open_files(runs, stack)
            parts = [run.part for run in runs]
            stack.enter_context(self.computation.loading)
            self.batches = TrainingBatches(self.trainer, self.task, self.sets, parts, self.computation)
            self.train_runs(runs, stack)
        # All ranks wait, because they read the best weights from files that rank 0 may still be writing.
        self.ranks.barrier("at the end of training")
        [self.interruption.signal] = self.ranks.all_reduce_max(self.interruption.signal)
        if self.interruption.signal:
            # The signal came after the last batch: everything is saved, but the caller must not continue.
            self.exit()
        return {run.part: self.result(run) for run in runs}

    def train_runs(self, runs: list[Run], stack: ExitStack) -> None:
        """Train epoch by epoch until each network has stopped."""
        trainer = self.trainer
        stack.enter_context(use_deterministic_algorithms(trainer.deterministic))
        stack.enter_context(translate_errors(self.device, trainer.batch_size, trainer.accumulation_steps))
        stack.enter_context(self.interruption.catch_signals())
        self.progress = stack.enter_context(
            Progress(trainer.epochs, scored_sets(trainer), self.ranks.rank == 0)
        )
        while active := [run for run in runs if not run.is_finished()]:
            # Networks can share a pass over the data if they are at the same epoch and their epochs have the same
            # batches.
            first = min(active, key=lambda run: run.epoch)
            position = first.epoch, first.join_last
            self.train_epoch(first.epoch, [run for run in active if (run.epoch, run.join_last) == position])

    def train_epoch(self, epoch: int, runs: list[Run]) -> None:
        """Train the networks for one epoch, each from the update at which its saved state was written."""
        self.active, self.clock = runs, EpochClock()
        parts, start = [run.part for run in runs], min(run.updates for run in runs)
        plan = self.batches.begin_epoch(epoch, start, parts, runs[0].join_last)
        self.progress.set_position(epoch, start, plan.n_updates)
        with catch_worker_death(self.batches.loader) as loaded:
            source = self.computation.loading.transfers.ahead(loaded)
            for update in range(plan.start, plan.n_updates + 1):
                ready = [run for run in runs if run.updates == update]
                ended = update == plan.n_updates
                if ended or self.is_due(update):
                    self.evaluate([run for run in ready if not run.is_evaluated()], ended)
                if not ended:
                    self.update(ready, plan.batches_of_update(update), source)
                    self.save_if_due()
        better = {run.part: run.end_epoch() for run in runs}
        files = [self.files[run.part] for run in runs]
        write_each(lambda own: own.write_predictions(better[own.run.part]), files)
        self.save()
        write_each(lambda own: own.write_best(better[own.run.part]), files)
        self.clock.lap("writing")
        self.progress.end_epoch(epoch, {run.part: run.history[-1] for run in runs}, str(self.clock))

    def update(self, runs: list[Run], sizes: list[int], source: Iterator[Batch]) -> None:
        """Accumulate the gradients of the next batches, whose sizes are `sizes`, and update each network once."""
        for number, size in enumerate(sizes):
            batch = next(source)
            self.ranks.barrier("for a batch")
            self.clock.lap("waiting for data")
            for run in runs:
                run.accumulate(
                    part_rows(batch, run.part),
                    n_samples=sum(sizes),
                    empty=self.ranks.rank >= size,
                    last=number == len(sizes) - 1,
                )
            self.clock.lap("computing")
        losses = [run.update() for run in runs]
        self.clock.lap("computing")
        self.progress.add_update(sum(losses) / max(1, len(losses)))

    def is_due(self, update: int) -> bool:
        """Return whether an evaluation is due after this many updates of an epoch."""
        every = self.trainer.evaluation_steps
        return every > 0 and update > 0 and update % every == 0

    def evaluate(self, runs: list[Run], ended: bool) -> None:
        """Evaluate the networks on all samples of both sets, and add a row to the history of each network."""
        if not runs:
            return
        try:
            metrics = compute_scores(runs, self.sets, self.task, self.computation, self.exit_if_signalled)
            for run in runs:
                run.check_selection(metrics[run.part])
        except (SettingError, TableError, LeakError):
            for run in runs:
                self.files[run.part].discard_checkpoint()
            raise
        self.clock.lap("evaluating")
        if (self.callbacks or not ended) and not all(self.files[run.part].has_saved for run in runs):
            # The first state precedes the first row of the table and the first callback. It is not written earlier, so
            # that training that fails before its first score can be restarted with other settings. Without callbacks,
            # the state that ends the epoch suffices.
            self.save()
        for run in runs:
            where: Row = {"epoch": run.epoch, "iteration": run.iteration, "time": run.seconds()}
            run.history.append(where | metrics[run.part])
            self.files[run.part].write_evaluation()
            self.clock.lap("writing")
            self.call_callbacks(run, ended)

    def call_callbacks(self, run: Run, ended: bool) -> None:
        """Call the callbacks after an evaluation."""
        if not self.callbacks:
            return
        position = run.epoch, run.iteration, run.history[-1], run.history, ended
        state = TrainingState(*position, run.model, run.optimizer, run.part, self.folder)
        # A callback may change the network.
        run.discard_gradients()
        for callback in self.callbacks:
            callback(state)
        self.clock.lap("callbacks")

    def open_files(self, runs: list[Run], stack: ExitStack) -> dict[Network, NetworkFiles]:
        """Open the files of the networks, and restore the states that an earlier run has written."""
        files = {}
        for run in runs:
            settings = settings_fingerprint(self.trainer, self.task, run.model, self.sets, run.part)
            own = files[run.part] = NetworkFiles(self.folder, run, settings, writes=self.ranks.rank == 0)
            stack.enter_context(own.hold())
            stack.callback(own.close)
            own.restore()
        positions = self.ranks.gather([(run.epoch, run.updates) for run in runs], "to compare states")
        if any(position != positions[0] for position in positions):
            raise CheckpointError(
                f"{self.folder}: the ranks found different states (epoch and update of each network: {positions}); "
                "expected a folder that all ranks share"
            )
        for own in files.values():
            own.open()
        self.saved = time.monotonic()
        return files

    def save(self) -> None:
        """Write the states of the networks of this epoch, with the random states of all ranks."""
        for run in self.active:
            run.check()
        if self.folder is not None:
            ranks = self.ranks.gather([run.random.state() for run in self.active], "to write a state")
            randoms = {run.part: [states[k] for states in ranks] for k, run in enumerate(self.active)}
            for run in self.active:
                run.broadcast_buffers()
            files = [self.files[run.part] for run in self.active]
            write_each(lambda own: own.write_state(randoms[own.run.part]), files)
            self.clock.lap("writing")
        self.saved = time.monotonic()

    def save_if_due(self) -> None:
        """Write states if `checkpoint_seconds` have passed or a rank has received a signal. Exit after a signal."""
        due = time.monotonic() - self.saved >= self.trainer.checkpoint_seconds
        due_anywhere, self.interruption.signal = self.ranks.all_reduce_max(due, self.interruption.signal)
        if self.interruption.signal:
            self.save()
            self.exit()
        elif due_anywhere:
            self.save()

    def exit_if_signalled(self) -> None:
        """If a signal was received during an evaluation, exit. Several ranks exit together, after their next update."""
        if self.interruption.signal and self.ranks.world == 1:
            self.save()
            self.exit()

    def exit(self) -> None:
        """Log a message about the saved state, then raise KeyboardInterrupt or SystemExit."""
        first = min(self.active, key=lambda run: (run.epoch, run.updates))
        if self.folder is None:
            saved = "nothing is saved, because fit was called without a folder"
        else:
            saved = f"the state is saved in {self.folder}; run the same script again to resume"
        if self.ranks.rank == 0:
            LOGGER.warning(
                "stopped by a signal in epoch %d, update %d: %s", first.epoch + 1, first.updates, saved
            )
        self.interruption.exit()

    def result(self, run: Run) -> Training:
        """Return the result for one network.

        Raises
        ------
        TrainingError
            If a selection has no best epoch.
        """
        absent = [name for name in self.task.selection if f"best_{name}" not in run.best_epochs]
        if absent:
            raise TrainingError(
                f"{', '.join(absent)}: NaN or infinite in every epoch, so that no epoch can be selected; check the "
                "images and labels of the validation set, or lower learning_rate"
            )
        return Training(
            history=pd.DataFrame(run.history),
            best=self.files[run.part].best(),
            best_epochs=dict(run.best_epochs),
            stopped_at=run.epoch - 1,
            stopped_early=run.stopped,
            predictions=self.files[run.part].predictions(),
        )
