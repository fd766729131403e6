"""Vote of a result folder (`vote.json`): threshold and weights of the parts, temperatures and operating points."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from neurocnn import ensemble
from neurocnn.engine.metrics import probability_columns
from neurocnn.ensemble.weights import Weights, check_weights
from neurocnn.errors import SettingError
from neurocnn.errors.arguments import argument_error, check_instance, check_number
from neurocnn.errors.logger import LOGGER
from neurocnn.results.folder import ResultFolder
from neurocnn.results.paths import Fold
from neurocnn.results.settings import content_errors
from neurocnn.storage.files import is_file, storage_errors, write_atomically

#: Column of the temperature in calibrated tables.
TEMPERATURE = "temperature"


@dataclass(frozen=True, eq=False)
class FoldVote:
    """Weights and temperature that turn the part-level predictions of a fold into image-level predictions.

    Parameters
    ----------
    weights
        Weight of each part (a part with weight 0 does not vote); None for equal weights, or if images have one part.
    temperature
        Divisor of the logits of an image; 1 without calibration.
    """

    weights: "pd.Series[float] | None" = None
    temperature: float = 1.0

    @property
    def is_empty(self) -> bool:
        """Whether no part votes."""
        return self.weights is not None and not self.weights.any()


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds of the probability of the second class, chosen on the validation sets.

    Parameters
    ----------
    rule
        See `Results.operating_point`.
    thresholds
        Threshold of each split, for probabilities at temperature 1.
    """

    rule: str | Mapping[str, float]
    thresholds: Mapping[int, float]


@dataclass(frozen=True)
class Vote:
    """Settings with which a result folder combines the predictions for the parts of an image into one prediction.

    Parameters
    ----------
    selection_threshold
        Lower limit (exclusive) of the validation balanced accuracy of the parts that vote; None for all parts.
    weights
        None for validation balanced accuracies, ``"uniform"`` for equal weights, or weights by part_id.
    temperatures
        Temperatures by selection and split.
    operating_points
        Operating points by selection.

    Examples
    --------
    >>> Vote(0.6, "uniform").to_json()["weights"]
    'uniform'
    """

    selection_threshold: float | None = None
    weights: Literal["uniform"] | Mapping[int, float] | None = None
    temperatures: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)

    def of_fold(self, folder: ResultFolder, fold: Fold, selection: str, validation: pd.DataFrame) -> FoldVote:
        """Return the weights and temperature of a fold, from its part-level predictions of the validation set."""
        temperature = self.temperatures.get(selection, {}).get(fold.index, 1.0)
        fold_vote = FoldVote(self._weights(validation) if folder.has_part_accuracy else None, temperature)
        if fold_vote.is_empty:
            LOGGER.warning(
                "%s, %s: no part exceeds selection_threshold=%s, so that images have no predictions; choose another "
                "threshold with results.vote(…)",
                fold.path,
                selection,
                self.selection_threshold,
            )
        return fold_vote

    def _weights(self, validation: pd.DataFrame) -> "pd.Series[float]":
        accuracies, limit = ensemble.part_balanced_accuracy(validation), self.selection_threshold
        above = accuracies > (-1 if limit is None else limit)
        if self.weights is None and above.any():
            return ensemble.part_weights(validation, limit)
        given = pd.Series(1.0 if self.weights == "uniform" else self.weights, accuracies.index, dtype=float)
        weights = given.fillna(0.0).where(above, 0.0)
        return (weights / (weights.sum() or 1.0)).rename("weight")

    def to_json(self) -> dict[str, Any]:
        """Return the content of `vote.json`."""
        return dataclasses.asdict(self)


def vote_path(folder: ResultFolder) -> Path:
    """Return the path of `vote.json`."""
    return folder.root / "vote.json"


def write_vote(folder: ResultFolder, vote: Vote) -> None:
    """Write `vote.json` atomically."""
    with write_atomically(vote_path(folder), "w") as file:
        json.dump(vote.to_json(), file, indent=2)
        file.write("\n")


