"""Script that `test_ranks.py` runs under torchrun. Each rank writes its results to a file."""

import atexit
import os
import sys
from pathlib import Path

import torch
from toys import Toys, network

from neurocnn.engine import Trainer, classification, evaluate

TASK = classification("diagnosis", ["CN", "AD"])
PARTS = (0, 3)
SETTINGS = {
    "epochs": 3,
    "batch_size": 4,
    "accumulation_steps": 2,
    "learning_rate": 0.01,
    "device": "cpu",
    "patience": 0,
}


def sets():
    # With 9 training samples, the last batch of an epoch has a single sample, which rank 0 receives. With 7 validation
    # samples, the ranks evaluate different numbers of batches.
    return Toys(9, PARTS), Toys(7, PARTS, prefix="val", seed=3)


def main(folder):
    train, validation = sets()
    trainer = Trainer(**SETTINGS)
    rank = os.environ.get("RANK", "0")
    # The initial weights of the ranks differ; the training starts from the weights of rank 0.
    plain = network(seed=int(rank), norm=False)
    single = trainer.fit(plain, TASK, train, validation, folder=folder / "single")
    multi = {part: network(seed=part, norm=False) for part in PARTS}
    trainings = trainer.fit(multi, TASK, train, validation, folder=folder / "multi")
    normed = network(dropout=0.5)
    trainer.fit(normed, TASK, train, folder=folder / "normed")
    histories = [single.history, *(training.history for training in trainings.values())]
    found = {
        "single": plain.state_dict(),
        "multi": {part: model.state_dict() for part, model in multi.items()},
        "normed": normed.state_dict(),
        "histories": [history.drop(columns="time").to_dict("list") for history in histories],
        "table": evaluate(network(), TASK, validation, batch_size=3, device="cpu").to_dict("list"),
    }
    torch.save(found, folder / f"rank-{rank}.pt")


def write_threads(path):
    tasks = Path("/proc/self/task").glob("*/comm")
    path.write_text("".join(task.read_text() for task in tasks))


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Functions that are registered first are called last, after those of the package.
    atexit.register(write_threads, Path(sys.argv[1]) / f"threads-{os.environ['RANK']}.txt")
    main(Path(sys.argv[1]))
