"""Results of an experiment, and predictions for new data."""

from functools import partial

import pandas as pd
from tqdm.auto import tqdm

from neurocnn import data, engine
from neurocnn.engine.loggers import bar_width, shows_bars
from neurocnn.results import ensembles, prediction
from neurocnn.results.explanations import Explanations


class Results(Explanations):
    """Results of an experiment, read from its result folder.

    Parameters
    ----------
    folder
        Path of the folder that was passed to `Experiment.run`.
    **custom
        Settings that are recorded as custom (a builder, a transform, a task), as objects by name, such as
        ``architecture=build``. Tables can be read without them.

    Raises
    ------
    NotFoundError
        If `folder` is not a result folder.
    SettingError
        If another program wrote the folder, or a name in `custom` is not a setting.

    Examples
    --------
    >>> import neurocnn as nc
    >>> labels = nc.make_caps(tmp / "caps", n_participants=12, preprocessing="t1-volume", shape=(18, 20, 18))
    >>> caps = nc.Caps(tmp / "caps", "t1-volume")
    >>> rest, test = nc.holdout(labels, fraction=0.25, stratify=["diagnosis"])
    >>> splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"])
    >>> trainer = nc.Trainer(epochs=1, device="cpu")
    >>> experiment = nc.Experiment(caps, splits, nc.Patch(9, 9), nc.classification(), "Conv3_FC1", trainer)
    >>> _ = experiment.run(tmp / "results")
    >>> results = nc.Results(tmp / "results")
    >>> results.splits, results.selections
    ([0, 1], ['best_loss', 'best_balanced_accuracy'])
    >>> results.metrics(level="image").index.tolist()
    [0, 1, 'mean', 'std']
    >>> results.predict(caps, test, name="test")["split"].value_counts().to_dict()  # one row per split and image
    {0: 3, 1: 3, 'ensemble': 3}
    >>> results.predictions(level="part", dataset="test").columns.tolist()
    ['split', 'participant_id', 'session_id', 'part_id', 'true_label', 'predicted_label', 'true_class', \
'predicted_class', 'proba0', 'proba1']
    >>> results.load_model(split=0).training
    False
    >>> results.task.classes, results.parts
    (('CN', 'AD'), Patch(size=9, stride=9))
    """

    def predict(self, caps: data.ImageSet, sessions: pd.DataFrame, name: str) -> pd.DataFrame:
        """Evaluate new data with the models of every split, and write the tables into the folder.

        The ensemble's prediction for an image is the mean of the splits' probabilities or, for a regression, of the
        splits' values.

        Parameters
        ----------
        caps
            Location of the images, preprocessed as in training.
        sessions
            Sessions to predict. Without the label column there are predictions, but no metrics.
        name
            Name of the data set in file names and in `metrics`.

        Returns
        -------
        DataFrame
            Image-level predictions of every split and of the ensemble, see `predictions`.

        Raises
        ------
        LeakError
            If a participant was in the training or validation set of a split, or was seen by the transfer's source.
        SettingError
            If the name is in use for other data or labels, or the images have another shape than in training.
        NotFoundError
            If images are missing (the message lists all of them), or no split is done.
        TableError
            If some labels are missing or unknown.
        """
        name, folder, experiment = prediction.check_name(name), self._folder, self._experiment
        done = folder.check_done()
        datasets = experiment.new_datasets(caps, sessions, done)
        dataset = datasets[done[0].index]
        images = caps.fingerprints(dataset.sessions)
        for fold in done:
            prediction.check_new_data(folder, fold, dataset, images, name)
        pairs = [(fold, selection) for fold in done for selection in self.selections]
        for fold, selection in tqdm(
            pairs, f"predict {name}", disable=not shows_bars(), unit="model", **bar_width()
        ):
            own = datasets[fold.index]
            load = partial(experiment.load_networks, fold, selection, own.part_ids)
            how = experiment.evaluation, experiment.vote(fold.index)
            prediction.predict_fold(folder, fold, selection, name, own, images, load, *how)
        ensembles.finish_prediction(folder, done, dataset.sessions, name)
        engine.find_ranks().barrier("after predicting new data")
        return self.metrics("part", dataset=name) if folder.reconstructs else self.predictions(dataset=name)

    def encode(
        self, caps: data.ImageSet, sessions: pd.DataFrame, selection: str | None = None
    ) -> pd.DataFrame:
        """Return the autoencoders' codes of images, for example for clustering.

        Parameters
        ----------
        caps, sessions
            See `predict`. Labels are ignored, and training participants are allowed.
        selection
            See `metrics`.

        Returns
        -------
        DataFrame
            One row per split and part: ``split``, ``participant_id``, ``session_id``, [``cohort``,] ``part_id``,
            ``code0``, ``code1``, … Codes of different splits are not comparable.

        Raises
        ------
        ModelError
            If the networks are not autoencoders.
        NotFoundError
            If images are missing, or no split is done.

        Examples
        --------
        >>> import neurocnn as nc
        >>> people = nc.make_caps(tmp / "caps", n_participants=4, preprocessing="t1-volume", shape=(12, 14, 12))
        >>> images, splits = nc.Caps(tmp / "caps", "t1-volume"), nc.kfold(people, n_splits=2)
        >>> trainer = nc.Trainer(epochs=1, device="cpu")
        >>> experiment = nc.Experiment(images, splits, nc.WholeImage(), nc.reconstruction(), "Conv3_FC1", trainer)
        >>> codes = experiment.run(tmp / "autoencoder").encode(images, people)
        >>> codes.columns[:5].tolist(), len(codes)  # one row per split, image and part
        (['split', 'participant_id', 'session_id', 'part_id', 'code0'], 8)
        """
        experiment, chosen = self._experiment, self._folder.check_selection(selection)
        done = self._folder.check_done()
        datasets = experiment.new_datasets(caps, sessions, done)
        load = partial(experiment.load_networks, selection=chosen)
        return prediction.encode_folds(done, datasets, load, experiment.evaluation)
