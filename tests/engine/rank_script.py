"""What `test_ranks.py` runs under torchrun; each rank leaves what it found in a file."""

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
    # 9 and 7: the last batch of an epoch has one sample, for rank 0; the turns of an evaluation are uneven.
    return Toys(9, PARTS), Toys(7, PARTS, prefix="val", seed=3)


def main(folder):
    train, validation = sets()
    trainer = Trainer(**SETTINGS)
    rank = os.environ.get("RANK", "0")
    # Each rank comes with other weights: rank 0's count.
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
