"""Processes (ranks) of a job that ``torchrun`` started, and their communication.

Each rank runs the same script. A barrier precedes every exchange, so that an error can name a missing rank.
"""

import atexit
import importlib
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from neurocnn.errors import TrainingError

#: Process group (gloo) for control messages, and its timeout. Gradients may use another backend.
_control: dict[str, Any] = {}


@dataclass(frozen=True)
class Ranks:
    """Rank of this process in a job of several processes. A single process is rank 0 of 1.

    Attributes
    ----------
    rank, world
        Rank of this process, and number of processes.
    local
        Rank of this process on its machine, which selects the GPU.
    seconds
        Seconds that ranks wait for a rank that does not respond.
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
            If a rank has died or hangs. The message on rank 0 contains its number.
        """
        if self.world == 1:
            return
        try:
            dist.monitored_barrier(
                _control["group"], timeout=timedelta(seconds=self.seconds), wait_all_ranks=True
            )
        except RuntimeError as error:
            found = re.search(r"Ranks? ([\d, ]+) failed", str(error))
            missing = found[1].strip() if found else ", ".join(map(str, self._closed_ranks()))
            who = f"rank {missing}" if missing else f"all ranks ({error})"
            raise TrainingError(
                f"rank {self.rank} of {self.world}: no answer from {who} within {self.seconds:g} s ({where}); a rank "
                "has died or hangs; see the output of that rank"
            ) from error

    def _closed_ranks(self) -> list[int]:
        """Return the ranks whose connection to rank 0 is closed; an empty list on other ranks.

        gloo's error does not name a rank that died before the barrier. To find this rank, rank 0 tries to receive from
        each rank: receiving from a dead rank fails.
        """
        closed: list[int] = []
        for rank in range(1, self.world if self.rank == 0 else 1):
            try:
                dist.irecv(torch.zeros(1), rank, group=_control["group"])
            except RuntimeError:
                closed.append(rank)
        return closed

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Return the element-wise maximum over all ranks."""
        if self.world == 1:
            return list(numbers)
        self.barrier("to reduce control values")
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=_control["group"])
        return [int(value) for value in values]

    def gather(self, value: Any, where: str) -> list[Any]:
        """Return the values of all ranks, in the order of the ranks."""
        if self.world == 1:
            return [value]
        self.barrier(where)
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=_control["group"])
        return values


def find_ranks(seconds: float | None = None) -> Ranks:
    """Return the rank of this process. If ``torchrun`` started the process, join its job first.

    Any launcher that sets the same environment variables works. Joining creates torch's default process group (if there
    is none), which is destroyed when the process ends.

    Parameters
    ----------
    seconds
        Seconds that ranks wait for each other. With None, the value of the earlier call is kept; the first call uses
        1800.

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
        local = int(os.environ.get("LOCAL_RANK", "0"))
        # gloo serves the ranks of device="cpu" on a machine with GPUs. There may be more of them than GPUs.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        # These functions have the default group as default argument. If they are imported later, by
        # DistributedDataParallel, they keep the group, so that its threads are not ended by `_destroy_group`.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group(backend, timeout=wait)
        atexit.register(_destroy_group)
    if "group" not in _control:
        gloo = dist.get_backend() == "gloo"
        _control["group"] = dist.group.WORLD if gloo else dist.new_group(backend="gloo", timeout=wait)
        # The group is released before Python ends, because a thread of the group that waits for the interpreter lock at
        # exit aborts the process.
        atexit.register(_control.pop, "group", None)
    rank = dist.get_rank()
    return Ranks(rank, dist.get_world_size(), int(os.environ.get("LOCAL_RANK", str(rank))), seconds)


def _destroy_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
