"""Small synthetic studies and experiments that several test files share."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

import neurocnn as nc

SHAPE = (18, 20, 18)
TRAINER = nc.Trainer(epochs=1, batch_size=4, learning_rate=1e-3)
PARTS = {
    "image": nc.WholeImage(),
    "patch": nc.Patch(size=9, stride=9),
    "roi": nc.Roi({"right": ((9, 17), (6, 14), (5, 13)), "left": ((1, 9), (6, 14), (5, 13))}),
    "slice": nc.Slice(direction=2, discarded_slices=7),
}
TASKS = {
    "classification": nc.classification("diagnosis", classes=["CN", "AD"]),
    "regression": nc.regression("age"),
    "reconstruction": nc.reconstruction(),
}


class Study(NamedTuple):
    """A CAPS with its labels and two splits. Tests must not change its files."""

    caps: nc.Caps
    labels: pd.DataFrame
    splits: list[nc.Split]


def experiment(study: Study, parts="roi", task="classification", **settings) -> nc.Experiment:
    """Return an experiment of one epoch with the network of the lab."""
    settings = {"trainer": TRAINER, "architecture": "Conv3_FC1"} | settings
    return nc.Experiment(study.caps, study.splits, PARTS[parts], TASKS[task], **settings)


def predicted(study: Study, folder: Path, parts: str, labels: pd.DataFrame | None = None) -> pd.DataFrame:
    """Train on two splits of 60 % of the participants, predict the rest as ``test``, and return the rest."""
    labels = study.labels if labels is None else labels
    rest, test = nc.holdout(labels, fraction=0.4, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"], seed=0)
    trainer = nc.Trainer(epochs=2, batch_size=4, learning_rate=3e-3)
    run = nc.Experiment(study.caps, splits, PARTS[parts], TASKS["classification"], "Conv3_FC1", trainer)
    run.run(folder).predict(study.caps, test, name="test")
    return test


def tables(root: Path) -> dict[str, str]:
    """Return every table below a folder as text, without the column `time`."""
    return {
        str(path.relative_to(root)): pd.read_csv(path, sep="\t", dtype=str)
        .drop(columns="time", errors="ignore")
        .to_csv()
        for path in sorted(root.rglob("*.tsv"))
    }


def people(*paths: Path) -> set[str]:
    """Return the participants in tables."""
    return {name for path in paths for name in nc.read_table(path)["participant_id"]}
