"""Part-level predictions of the best epochs: read from files that training wrote, or computed with the best weights."""

from collections.abc import Mapping
from typing import TypeVar

import pandas as pd
from torch import nn as torch_nn

from neurocnn import data, engine
from neurocnn.engine.batch import Network
from neurocnn.experiment.recipe import Recipe

#: part_id of the part that a network is for; None for a single network for all parts.
P = TypeVar("P", int, None)


def best_predictions(
    selection: str,
    models: Mapping[P, torch_nn.Module],
    trainings: Mapping[Network, engine.Training],
    sets: Mapping[str, data.CapsDataset],
    recipe: Recipe,
) -> dict[str, dict[P, pd.DataFrame]]:
    """Return the predictions by data set and network. All ranks must call this function; rank 0 gets all tables.

    If a network draws random numbers in evaluation mode, predictions that were written during training use the seed of
    the trainer, and all other predictions use the seed 0.

    Parameters
    ----------
    selection
        Selection of the best epoch.
    models
        Networks. Those whose predictions were not written during training get their best weights and are evaluated.
    trainings
        Result of `Trainer.fit` for each network.
    sets, recipe
        Data sets by name, and settings of the experiment.
    """
    found: dict[str, dict[P, pd.DataFrame]] = {}
    for name, dataset in sets.items():
        kept = {part: trainings[part].predictions.get(selection, {}).get(name) for part in models}
        found[name] = {part: table for part, table in kept.items() if table is not None}
        # All ranks use the list of rank 0, because files may change between the checks of two ranks.
        missing = [part for part in models if part not in found[name]]
        missing = engine.find_ranks().gather(missing, "to share which predictions were kept")[0]
        if missing:
            for part in missing:
                models[part].load_state_dict(trainings[part].best[selection])
            found[name] |= _evaluate({part: models[part] for part in missing}, dataset, recipe)
    return found


def _evaluate(
    models: Mapping[P, torch_nn.Module], dataset: data.CapsDataset, recipe: Recipe
) -> dict[P, pd.DataFrame]:
    names = ("batch_size", "n_workers", "device", "precision")
    how = {name: getattr(recipe.trainer, name) for name in names}
    single = [model for part, model in models.items() if part is None]
    given = single[0] if single else models
    table = engine.evaluate(given, recipe.task, dataset, **how)  # type: ignore[arg-type]
    return {part: table if part is None else table[table["part_id"] == part] for part in models}
