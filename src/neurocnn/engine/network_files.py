"""Files of one network, written in an order that allows training to be resumed if the process is killed.

At the end of an epoch the state is written first, then the best models. If the process is killed between these two
writes, the missing best model is restored from the state.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from neurocnn.engine.checkpoint import BestStates, State, StateFiles, read_best_epoch
from neurocnn.engine.fingerprint import check_settings, earlier_values, forbidden_changes, resume_rules
from neurocnn.engine.loggers import Events, write_history
from neurocnn.engine.prediction_files import read_predictions, write_predictions
from neurocnn.engine.run import Run
from neurocnn.engine.settings import TrainingSettings, scored_sets
from neurocnn.errors import CheckpointError, SettingError
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import remove_leftovers
from neurocnn.storage.locks import hold
from neurocnn.storage.tensors import save_tensors

# Number of networks whose files are written at a time.
_WRITERS = 4


class NetworkFiles:
    """Files that are written while one network is trained.

    Parameters
    ----------
    folder
        Folder for the files. With None, the best models are kept in memory and nothing is written.
    run
        Network in training.
    settings
        Settings that are compared when training is resumed, see `settings_fingerprint`.
    writes
        Whether this rank writes files.
    """

    def __init__(self, folder: Path | None, run: Run, settings: Mapping[str, Any], writes: bool) -> None:
        self.folder, self.run, self.settings = folder, run, dict(settings)
        self.writes = writes and folder is not None
        self.events: Events | None = None
        #: Whether this process has written a state.
        self.has_saved = False
        self._n_written = 0
        if folder is None:
            return
        network = Path() if run.part is None else Path(f"cnn-{run.part}")
        self.models = folder / "models" / network
        self.table = (folder if run.part is None else self.models) / "training.tsv"
        self.logs = folder / "tensorboard_logs" / network
        self.state_folder = folder / "state" / network
        self.states = StateFiles(self.state_folder)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder during the block, so that no other process trains the same network in it."""
        if not self.writes:
            yield
            return
        network = "" if self.run.part is None else f", network {self.run.part}"
        what = f"the training in {self.folder}{network}"
        with hold(self.state_folder / "training.lock", what) as self._lock:
            yield

    def restore(self) -> None:
        """Restore `run` from the last saved state, if there is one.

        Raises
        ------
        SettingError
            If the state has other settings, or the folder contains results without a state.
        CheckpointError
            If the state cannot be read.
        """
        if self.folder is None:
            return
        state = self.states.read()
        if state is not None:
            self._restore(state, self.folder)
        elif self.table.exists() or any(self.models.glob("best_*")):
            raise SettingError(
                f"{self.folder}: there are results ({self.table.name}, models) but no state to resume from; nothing is "
                "overwritten: read the results, or train in another folder"
            )

    def _restore(self, state: State, folder: Path) -> None:
        saved, rules = earlier_values(TrainingSettings) | state["settings"], resume_rules(TrainingSettings)
        rules["n_threads"] = "free"
        scores = [row[name] for row in state["history"] for name in row if name.endswith("_loss")]
        if not any(map(math.isfinite, scores)) and forbidden_changes(saved, self.settings, rules):
            LOGGER.info(
                "%s: the earlier run had other settings and no score yet; training starts again", folder
            )
            return
        check_settings(saved, self.settings, rules, folder)
        try:
            self.run.restore(state)
        except CheckpointError as error:
            raise CheckpointError(f"{self.state_folder}: {error}") from error
        run, network = self.run, "" if self.run.part is None else f", network {self.run.part}"
        if not run.is_finished():
            LOGGER.info("%s%s: resuming in epoch %d, update %d", folder, network, run.epoch + 1, run.updates)
            before, now = saved.get("n_threads"), self.settings["n_threads"]
            if before is not None and before != now:
                LOGGER.warning(
                    "%s%s: resuming with %d threads of torch, but the state was written with %d threads: the last "
                    "digits of the results change; use torch.set_num_threads(%d) to keep them",
                    folder, network, now, before, before,
                )  # fmt: skip

    def open(self) -> None:
        """Open the files, and make the table, the best models and the logs consistent with the restored state."""
        if not self.writes:
            return
        bests = [folder / "model_best.pth.tar" for folder in self.models.glob("best_*")]
        kept = [self._predictions_path(f"best_{name}") for name in self.run.task.selection]
        remove_leftovers(self._lock, self.table, *bests, *kept, *self.states.paths)
        self._repair_best_models()
        run = self.run
        # A process may have died after the last state, before its row was written.
        if not run.is_finished() or _n_rows(self.table) < len(run.history):
            self.events = Events(self.logs, scored_sets(run.trainer), run.history, run.started)
            self._n_written = len(run.history)
            if run.history:
                write_history(run.history, self.table)
            else:
                self.table.unlink(missing_ok=True)

    def _repair_best_models(self) -> None:
        run = self.run
        for selection, epoch in run.best_epochs.items():
            path = self._best_path(selection)
            found = read_best_epoch(path)
            if found == epoch:
                continue
            if run.epoch == epoch + 1 and run.updates == 0:
                self._write_best(selection)
            elif found is None or found < epoch:
                what = "no readable file" if found is None else f"the best model of epoch {found}"
                raise CheckpointError(
                    f"{path}: found {what}; expected the best model of epoch {epoch}; restore the file from a copy, or "
                    "train in another folder"
                )

    def write_evaluation(self) -> None:
        """Write new rows of the history to the logs and to the table; before the first state, write nothing.

        Training cannot resume from a table without a state, so `write_state` writes the rows that precede it. The table
        is written last: if it is complete, the logs are.
        """
        new = self.run.history[self._n_written :]
        if self.events is None or not self.has_saved or not new:
            return
        for row in new:
            self.events.add(row)
        write_history(self.run.history, self.table)
        self._n_written = len(self.run.history)

    def write_state(self, randoms: list[dict[str, Any]]) -> None:
        """Write the training state. `randoms` are the random states of all ranks."""
        if self.writes:
            self.states.write(self.run.state(randoms) | {"settings": self.settings})
        self.has_saved = True
        self.write_evaluation()

    def discard_checkpoint(self) -> None:
        """Delete the training state if the network has no history yet, so that a new run may use other settings."""
        if self.writes and not self.run.history:
            self.states.remove()

    def write_predictions(self, selections: list[str]) -> None:
        """Write the predictions of the last evaluation, whose epoch is the best one of these selections.

        The predictions are written before the state of the same epoch. If the process is killed between these two
        writes, the epoch is repeated.
        """
        for selection in selections if self.writes else ():
            epoch = self.run.best_epochs[selection]
            write_predictions(self._predictions_path(selection), epoch, self.run.tables)
        self.run.tables = {}

    def predictions(self) -> dict[str, dict[str, pd.DataFrame]]:
        """Return the saved predictions of the best epochs, by selection and set."""
        if self.folder is None:
            return {}
        found: dict[str, dict[str, pd.DataFrame]] = {}
        by_epoch: dict[int, dict[str, pd.DataFrame]] = {}
        for name, epoch in self.run.best_epochs.items():
            # The files of two selections with the same best epoch are equal.
            found[name] = by_epoch.get(epoch) or read_predictions(self._predictions_path(name), epoch)
            by_epoch[epoch] = found[name]
        return found

    def write_best(self, selections: list[str]) -> None:
        """Write (or keep in memory) the current weights as the best weights of these selections."""
        for selection in selections:
            if self.folder is None:
                self.run.best_weights[selection] = self.run.weights()
            elif self.writes:
                self._write_best(selection)

    def _write_best(self, selection: str) -> None:
        run = self.run
        metric = selection.removeprefix("best_")
        content = {
            "model": run.weights(),
            "epoch": run.best_epochs[selection],
            "name": type(run.model).__name__,
            metric: run.best[metric],
        }
        save_tensors(content, self._best_path(selection))

    def _best_path(self, selection: str) -> Path:
        return self.models / selection / "model_best.pth.tar"

    def _predictions_path(self, selection: str) -> Path:
        return self.state_folder / f"{selection}.predictions"

    def best(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the best weights by selection."""
        if self.folder is None:
            return dict(self.run.best_weights)
        paths = {selection: self._best_path(selection) for selection in self.run.best_epochs}
        return BestStates(paths, [name for name, _ in self.run.model.named_parameters()])

    def close(self) -> None:
        """Close the logs."""
        if self.events is not None:
            self.events.close()


def _n_rows(table: Path) -> int:
    """Return the number of rows of a table, or -1 if it does not exist."""
    return table.read_bytes().count(b"\n") - 1 if table.is_file() else -1


def write_each(write: Callable[[NetworkFiles], None], files: Sequence[NetworkFiles]) -> None:
    """Call a function that writes files for each network, on a CPU in several threads.

    A small file takes as long to reach the disk as to be written. If a call raises, no further calls are started, and
    the error is raised after those that have started. On a GPU the calls are made one after the other, because copies
    of weights belong to the CUDA stream of the thread.
    """
    if len(files) == 1 or any(own.run.device.type != "cpu" for own in files):
        for own in files:
            write(own)
        return
    with ThreadPoolExecutor(_WRITERS, "neurocnn-writing") as pool:
        calls = [pool.submit(write, own) for own in files]
        wait(calls, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    for call in calls:
        if not call.cancelled():
            call.result()
