"""The callback of the how-to page on MLflow logs each evaluation."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from toys import Toys, network

from neurocnn.engine import Trainer, classification

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "log-elsewhere.md"


class FakeMlflow(ModuleType):
    """Replacement of MLflow that records the calls."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.params, self.metrics = [], [], []

    def start_run(self, run_id=None):
        self.runs.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-1"))

    def log_params(self, params):
        self.params.append(params)

    def log_metrics(self, metrics, step):
        self.metrics.append((step, metrics))


def test_the_callback_logs_each_evaluation_once_and_continues_its_run(monkeypatch, tmp_path):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(code.splitlines()) < 40
    names = {}
    exec(code, names)
    task = classification("diagnosis", ["CN", "AD"])
    for epochs in (2, 3):
        trainer = Trainer(epochs=epochs, patience=0, device="cpu")
        log = names["LogToMlflow"](tmp_path, trainer)
        training = trainer.fit(network(), task, Toys(8), folder=tmp_path, callbacks=[log])
    assert fake.runs == [None, "run-1"]
    assert len(fake.params) == 1
    assert [step for step, _ in fake.metrics] == training.history.iteration.tolist()
    assert [metrics["train_loss"] for _, metrics in fake.metrics] == training.history.train_loss.tolist()


def test_each_split_and_network_has_its_own_run(monkeypatch):
    logged = {}
    fake = ModuleType("wandb")
    fake.init = lambda id, **settings: SimpleNamespace(
        log=lambda row, step: logged.setdefault(id, []).append((step, row))
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[2]
    names = {}
    exec(code, names)
    log = names["LogToWandb"]("study")
    for split in (0, 1):
        for part in (None, 3):
            for step in (4, 8):
                log(SimpleNamespace(split=split, part_id=part, metrics={"loss": step / 10}, iteration=step))
    assert logged == {
        f"study-split-{split}-network-{part}": [(4, {"loss": 0.4}), (8, {"loss": 0.8})]
        for split in (0, 1)
        for part in (None, 3)
    }
