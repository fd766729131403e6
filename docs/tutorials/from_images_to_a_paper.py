"""
From images to a paper
======================

This script is a complete study: it starts with a folder of images and a table of participants, and ends with the two
tables and the figure of a paper. Between these, it checks the images, divides the participants, trains a network,
compares it with predictions from age and sex, searches its settings, calibrates its probabilities, chooses a threshold,
and maps the voxels that its predictions depend on.

The data are synthetic, so that the right answers are known. Patients (AD) have smaller hippocampi and larger ventricles
than controls (CN): the volumes of the hippocampi alone separate them with an area under the ROC curve (AUC) of 0.99.
Patients are 2.5 years older on average, which alone gives an AUC of 0.60, and sex does not depend on the diagnosis. The
script takes one to three minutes on two cores. To use your own data, replace the first block.

The pictures and the second table on this page are those of one run: the last digits depend on the number of threads.
"""
# %%
# Data
# ----
#
# The images are grey-matter maps with voxels of 3 mm. Two faults are added that occur in most cohorts: one image is
# upside down, and one session of the table has no image.

# sphinx_gallery_thumbnail_path = 'tutorials/from_images_to_a_paper.png'
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.stats import loguniform

import neurocnn as nc

folder = Path("from-images-to-a-paper")
labels = nc.make_caps(folder / "caps", n_participants=96, preprocessing="t1-volume", shape=(61, 73, 61))
caps = nc.Caps(folder / "caps", "t1-volume")

image = nib.load(caps.path("sub-0008", "ses-M000"))
nib.save(
    nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::-1], image.affine), caps.path("sub-0007", "ses-M000")
)
labels = pd.concat([labels, labels.tail(1).assign(participant_id="sub-9999")], ignore_index=True)

# %%
# Look at the images
# ------------------
#
# ``match`` compares the table with the images. ``check`` reads each image once; its first rows are the images that
# differ most from all others. No threshold suits all cohorts: look at the images before you exclude one.

print(caps.match(labels))
sessions = labels.merge(caps.sessions())
checked = caps.check(sessions)
print(checked[["participant_id", "z", "column"]].head(3))
nc.plotting.thumbnails(caps, checked, n=3).savefig(folder / "worst.png")

# %%
# .. image:: /tutorials/from_images_to_a_paper_images.png
#    :alt: The three images that differ most; the first one is upside down.
#
# The first image is upside down and is excluded.

sessions = sessions[sessions["participant_id"] != checked["participant_id"].iloc[0]]
caps.prepare(sessions)

# %%
# Split
# -----
#
# A third of the participants is held out for the test at the end. The rest is divided into three splits. All sets have
# similar shares of the diagnoses and sexes, and similar ages.

rest, test = nc.holdout(sessions, fraction=1 / 3, stratify=["diagnosis", "sex", "age"], seed=0)
splits = nc.kfold(rest, n_splits=3, stratify=["diagnosis", "sex", "age"], seed=0)
table_1 = pd.concat({"training and validation": nc.population(rest), "test": nc.population(test)})
print(table_1)

# %%
# This is table 1 of the paper, the population of the study:
#
# .. code-block:: text
#
#                                  N         age  %sexF         MMS
#     training and validation AD  31  76.2 ± 5.6   45.2  23.1 ± 2.6
#                             CN  32  72.8 ± 7.9   50.0  28.8 ± 1.0
#     test                    AD  16  75.5 ± 5.8   43.8  22.3 ± 2.3
#                             CN  16  72.4 ± 7.2   56.2  29.1 ± 0.9

# %%
# Train
# -----
#
# The network sees one hippocampus at a time, and a vote combines the predictions for both. ``balance.tsv`` contains the
# standardised mean differences between the training and the validation set of a split.

hippocampi = nc.Roi({"right": ((32, 48), (25, 45), (13, 29)), "left": ((12, 28), (25, 45), (13, 29))})
task = nc.classification("diagnosis", classes=["CN", "AD"])
trainer = nc.Trainer(epochs=8, batch_size=8, learning_rate=1e-3, evaluate_train="end")
experiment = nc.Experiment(caps, splits, hippocampi, task, "Conv3_FC1", trainer)
results = experiment.run(folder / "results")
print(results.summary()[["image balanced_accuracy", "image roc_auc"]])
print(nc.read_table(results.folder / "fold-0/balance.tsv", required=()))

# %%
# Baseline
# --------
#
# Can the diagnosis be predicted without images? ``confounds`` fits a logistic regression on age and sex to the training
# set of each split, and evaluates it on the same validation set as the network.

