import copy
import logging
import os
import re
import sys
import tempfile
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import Toys, network

from neurocnn.engine import Trainer, classification, clock, network_files, run, runtime
from neurocnn.engine.loggers import show_progress, shows_bars, write_history
from neurocnn.engine.requirements import Requirements, requirements_of

TASK = classification("diagnosis", ["CN", "AD"])
SETTINGS = {"device": "cpu", "batch_size": 4, "patience": 0}


def fit(folder=None, epochs=3, **more):
    trainer = Trainer(epochs=epochs, **{**SETTINGS, **more})
    return trainer.fit(network(), TASK, Toys(8), Toys(4, prefix="val"), folder=folder)


def epoch_lines(caplog) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith("epoch ")]


def test_the_written_table_equals_the_history(tmp_path):
    history = fit(tmp_path, evaluation_steps=1).history
    # Numbers are compared as text, because numbers that pandas parses may differ in the last digit.
    written = pd.read_csv(tmp_path / "training.tsv", sep="\t", dtype=str).astype(history.dtypes.to_dict())
    pd.testing.assert_frame_equal(written, history, check_exact=True)
    assert history.epoch.tolist() == [0, 0, 1, 1, 2, 2]
    assert history.time.is_monotonic_increasing


def test_missing_metrics_are_written_as_n_a(tmp_path):
    write_history([{"epoch": 0, "train_roc_auc": float("nan")}], tmp_path / "training.tsv")
    assert (tmp_path / "training.tsv").read_text() == "epoch\ttrain_roc_auc\n0\tn/a\n"


@pytest.mark.parametrize("stops", [[3], [1, 2, 3]])
def test_tensorboard_has_each_evaluation_once(tmp_path, stops):
    for epochs in stops:
        history = fit(tmp_path, epochs, evaluation_steps=1).history
    for name in ("train", "validation"):
        folder = tmp_path / "tensorboard_logs" / name
        assert len(list(folder.iterdir())) == 1
        log = EventAccumulator(str(folder))
        log.Reload()
        metrics = [column for column in history if column.startswith(f"{name}_")]
        assert sorted(log.Tags()["tensors"] or log.Tags()["scalars"]) == sorted(
            column.removeprefix(f"{name}_") for column in metrics
        )
        for column in metrics:
            events = log.Scalars(column.removeprefix(f"{name}_"))
            assert [event.step for event in events] == history.iteration.tolist()
            assert [event.value for event in events] == pytest.approx(history[column].tolist(), rel=1e-6)


def test_without_a_terminal_there_is_one_line_per_epoch(caplog):
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        history = fit(evaluation_steps=1).history
    lines = epoch_lines(caplog)
    assert len(lines) == 3
    ends = history.groupby("epoch").last()
    assert lines[1].startswith(f"epoch 2/3: loss train {ends.train_loss[1]:.6g}, validation")


def test_the_log_contains_the_time_of_each_activity_in_an_epoch(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def spend(seconds, function):
        def slower(*args, **kwargs):
            now[0] += seconds
            return function(*args, **kwargs)

        return slower

    monkeypatch.setattr(Toys, "__getitem__", spend(1, Toys.__getitem__))
    monkeypatch.setattr(run.Run, "update", spend(100, run.Run.update))
    monkeypatch.setattr(network_files, "write_history", spend(1000, network_files.write_history))
    with caplog.at_level(logging.INFO, logger="neurocnn"), tempfile.TemporaryDirectory() as folder:
        fit(folder, epochs=1)
    [line] = epoch_lines(caplog)
    # An epoch reads 8 samples for 2 updates and 8 + 4 samples for the evaluation, and writes one table.
    assert line.endswith("; waiting for data 8.0 s, computing 200.0 s, evaluating 12.0 s, writing 1000.0 s)")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        networks = {part: network() for part in (0, 1)}
        trainer = Trainer(epochs=1, **SETTINGS)
        trainer.fit(networks, TASK, Toys(8, (0, 1)), callbacks=[spend(10, id)])
    assert epoch_lines(caplog)[-1].endswith("writing 0.0 s, callbacks 20.0 s")


def test_on_a_terminal_a_bar_shows_epochs_updates_and_loss(capsys, monkeypatch, tmp_path):
    fit(tmp_path, epochs=1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(tmp_path)
    shown = capsys.readouterr()
    assert shown.out == "", "the library never prints"
    last = shown.err.split("\r")[-1]
    assert "epoch 3/3" in last
    assert "6/6" in last
    assert "loss=" in last


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are files on POSIX systems only")
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (24, 100)])
def test_a_pseudo_terminal_of_any_size_shows_the_bar(monkeypatch, rows, columns):
    import fcntl
    import struct
    import termios

    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        fit(epochs=1)
    with os.fdopen(reader, "rb", buffering=0) as screen:
        shown = "".join(_read_to_the_end(screen))
    assert "epoch 1/1" in shown
    assert "2/2" in shown


