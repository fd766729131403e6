"""What a training leaves in its folder, and how it is taken up again.

Of each epoch's end the state is written first, then the best states: should the process be killed between the
two, the state holds the very weights that the best state lacks.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from neurocnn.engine.checkpoint import BestStates, StateFiles, best_epoch_of, check_settings
from neurocnn.engine.loggers import Events, write_history
from neurocnn.engine.run import Run
from neurocnn.errors import CheckpointError, SettingError
from neurocnn.storage.files import remove_leftovers
from neurocnn.storage.locks import hold
from neurocnn.storage.tensors import save_tensors


class NetworkFiles:
    """The files of one network.

    Parameters
    ----------
    folder
        The training's folder; None keeps the best states in memory and writes nothing.
    run
        The network's training.
    settings
        What must be the same when the training goes on.
    writes
        False for the ranks that leave writing to rank 0.
    """

    def __init__(self, folder: Path | None, run: Run, settings: Mapping[str, Any], writes: bool) -> None:
        self.folder, self.run, self.settings = folder, run, dict(settings)
        self.writes = writes and folder is not None
        self.events: Events | None = None
        if folder is None:
            return
        network = Path() if run.part is None else Path(f"cnn-{run.part}")
        self.models = folder / "models" / network
        self.table = (folder if run.part is None else self.models) / "training.tsv"
        self.logs = folder / "tensorboard_logs" / network
        self.state_folder = folder / "state" / network
        self.states = StateFiles(self.state_folder)

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from training the same network here."""
        if not self.writes:
            return nullcontext()
        network = "" if self.run.part is None else f", network {self.run.part}"
        return hold(self.state_folder / "training.lock", f"the training in {self.folder}{network}")

    def read(self) -> None:
        """Take up the last state, where there is one.

        Raises
        ------
        SettingError
            It had other settings, or there are results without a state.
        CheckpointError
            It cannot be read.
        """
        if self.folder is None:
            return
        state = self.states.read()
        if state is not None:
            check_settings(state["settings"], self.settings, self.folder)
            self.run.restore(state)
        elif self.table.exists() or any(self.models.glob("best_*")):
            raise SettingError(
                f"{self.folder}: there are results ({self.table.name}, models) but no state to go on from; nothing "
                "is overwritten: read the results, or train in another folder"
            )

    def begin(self) -> None:
        """Bring the files to where the state is."""
        if not self.writes:
            return
        bests = [folder / "model_best.pth.tar" for folder in self.models.glob("best_*")]
        remove_leftovers(self.table, *bests, *self.states.paths)
        self._repair()
        if not self.run.finished():
            self.events = Events(self.logs, self.run.history, self.run.started)
            if self.run.history:
                write_history(self.run.history, self.table)

    def _repair(self) -> None:
        run = self.run
        for selection, epoch in run.best_epochs.items():
            path = self._best_path(selection)
            found = best_epoch_of(path)
            if found == epoch:
                continue
            if run.epoch == epoch + 1 and run.updates == 0:
                self._write_best(selection)
            elif found is None or found < epoch:
                raise CheckpointError(
                    f"{path}: the state of epoch {epoch} is expected there, found "
                    f"{'none that can be read' if found is None else f'that of epoch {found}'}; restore it from "
                    "a copy, or train in another folder"
                )

    def write_evaluation(self) -> None:
        """Write an evaluation's row into the table and the logs."""
        if self.writes:
            write_history(self.run.history, self.table)
        if self.events is not None:
            self.events.add(self.run.history[-1])

    def save(self, randoms: list[dict[str, Any]]) -> None:
        """Write a state; `randoms` are the random states of all ranks."""
        if self.writes:
            self.states.write(self.run.state(randoms) | {"settings": self.settings})

    def discard_checkpoint(self) -> None:
        """Let a training that has no row yet be begun anew: its settings are not what they should be."""
        if self.writes and not self.run.history:
            self.states.remove()

    def save_best(self, selections: list[str]) -> None:
        """Keep the weights of now as the best by these selections."""
        for selection in selections:
            if self.folder is None:
                self.run.best_weights[selection] = self.run.weights()
            elif self.writes:
                self._write_best(selection)

    def _write_best(self, selection: str) -> None:
        run = self.run
        content = {
            "model": run.weights(),
            "epoch": run.best_epochs[selection],
            "name": type(run.model).__name__,
            selection.removeprefix("best_"): run.best[selection.removeprefix("best_")],
        }
        save_tensors(content, self._best_path(selection))

    def _best_path(self, selection: str) -> Path:
        return self.models / selection / "model_best.pth.tar"

    def best(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Give the best states by selection."""
        if self.folder is None:
            return dict(self.run.best_weights)
        return BestStates({selection: self._best_path(selection) for selection in self.run.best_epochs})

    def close(self) -> None:
        """Close the logs."""
        if self.events is not None:
            self.events.close()
