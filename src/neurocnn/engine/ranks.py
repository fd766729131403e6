"""The processes that ``torchrun`` started, and what they say to each other.

Each rank runs the same script. Ranks meet before they exchange anything; one that does not come is named.
"""

import atexit
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from neurocnn.errors import TrainingError

#: The gloo group that control messages go through, whatever the gradients use.
_control: dict[str, Any] = {}


@dataclass(frozen=True)
class Ranks:
    """One process among those of its job; alone it is rank 0 of 1.

    Attributes
    ----------
    rank, world
        The number of this process and how many there are.
    local
        Its number on its machine, which chooses the GPU.
    seconds
        How long the others wait for one that does not answer.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    seconds: float = 1800

    def barrier(self, where: str) -> None:
        """Wait for all ranks.

        Raises
        ------
        TrainingError
            A rank has died or hangs; the message of rank 0 names it.
        """
        if self.world == 1:
            return
        try:
            dist.monitored_barrier(
                _control["group"], timeout=timedelta(seconds=self.seconds), wait_all_ranks=True
            )
        except RuntimeError as error:
            found = re.search(r"Ranks? ([\d, ]+) failed", str(error))
            who = f"rank {found[1].strip()} did not come" if found else f"not all came ({error})"
            raise TrainingError(
                f"rank {self.rank} of {self.world} waited at most {self.seconds:g} s {where}, and {who}: it has died "
                "or hangs; see its own output"
            ) from error

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Give every rank the greatest of each number that any of them has."""
        if self.world == 1:
            return list(numbers)
        self.barrier("to agree on what comes next")
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=_control["group"])
        return [int(value) for value in values]

    def gather(self, value: Any, where: str) -> list[Any]:
        """Give every rank the values of all, in their order."""
        if self.world == 1:
            return [value]
        self.barrier(where)
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=_control["group"])
        return values


def find_ranks(seconds: float | None = None) -> Ranks:
    """Join the job that ``torchrun`` (or a launcher that sets the same variables) started, if there is one.

    Parameters
    ----------
    seconds
        How long ranks wait for each other; None: as was said before, or half an hour.

    Examples
    --------
    >>> find_ranks().world
    1
    """
    seconds = _control["seconds"] = seconds or _control.get("seconds", 1800)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if not dist.is_available() or (world == 1 and not dist.is_initialized()):
        return Ranks(seconds=seconds)
    wait = timedelta(seconds=seconds)
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(backend, timeout=wait)
        atexit.register(_leave)
    if "group" not in _control:
        gloo = dist.get_backend() == "gloo"
        _control["group"] = dist.group.WORLD if gloo else dist.new_group(backend="gloo", timeout=wait)
    rank = dist.get_rank()
    return Ranks(rank, dist.get_world_size(), int(os.environ.get("LOCAL_RANK", str(rank))), seconds)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
