"""A search with a sampler and a pruner of Optuna: trials per split, pruned trials, and restarts."""

import functools
import json
from pathlib import Path

import pandas as pd
import pytest
from studies import TRAINER, Study, experiment, people, tables

import neurocnn as nc
from neurocnn.errors import SettingError

optuna = pytest.importorskip("optuna", reason="Optuna, whose samplers and pruners are used")
N_TRIALS = 4
#: Optuna marks these as experimental, and reports values that are not finite.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def searched(study: Study, folder: Path, **settings) -> nc.Results:
    from scipy.stats import loguniform

    space = {"learning_rate": loguniform(1e-5, 1e-1), "dropout": [0.0, 0.5]}
    base = experiment(study, parts="image", trainer=nc.Trainer(epochs=3, batch_size=4, patience=0))
    sampler = functools.partial(optuna.samplers.TPESampler, n_startup_trials=2)
    chosen = {
        "sampler": sampler,
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        "by": "loss",
        "inner": 0.3,
        "verbose": False,
    }
    return nc.search(base, space, N_TRIALS, folder, **chosen | settings)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("optuna")
    searched(study, root)
    return root


def trial(index: int, number: int) -> str:
    return f"trial-{number * 2 + index}/fold-{index}"


def test_each_split_has_its_own_trials_of_which_some_are_pruned(study: Study, folder: Path):
    names = {path.relative_to(folder).as_posix() for path in folder.glob("trial-*/fold-*")}
    assert names == {trial(index, number) for index in (0, 1) for number in range(N_TRIALS)}
    pruned = [*folder.glob("trial-*/fold-*/pruned.json")]
    assert 0 < len(pruned) < 2 * N_TRIALS - 2
    for path in pruned:
        epoch = json.loads(path.read_text())["epoch"]
        losses = nc.read_table(path.with_name("training.tsv"), required=())["validation_loss"]
        assert len(losses) == epoch + 1
        # Rule of the median pruner: the best loss so far exceeds the median of the finished trials in this epoch.
        index, number = int(path.parent.name[-1]), int(path.parts[-3].removeprefix("trial-")) // 2
        folds = [folder / trial(index, earlier) for earlier in range(number)]
        finished = [fold / "training.tsv" for fold in folds if not (fold / "pruned.json").exists()]
        others = [nc.read_table(table, required=())["validation_loss"][epoch] for table in finished]
        assert losses.min() > pd.Series(others).median()
    board = nc.leaderboard(folder).set_index("folder")
    assert {"trainer.learning_rate", "splits"} <= set(board)
    assert all(board.loc[str(path.parents[1]), "splits"] == 0 for path in pruned)


def test_no_trial_sees_the_validation_set_and_the_best_trial_wins(study: Study, folder: Path):
    for split in study.splits:
        train = set(split.train["participant_id"])
        losses = {}
        for number in range(N_TRIALS):
            fold = folder / trial(split.index, number)
            assert people(fold / "train.tsv", fold / "validation.tsv") == train
            table = fold / "cnn_classification/best_balanced_accuracy/validation_image_level_metrics.tsv"
            if table.exists():
                losses[number] = pd.read_csv(table, sep="\t")["loss"][0]
        best = folder / f"best/fold-{split.index}"
        winner = json.loads((best / "winner.json").read_text())
        assert winner["trial"] == min(losses, key=losses.get)
        assert people(best / "train.tsv") == train
        settings = json.loads(
            (folder / trial(split.index, winner["trial"])).with_name("commandline.json").read_text()
        )
        assert winner["trainer"] == settings["trainer"]
        assert winner["options"] == settings["options"]


@pytest.mark.cpu
@pytest.mark.parametrize("stop_at", [*(pytest.param(n, marks=pytest.mark.on_demand) for n in (2, 8)), 5])
def test_a_stopped_search_equals_one_without_a_stop(study: Study, folder: Path, tmp_path: Path, stop_at: int):
    n_calls = 0

    def stop(state: nc.TrainingState) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == stop_at:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        searched(study, tmp_path, splits=[1], callbacks=[stop])
    searched(study, tmp_path, splits=[1])
    searched(study, tmp_path, splits=[0])
    assert tables(tmp_path) == tables(folder)
    for path in folder.rglob("*.json"):
        if path.name in ("pruned.json", "winner.json"):
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_sampler_with_a_seed_suggests_the_same_values_again(study: Study, tmp_path: Path):
    base, space = experiment(study, parts="image"), {"dropout": [0.0, 0.2, 0.5]}
    sampler = optuna.samplers.TPESampler(seed=3)

    def refuse(state: nc.TrainingState) -> None:
        raise AssertionError("a finished trial is trained again")

    for callbacks in ([], [refuse]):
        nc.search(base, space, 2, tmp_path, splits=[0], sampler=sampler, callbacks=callbacks, verbose=False)
    assert {path.name for path in tmp_path.iterdir()} == {"trial-0", "trial-2", "best"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "tpe"}, "sampler='tpe'; expected a sampler of Optuna"),
        ({"pruner": 3}, "pruner=3; expected a pruner of Optuna"),
        ({"sampler": lambda seed: seed}, "expected a sampler of Optuna"),
    ],
)
def test_other_objects_are_refused(study: Study, tmp_path: Path, settings: dict, message: str):
    with pytest.raises(SettingError, match=message):
        nc.search(experiment(study, parts="image"), {"dropout": [0.0]}, 1, tmp_path / "search", **settings)
    assert not (tmp_path / "search").exists()


def test_a_pruner_needs_a_single_network(study: Study, tmp_path: Path):
    base = experiment(study, parts="roi", multi=True, trainer=TRAINER)
    with pytest.raises(
        SettingError, match=r"pruner=.*; expected None, because each part has its own network"
    ):
        nc.search(base, {"dropout": [0.0]}, 1, tmp_path, pruner=optuna.pruners.MedianPruner())