print(results.confounds(["age", "sex"]).loc[["balanced_accuracy", "roc_auc"]].round(2))

# %%
# Search
# ------
#
# ``search`` compares settings within each training set, so that the validation sets still show the performance on new
# participants. A study needs more trials than the two of this script.

space = {"learning_rate": loguniform(3e-4, 3e-3), "dropout": [0.0, 0.5]}
tuned = nc.search(experiment, space, n_trials=2, folder=folder / "search", inner=0.25)
trials = nc.leaderboard(folder / "search")
print(trials[["folder", "trainer.learning_rate", "roc_auc"]].round(4).to_string())

# %%
# Calibrate
# ---------
#
# ``calibrate`` fits a temperature to the validation set of each split: a temperature below 1 means that the
# probabilities of the network are too close to 0.5. Later predictions are calibrated with it.

print(tuned.calibrate().round(2))

# %%
# Test
# ----
#
# Only now the held-out participants are predicted, once. The prediction for a participant is the mean over the networks
# of the three splits (``ensemble``). ``operating_point`` chooses the threshold that reaches a sensitivity of 0.9 in the
# validation set of each split, and applies it to the held-out participants.

for each in (results, tuned):
    each.predict(caps, test, name="test")
print(tuned.operating_point({"sensitivity": 0.9})[["threshold", "sensitivity", "specificity"]].round(2))
print(tuned.calibration("test").round(3))

# %%
# Compare
# -------
#
# The table contains the difference between both experiments for the same participants, its 95 % confidence interval,
# and the p-values of three tests. If the interval contains 0, the data do not show which experiment is better.

comparison = nc.compare(tuned, results, dataset="test")
print(comparison.loc["roc_auc"].round(3))
print(tuned.by_group("sex")[["participants", "balanced_accuracy"]].round(2))

# %%
# Explain
# -------
#
# Integrated gradients divide the difference between the output for a patient and the output for the mean image of the
# controls among the voxels. The map is the mean over the patients; its largest values are at the hippocampi.

patients, controls = test[test["diagnosis"] == "AD"], test[test["diagnosis"] == "CN"]
tuned.explain(caps, patients, "integrated_gradients", baseline=controls, steps=10)
nc.plotting.explanation(tuned, "integrated_gradients", of="mean-AD").savefig(folder / "explanation.png")

# %%
# .. image:: /tutorials/from_images_to_a_paper.png
#    :alt: Map of the integrated gradients over three planes of an image.

# %%
# Report
# ------
#
# Table 2 of the paper contains the scores of the ensemble for the held-out participants, with 95 % intervals,
# and the scores of the predictions from age and sex. The report is one page with the settings, the population, the
# learning curves and the maps, and for the validation and the test set the summary, the confusion matrix, and the ROC,
# precision and reliability curves. Operating points, comparisons, and scores of groups and confounds are not in it.

shown = ["balanced_accuracy", "sensitivity", "specificity", "roc_auc"]
ensemble = tuned.metrics(dataset="test").loc["ensemble"]
intervals = [f"{ensemble[f'{name}_low']:.2f} to {ensemble[f'{name}_high']:.2f}" for name in shown]
table_2 = pd.DataFrame({"network": ensemble[shown], "95 % interval": intervals})
table_2["age and sex"] = tuned.confounds(["age", "sex"], dataset="test")["confounds"]
print(table_2.round(2))
table_1.to_csv(folder / "table_1.csv")
table_2.to_csv(folder / "table_2.csv")
nc.plotting.report(tuned, folder / "report.html")

# %%
# .. code-block:: text
#
#                        network 95 % interval  age and sex
#     balanced_accuracy     0.97  0.82 to 0.99         0.58
#     sensitivity           0.94  0.72 to 0.99         0.50
#     specificity           1.00  0.81 to 1.00         0.67
#     roc_auc               1.00  0.81 to 1.00         0.65
#
# The figure of the paper, with the interval of its main number:

figure = nc.plotting.roc(tuned, dataset="test")
auc = f"AUC of the ensemble {ensemble['roc_auc']:.3f}, 95 % interval {intervals[-1]}"
figure.suptitle(f"{len(test)} held-out participants\n{auc}", fontsize=10)
figure.savefig(folder / "figure_1.png")

# %%
# .. image:: /tutorials/from_images_to_a_paper_roc.png
#    :alt: ROC curve of the held-out participants.