def _read_to_the_end(screen):
    """Read all that was written to a closed pseudo-terminal: a single read may return only its beginning."""
    while True:
        try:
            read = screen.read(10_000)
        except OSError:  # Linux reports the end as an error, other systems as an empty read.
            return
        if not read:
            return
        yield read.decode()


def test_a_callback_receives_the_state_after_each_evaluation():
    seen = []
    training = Trainer(epochs=2, evaluation_steps=1, **SETTINGS).fit(
        network(), TASK, Toys(8), callbacks=[lambda state: seen.append((state, copy.copy(state.history)))]
    )
    assert [state.epoch_ended for state, _ in seen] == [False, True, False, True]
    assert [state.iteration for state, _ in seen] == [1, 2, 3, 4]
    assert [len(history) for _, history in seen] == [1, 2, 3, 4]
    assert seen[-1][0].metrics["train_loss"] == training.history.train_loss.iloc[-1]


def test_without_a_gpu_one_line_is_logged(caplog, monkeypatch):
    runtime._log_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "is_available", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        fit(device="auto", epochs=1)
        fit(device="auto", epochs=1)
    assert sum("no GPU was found" in record.getMessage() for record in caplog.records) == 1


def test_a_line_per_epoch_on_standard_error_has_the_remaining_time(capsys):
    with show_progress(True, "split 1, "):
        history = fit().history
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"split 1, epoch 1/3: loss train {history.train_loss[0]:.6g}, validation")
    assert lines[0].endswith("remaining")
    assert "at most 0:" in lines[0]


def test_hidden_progress_shows_neither_lines_nor_bars(capsys, monkeypatch):
    with show_progress(False):
        fit()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        fit()
    assert capsys.readouterr().err == ""


def test_progress_in_a_notebook_is_a_bar(monkeypatch):
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert shows_bars()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not shows_bars()


@pytest.mark.parametrize("where", ["terminal", "file"])
def test_lines_that_the_logger_shows_on_standard_error_are_not_written_again(capsys, caplog, tmp_path, where):
    stream = logging.StreamHandler(sys.stderr)
    handler = stream if where == "terminal" else logging.FileHandler(tmp_path / "log.txt")
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger="neurocnn"), show_progress(True):
            fit()
    finally:
        root.removeHandler(handler)
        handler.close()
    logged = epoch_lines(caplog)
    assert len(logged) == 3
    assert ", at most 0:" in logged[0]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert lines == logged if where == "terminal" else all("waiting for data" not in line for line in lines)


def test_requirements_are_logged_before_training_after_the_first_epoch_and_at_the_end(caplog, tmp_path):
    model = network()
    with caplog.at_level(logging.INFO, logger="neurocnn"), show_progress(True, "", n_trainings=4):
        Trainer(epochs=3, accumulation_steps=2, **SETTINGS).fit(
            model, TASK, Toys(14), Toys(4, prefix="v"), tmp_path
        )
    lines = [record.getMessage() for record in caplog.records]
    n_bytes = sum(value.nbytes for value in model.state_dict().values())
    # 14 samples in batches of 4, the last of them of 2: 4 batches, 2 updates per epoch.
    assert str(requirements_of(Trainer(epochs=3), [model], 2, 2)) in lines[0]
    assert requirements_of(Trainer(epochs=3), [model], 2, 2) == Requirements(6, 4 * n_bytes, 8 * n_bytes)
    assert re.search(r"the training takes at most 6 updates, .*are free", lines[0])
    (estimate,) = [line for line in lines if line.startswith("an epoch takes")]
    assert lines.index(estimate) < next(i for i, line in enumerate(lines) if line.startswith("epoch 2/3"))
    assert re.fullmatch(
        r"an epoch takes 0:\d\d:\d\d: at most 0:.* for one training run, 0:.* for all 4", estimate
    )
    assert re.search(r"the training has taken .* s, .* of memory at its peak; .* has .* MB", lines[-1])


def test_the_time_of_an_epoch_is_also_estimated_if_a_training_resumes_at_the_end_of_an_epoch(
    caplog, tmp_path
):
    def stop(state):
        raise KeyboardInterrupt

    trainer = Trainer(epochs=3, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(network(), TASK, Toys(14), folder=tmp_path, callbacks=[stop])
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="neurocnn"), show_progress(True):
        trainer.fit(network(), TASK, Toys(14), folder=tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    # Less than a minute, however slow the machine is: the time is not measured from the start of the process.
    assert [line[:20] for line in lines if line.startswith("an epoch takes")] == ["an epoch takes 0:00:"]


@pytest.mark.parametrize(("n", "batch_size"), [(9, 4), (8, 4), (2, 4), (5, 2)])
def test_the_logged_number_of_updates_is_the_number_of_updates_in_training(caplog, n, batch_size):
    trainer = Trainer(epochs=2, batch_size=batch_size, device="cpu")
    with caplog.at_level(logging.INFO, logger="neurocnn"):
        history = trainer.fit(network(), TASK, Toys(n)).history
    expected = re.search(r"at most (\d+) updates", caplog.records[0].getMessage())[1]
    assert int(expected) == history["iteration"].iloc[-1]
