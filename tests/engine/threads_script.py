"""Script of `test_loading_exits.py`: a run with loading threads, which may end early."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from small_caps import rows, small_caps
from torch import nn

from neurocnn.data import Caps, CapsDataset, Patch
from neurocnn.engine import Trainer, classification, loading, predict
from neurocnn.engine.loading import Loading
from neurocnn.engine.sampling import BatchSampler

TASK = classification("diagnosis", ["CN", "AD"])


class Slow(CapsDataset):
    """Dataset whose samples are read so slowly that the training must wait."""

    def fill(self, index, out):
        time.sleep(0.01)
        return super().fill(index, out)


class Interrupted(CapsDataset):
    """Dataset that interrupts the process once, while the first batch is awaited."""

    first = threading.Lock()

    def fill(self, index, out):
        if self.first.acquire(blocking=False):
            time.sleep(0.5)
            interrupt()
        time.sleep(0.5)
        return super().fill(index, out)


def interrupt(state=None):
    os.kill(os.getpid(), signal.SIGINT)


def fail(state):
    raise ValueError("in a callback")


def leave(state):
    sys.exit(3)


def main(folder: Path, ending: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    loading._SMALL_SAMPLE = 1
    data = CapsDataset(Caps(small_caps(folder / f"caps-{rank}")), rows(), Patch(3, 2), label="diagnosis")
    if ending != "completed":
        data.__class__ = Slow
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2))
    if ending == "signal while a batch is awaited":
        data.__class__ = Interrupted
        predict(model, TASK, data, batch_size=4, n_workers=2, device="cpu")
    if ending == "abandoned":
        workers = Loading(2, torch.device("cpu"))
        workers.expect([(data, BatchSampler(range(len(data)), 4, epoch=1))])
        batches = iter(workers.loader(data, BatchSampler(range(len(data)), 4), seed=0))
        next(batches)
        sys.exit(3)
    endings = {"exception": fail, "signal": interrupt, "exit": leave, "a rank fails": fail if rank else None}
    wanted = endings.get(ending)
    trainer = Trainer(
        epochs=2,
        batch_size=4,
        n_workers=int(os.environ.get("N_WORKERS", "2")),
        evaluation_steps=0 if ending == "completed" else 2,
        device="cpu",
        learning_rate=0.01,
    )
    callbacks = [] if wanted is None else [wanted]
    training = trainer.fit(model, TASK, data, callbacks=callbacks, folder=folder / "training")
    history = training.history.drop(columns="time").to_dict("list")
    torch.save({"state": model.state_dict(), "history": history}, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A shell starts commands in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]), sys.argv[2])
