"""Trainer: settings, and the method `fit`. The training loop is in `loop`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from torch import nn

from neurocnn.engine.batch import Dataset, Network
from neurocnn.engine.inputs import check_networks
from neurocnn.engine.loop import Loop
from neurocnn.engine.settings import TrainingSettings
from neurocnn.engine.task import Task
from neurocnn.engine.training import Callback, Training
from neurocnn.errors.arguments import check_callable, check_each, check_instance, check_list, check_path
from neurocnn.errors.keywords import suggest_keywords
from neurocnn.storage.display import html_view, short_repr


@suggest_keywords
@dataclass(frozen=True, kw_only=True)
class Trainer(TrainingSettings):
    """Settings for training, and the method `fit`, which trains networks.

    Parameters
    ----------
    epochs
        Largest number of passes over the training set.
    batch_size
        Samples (or images, if each part has its own network) per forward pass, summed over all ranks. A last batch of
        one sample is joined with the batch before it.
    learning_rate, weight_decay
        Settings of Adam, the default optimizer.
    accumulation_steps
        Batches per update; the loss is the mean over all their samples.
    evaluation_steps
        Updates between evaluations within an epoch; 0 to evaluate only at the end of the epoch.
    evaluate_train
        ``"epoch"`` to include the training set in each evaluation, ``"end"`` to evaluate only the validation set during
        training; a validation set is then required. With ``"end"`` the metrics of the training set are NaN in the
        history, and an `Experiment` evaluates the training set with the best models only. A training set without a
        table of its participants and labels is evaluated once, to check them.
    patience, tolerance
        Early stopping: training stops if, during `patience` epochs, the loss of the validation set at the end of
        an epoch was never smaller than best × (1 − tolerance). With ``patience=0`` it never stops early. Without a
        validation set, the loss of the training set is used.
    stopping_metric
        Metric of the task for early stopping, such as ``"roc_auc"``. If larger values are better, an improvement must
        exceed best + tolerance × abs(best).
    sampler
        ``"random"`` for each sample once per epoch, ``"weighted"`` for samples drawn with replacement, all classes
        equally often.
    optimizer
        ``optimizer(parameters)`` returns an optimizer; None for Adam. A class such as `torch.optim.SGD` is called with
        ``lr=learning_rate`` and ``weight_decay=weight_decay``.
    scheduler
        ``scheduler(optimizer)`` returns a scheduler. A parameter ``total_steps`` without a value, as in
        ``functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01)``, is set to the number of all steps.
    scheduler_step
        Interval at which the scheduler is stepped: ``"epoch"``, or ``"update"`` (for warm-up and one cycle).
    clip_gradient
        Largest norm of the gradients of an update; None for no clipping.
    n_workers
        Number of workers that read data in advance: threads for complete images and large parts with transforms of this
        package, otherwise processes. ``"auto"`` is one thread for each CPU that this process may use, at most 8, and no
        processes. With 0 the main thread reads. Small parts, such as slices, are always read by the main thread, which
        is faster. Results do not depend on the number of workers.
    device
        ``"auto"`` (a GPU if there is one), or a device name of torch.
    precision
        ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for mixed precision (with scaled losses for ``"float16"``).
    seed
        Seed of the sample order, augmentation and dropout.
    deterministic
        Whether to use only algorithms with the same results in each run. An operation without such an algorithm raises
        an error that names it.
    compile
        Whether to compile the network with `torch.compile`.
    resident
        Whether images stay on the GPU after the first epoch: True, or ``"auto"`` for each set that fits into the free
        memory of the GPU. Sets with augmentation are read in each epoch, as all sets are on other devices. The results
        do not change.
    checkpoint_seconds
        Seconds between checkpoints within an epoch, if a folder is given.
    rank_seconds
        Seconds that the ranks of a distributed job wait for a rank that does not respond.

    Raises
    ------
    SettingError
        If a value cannot be used.

    Examples
    --------
    >>> trainer = Trainer(epochs=50, learning_rate=1e-3, precision="bfloat16")
    >>> trainer
    Trainer(epochs=50, learning_rate=0.001, precision='bfloat16')
    >>> from dataclasses import replace
    >>> replace(trainer, seed=1).seed
    1
    """

    __repr__ = short_repr
    _repr_html_ = html_view

    @overload
    def fit(
        self,
        model: nn.Module,
        task: Task,
        train: Dataset,
        validation: Dataset | None = None,
        folder: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Training: ...

    @overload
    def fit(
        self,
        model: Mapping[int, nn.Module],
        task: Task,
        train: Dataset,
        validation: Dataset | None = None,
        folder: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[Network, Training]: ...

    def fit(
        self,
        model: nn.Module | Mapping[int, nn.Module],
        task: Task,
        train: Dataset,
        validation: Dataset | None = None,
        folder: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Training | dict[Network, Training]:
        """Train a network, or one network per part in one pass over the images.

        Parameters
        ----------
        model
            Network, trained in place: afterwards it has the weights of the last epoch. With a mapping from part_id to
            network, each network is trained on its part, with the same result as if it were trained alone.
        task
            Task to learn.
        train, validation
            Datasets whose items are dicts. Without `validation`, the training metrics are used for selection and early
            stopping.
        folder
            Folder for ``training.tsv``, ``models/``, ``tensorboard_logs/`` and ``state/``. If the folder contains a
            checkpoint of a stopped run, training resumes from it. If training is finished, its result is read and
            returned.
        callbacks
            Functions that are called with a `TrainingState` after each evaluation.

        Returns
        -------
        Training
            Result; for a mapping of networks, a dict of results by part_id.

        Raises
        ------
        TrainingError
            If the loss is NaN, memory is exhausted, or a worker or rank has died.
        SettingError
            If a checkpoint in `folder` belongs to other settings, networks or data.
        InUseError
            If another process trains in `folder`.
        LeakError
            If a participant is in both sets.
        TableError
            If labels are missing or unknown, or the training set has a single class.

        Notes
        -----
        These global effects end with the call: handlers of SIGINT and SIGTERM (in the main thread), torch's current
        GPU, deterministic algorithms, warning filters, and on a CPU with glibc the reuse of freed memory: blocks of up
        to 256 MiB stay in the process. Four remain: under ``torchrun`` the default process group is created;
        ``deterministic=True`` sets the environment variable ``CUBLAS_WORKSPACE_CONFIG`` if it is not set; processes
        that are forked afterwards start with one thread of torch, because OpenMP's threads do not survive a fork; and
        limits that the program itself gave to glibc's ``mallopt`` are its default values of 32 and 64 MiB (`predict`
        and `encode` have the last two effects too).

        Examples
        --------
        >>> import torch
        >>> from neurocnn.engine import classification
        >>> def item(i):
        ...     return {"image": torch.full((1, 4, 4), float(i % 2)), "label": ["CN", "AD"][i % 2],
        ...             "participant_id": f"sub-{i}", "session_id": "ses-M00", "part_id": 0}
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> trainer = Trainer(epochs=20, learning_rate=0.1, device="cpu")
        >>> training = trainer.fit(model, classification(), [item(i) for i in range(8)])
        >>> float(training.history.train_balanced_accuracy.iloc[-1])
        1.0
        """
        where = "Trainer.fit"
        networks = check_networks(model)
        check_instance("task", task, Task, "a task, such as nc.classification()", where=where)
        folder = None if folder is None else check_path("folder", folder, where=where)
        callbacks = check_list("callbacks", callbacks, "a list of callables", where=where)
        check_each("callbacks", callbacks, check_callable, where=where)
        trainings = Loop(self, task, train, validation, folder, callbacks).train(networks)
        return trainings if isinstance(model, Mapping) else trainings[None]
