"""Requirements of training: updates, memory and disk space."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
from torch import nn

from neurocnn.engine.ranks import find_ranks
from neurocnn.engine.settings import TrainingSettings
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import find, is_file
from neurocnn.storage.memory import peak_memory, size_text


@dataclass(frozen=True)
class Requirements:
    """Upper limits of the updates, memory and disk space that training requires.

    Parameters
    ----------
    updates
        Number of updates of all networks.
    memory
        Bytes of the weights, gradients and two moments of Adam of the networks that are trained at the same time,
        without images and activations.
    disk
        Bytes of the best models and of the two training states, which are removed when a split is finished.

    Examples
    --------
    >>> requirements = Requirements(10, 4_000_000_000, 10**9)
    >>> str(requirements + Requirements(5, 2_000_000_000, 10**9))
    'at most 15 updates, 4.00 GB of memory for weights and optimizers, 2.00 GB of disk'
    """

    updates: int = 0
    memory: int = 0
    disk: int = 0

    def __add__(self, other: "Requirements") -> "Requirements":
        return Requirements(
            self.updates + other.updates, max(self.memory, other.memory), self.disk + other.disk
        )

    def __str__(self) -> str:
        memory = f"{size_text(self.memory)} of memory for weights and optimizers"
        return f"at most {self.updates} updates, {memory}, {size_text(self.disk)} of disk"


def requirements_of(
    trainer: TrainingSettings, models: Iterable[nn.Module], n_updates: int, n_selections: int
) -> Requirements:
    """Return the requirements for training these networks at the same time.

    Parameters
    ----------
    trainer
        Settings.
    models
        Networks.
    n_updates
        Number of updates per epoch.
    n_selections
        Number of best models that are written for each network.
    """
    sizes = [sum(value.nbytes for value in model.state_dict().values()) for model in models]
    # Each of the two training states contains the weights and the two moments of Adam.
    return Requirements(
        trainer.epochs * n_updates * len(sizes), 4 * sum(sizes), (n_selections + 6) * sum(sizes)
    )


@contextmanager
def log_requirements(
    what: str, requirements: Requirements, folder: Path | None, device: torch.device | None = None
) -> Iterator[None]:
    """On rank 0, log the requirements before the block, and the used time, memory and disk space after the block.

    Parameters
    ----------
    what
        Name of the block in the log.
    requirements
        Requirements of the block.
    folder
        Folder to which the block writes, if any.
    device
        Device on which the block computes.
    """
    started, shown = monotonic(), find_ranks().rank == 0
    if shown:
        LOGGER.info(
            "%s takes %s%s", what, requirements, "" if folder is None else f"; {_free_space_text(folder)}"
        )
    yield
    if shown:
        size = "" if folder is None else f"; {folder} has {size_text(_folder_size(folder))}"
        memory = f"{size_text(peak_memory(device))} of memory at its peak"
        LOGGER.info("%s has taken %.1f s, %s%s", what, monotonic() - started, memory, size)


def _free_space_text(folder: Path) -> str:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return f"{size_text(shutil.disk_usage(existing).free)} of disk are free"


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in find(folder, "**/*") if is_file(path))