def read_vote(folder: ResultFolder, selection_threshold: float | None) -> Vote:
    """Return the recorded vote or, without `vote.json`, a vote with the experiment's `selection_threshold`.

    Raises
    ------
    SettingError
        If the content of `vote.json` is malformed.
    """
    path = vote_path(folder)
    if not is_file(path):
        return Vote(selection_threshold)
    try:
        with storage_errors(path, "read"):
            saved = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise SettingError(f"{path}: {error}; expected JSON; restore the file from a copy") from error
    with content_errors(path):
        check_instance("vote", saved, dict, "values by name")
        weights = saved["weights"]
        return Vote(
            check_threshold(saved["selection_threshold"]),
            weights if weights in (None, "uniform") else _check_numbers_by_index("weights", weights),
            {
                name: _check_numbers_by_index(TEMPERATURE, found)
                for name, found in saved["temperatures"].items()
            },
            {
                name: OperatingPoint(
                    found["rule"], _check_numbers_by_index("thresholds", found["thresholds"])
                )
                for name, found in saved["operating_points"].items()
            },
        )


def _check_numbers_by_index(name: str, values: Any) -> dict[int, float]:
    numbers = check_instance(name, values, dict, "numbers by index").items()
    if not all(str(index).isdecimal() for index, _ in numbers):
        raise argument_error(name, values, "numbers by index")
    return {int(index): check_number(name, value, minimum=0) for index, value in numbers}


def check_threshold(value: object) -> float | None:
    """Return `value` if it is a valid `selection_threshold`, else raise a SettingError."""
    return None if value is None else check_number("selection_threshold", value, minimum=0, maximum=1)


def check_vote_weights(
    weights: Weights | str | None, parts: list[int]
) -> Literal["uniform"] | dict[int, float] | None:
    """Return the weights of `Results.vote` if they are valid, else raise a SettingError.

    Examples
    --------
    >>> check_vote_weights({1: 2.0}, [0, 1])
    {1: 2.0}
    >>> check_vote_weights({7: 1.0}, [0, 1])
    Traceback (most recent call last):
    neurocnn.errors.SettingError: vote: weights=[7]; expected the part_ids [0, 1]
    """
    if weights is None or (isinstance(weights, str) and weights == "uniform"):
        return weights  # type: ignore[return-value]
    if not isinstance(weights, pd.Series | Mapping):
        raise argument_error(
            "weights", weights, "None, 'uniform', or a Series or dict by part_id", where="vote"
        )
    found = {int(part): float(weight) for part, weight in check_weights(weights).items()}  # type: ignore[call-overload]
    if not any(found.values()):
        raise argument_error("weights", found, "at least one weight above 0", where="vote")
    if not set(found) <= set(parts):
        raise argument_error(
            "weights", sorted(set(found) - set(parts)), f"the part_ids {parts}", where="vote"
        )
    return found


def set_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Return a table with the probabilities p_c ∝ q_c^(1 / T) at temperature T; q_c are the uncalibrated probabilities.

    A temperature other than 1 is recorded in the column ``temperature``. From this column the function computes the
    uncalibrated probabilities, so that it can be applied to its own result. The predicted classes do not change.

    Examples
    --------
    >>> table = pd.DataFrame({"proba0": [0.9], "proba1": [0.1]})
    >>> flat = set_temperature(table, 2.0)
    >>> flat.round(3).to_dict("records")
    [{'proba0': 0.75, 'proba1': 0.25, 'temperature': 2.0}]
    >>> set_temperature(flat, 1.0).round(3).to_dict("records")
    [{'proba0': 0.9, 'proba1': 0.1}]
    """
    columns = probability_columns(table)
    present = float(table[TEMPERATURE].iloc[0]) if TEMPERATURE in table else 1.0
    table = table.drop(columns=TEMPERATURE, errors="ignore")
    if not columns or (present == temperature == 1.0):
        return table
    logits = np.log(np.maximum(table[columns].to_numpy(dtype=float), 1e-300)) * (present / temperature)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = table.assign(**dict(zip(columns, (powers / powers.sum(axis=1, keepdims=True)).T, strict=True)))
    return found if temperature == 1.0 else found.assign(**{TEMPERATURE: temperature})
