"""Explanations of predictions by attribution maps, and a check that the maps depend on the trained weights."""

from functools import partial

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neurocnn import data
from neurocnn.engine.attribution import METHODS, Attribution
from neurocnn.engine.loggers import bar_width, shows_bars
from neurocnn.errors.arguments import check_choice, check_integer, check_text
from neurocnn.results import explaining
from neurocnn.results.analyses import Analyses
from neurocnn.results.explainer import Baseline, Explainer
from neurocnn.results.prediction import check_name


class Explanations(Analyses):
    """Attribution maps; see `Results`.

    In the examples, `results` is a classification of patches in two splits, and `caps` and `labels` are its data.
    """

    def explain(
        self,
        caps: data.ImageSet,
        sessions: pd.DataFrame,
        method: str,
        name: str = "explained",
        *,
        selection: str | None = None,
        target: str | None = None,
        baseline: Baseline = None,
        steps: int = 50,
        window: int | None = None,
    ) -> pd.DataFrame:
        """Write maps of the voxels that the predictions depend on, as NIfTI files in the space of the images.

        The maps explain the log-odds of a class, log (p / (1 − p)), or the predicted value of a regression. The map of
        an image is the sum of the maps of its parts, weighted as in the vote, and divided in each voxel by the number
        of voting parts that contain it.

        Parameters
        ----------
        caps, sessions
            See `predict`. Participants of the training set are allowed, because nothing is scored.
        method
            ``"gradient"`` (derivative with respect to each transformed voxel; Simonyan et al., 2014),
            ``"integrated_gradients"`` (contribution of each voxel to the difference from the output of the baseline;
            Sundararajan et al., ICML 2017), ``"grad_cam"`` (class activation map of the last convolution, ≥ 0;
            Selvaraju et al., ICCV 2017) or ``"occlusion"`` (change of the output if the box that contains the voxel is
            replaced with the baseline; Zeiler & Fergus, ECCV 2014). Captum computes the maps.
        name
            Name of the set of maps. An existing set with the same name and method is replaced.
        selection
            See `metrics`.
        target
            Name of the class that is explained, the last class by default.
        baseline
            Baseline of integrated gradients and occlusion: sessions of `caps`, such as controls, whose mean image is
            prepared as the other images are; or the value of all voxels after the transform. With None, the mean image
            of `sessions`, which must have at least two rows. The other two methods do not use it.
        steps
            Number of points at which integrated gradients are evaluated.
        window
            Edge length of the occluded boxes in voxels. With None, a fifth of the longest edge of a part.

        Returns
        -------
        DataFrame
            One row per file: ``split``, ``class``, ``participant_id`` (missing for the mean of a class, and of all
            images if there are no labels), ``session_id``, [``cohort``,] ``part_id`` (missing for complete images) and
            ``path``. All files are in ``fold-<i>/<task>/<selection>/explanations/<name>/<method>/``.

        Raises
        ------
        MissingExtraError
            If Captum is not installed.
        SettingError
            If an argument has an invalid value, the images differ in shape from those in training, the parts have no
            boxes, or a transform changes the size of the parts.
        ModelError
            If the method is ``"grad_cam"`` and a network has no convolution, or the output of a network is not one row
            per sample.
        ImageError
            If the affine of an image is unknown.
        NotFoundError
            If images are missing, or no split is finished.

        Examples
        --------
        >>> results.explain(caps, labels, "integrated_gradients", steps=5)["path"].iloc[-1].name
        'sub-0020_ses-M000_part-7.nii.gz'
        >>> results.explanation("integrated_gradients", of="mean-CN").shape
        (18, 20, 18)
        """
        name = check_name(name)
        explainer, chosen = self._explainer(
            caps, sessions, method, selection, target, baseline, steps, window
        )
        tables = []
        folds = self._folder.check_done()
        for fold in tqdm(folds, f"explain {name}", disable=not shows_bars(), unit="split", **bar_width()):
            own, vote = explainer.of_fold(fold.index), self._experiment.vote(fold.index)
            weights = explaining.vote_weights(self._folder, fold, chosen, vote, own.dataset.part_ids)
            path = fold.explanations(chosen, name, method)
            maps = explaining.write_fold(own, fold, chosen, path, weights)
            maps.insert(0, "split", fold.index)
            maps["path"] = [path / file for file in maps.pop("file")]
            tables.append(maps)
        return pd.concat(tables, ignore_index=True)

    def explanation(
        self, method: str, name: str = "explained", *, of: str | None = None, selection: str | None = None
    ) -> np.ndarray:
        """Return a map that `explain` has written, averaged over the splits.

        Parameters
        ----------
        method, name, selection
            See `explain`.
        of
            Name of the map, such as ``"mean-AD"`` or ``"sub-001_ses-M000"``. With None, the mean of the last class.

        Returns
        -------
        ndarray
            Array of shape (D, H, W), or of the shape of the box for a part.

        Raises
        ------
        NotFoundError
            If the map does not exist. The message lists the existing maps.

        Examples
        --------
        >>> results.explain(caps, labels, "gradient")["class"].unique().tolist()
        ['AD', 'CN']
        >>> results.explanation("gradient", of="mean-AD_part-7").shape
        (9, 9, 9)
        """
        where = "explanation"
        check_choice("method", method, METHODS, where=where)
        classes = self._folder.task.classes
        if of is None:
            of = explaining.file_name({"class": classes and classes[-1]}).removesuffix(".nii.gz")
        of = check_text("of", of, expected="the name of a map", where=where)
        chosen = self._folder.check_selection(selection)
        return explaining.read_mean(self._folder, chosen, check_name(name), method, of)

    def explain_randomized(
        self,
        caps: data.ImageSet,
        sessions: pd.DataFrame,
        method: str,
        *,
        split: int | None = None,
        selection: str | None = None,
        target: str | None = None,
        baseline: Baseline = None,
        steps: int = 50,
        window: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Compare the maps with maps of the same networks in which the last layers have random weights.

        A map that hardly changes does not depend on the trained weights (Adebayo et al., Sanity checks for
        saliency maps, NeurIPS 2018: cascading randomisation).

        Parameters
        ----------
        caps, sessions, method, selection, target, baseline, steps, window
            See `explain`. A few sessions are enough.
        split
            Index of the split, the first split that is done by default.
        seed
            Seed of the random weights.

        Returns
        -------
        DataFrame
            One row per layer (index ``layer``), where this layer and all later layers have random weights. Columns:
            ``spearman``, Spearman's rank correlation of the original and the new map, and ``spearman_abs``, that of
            their absolute values, both averaged over images and parts. Pairs with a constant map are omitted.

        Raises
        ------
        NeurocnnError
            See `explain`.

        Examples
        --------
        >>> results.explain_randomized(caps, labels.head(2), "gradient").columns.tolist()
        ['spearman', 'spearman_abs']
        """
        seed = check_integer("seed", seed, minimum=0, where="explain_randomized")
        explainer, chosen = self._explainer(
            caps, sessions, method, selection, target, baseline, steps, window
        )
        index = self._folder.check_done()[0].index if split is None else split
        fold = self._folder.check_fold(index)
        rows = pd.DataFrame(
            list(explaining.compare_with_randomized_networks(explainer.of_fold(index), fold, chosen, seed))
        )
        return rows.groupby("layer", sort=False)[["spearman", "spearman_abs"]].mean()

    def _explainer(
        self,
        caps: data.ImageSet,
        sessions: pd.DataFrame,
        method: str,
        selection: str | None,
        target: str | None,
        baseline: Baseline,
        steps: int,
        window: int | None,
    ) -> tuple[Explainer, str]:
        """Check the arguments; return the explainer and the name of the selection."""
        experiment, chosen = self._experiment, self._folder.check_selection(selection)
        attribution = Attribution(method, steps, window, experiment.evaluation["batch_size"])
        create = partial(Explainer.create, experiment, caps, sessions, attribution)
        return create(target, baseline), chosen
