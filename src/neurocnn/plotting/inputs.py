"""Tables and images of a result folder, in the form that the figures require."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neurocnn import data, storage
from neurocnn.errors import NeurocnnError, SettingError
from neurocnn.errors.arguments import argument_error, check_instance
from neurocnn.errors.logger import LOGGER
from neurocnn.results.ensembles import ENSEMBLE, final_predictions
from neurocnn.results.scoring import first_image
from neurocnn.results.tables import ResultTables


def image_predictions(predictions: Any, dataset: str) -> Any:
    """If `predictions` are `Results`, return their predictions, one row per image; else return the value unchanged."""
    return (
        final_predictions(predictions._folder, None, dataset)
        if isinstance(predictions, ResultTables)
        else predictions
    )


def splits(predictions: Any, dataset: str) -> Any:
    """If `predictions` are `Results`, return the predictions of each split; else return the value unchanged."""
    if not isinstance(predictions, ResultTables):
        return predictions
    found = predictions.predictions(dataset=dataset)
    return found[found["split"] != ENSEMBLE]


def class_names(predictions: Any, classes: Sequence[str] | None, where: str) -> Sequence[str]:
    """Return the names of the classes: `classes` or, if it is None, the classes of the results."""
    if classes is not None:
        return classes
    if not isinstance(predictions, ResultTables):
        expected = "the names of the classes in the order of their indices"
        raise argument_error("classes", classes, expected, where=where)
    found = predictions._folder.task.classes
    if found is None:
        raise argument_error("predictions", predictions, "the Results of a classification", where=where)
    return found


def values(predictions: Any, dataset: str, where: str) -> pd.DataFrame:
    """Return a table of the true and predicted values of a regression, one row per image."""
    if isinstance(predictions, ResultTables) and predictions._folder.task.classes is not None:
        raise argument_error("results", predictions, "the Results of a regression", where=where)
    table = image_predictions(predictions, dataset)
    table = check_instance(
        "predictions", table, pd.DataFrame, "nc.Results, or a table of predictions", where=where
    )
    storage.identity.check_columns(table, ["true_label", "predicted_label"], where)
    if not len(table) or table[["true_label", "predicted_label"]].isna().any(axis=None):
        raise SettingError(f"{where}: labels are missing; expected a true and a predicted number in each row")
    return table


def first_dataset(results: ResultTables, caps: data.ImageSet | None) -> data.CapsDataset:
    """Return the first validation image of the first split as a dataset. `caps` is the images' current location."""
    check_instance("results", results, ResultTables, "an nc.Results", where="plotting")
    fold = results._folder.check_done()[0]
    sessions = storage.read_table(fold.sessions("validation")).head(1)
    caps = results.setting("caps") if caps is None else data.check_image_set("caps", caps)
    own = results._experiment.of_fold(fold.index)
    return data.CapsDataset(caps, sessions, own.parts, transform=own.setting("transform"))


def template(results: ResultTables) -> Any:
    """Return the first validation image of the first split, (D, H, W), or None if it cannot be read."""
    try:
        dataset = first_dataset(results, None)
        return dataset.caps.read(*first_image(dataset))[0]
    except NeurocnnError as error:
        LOGGER.info("no image is drawn below the map: %s", error)
        return None
