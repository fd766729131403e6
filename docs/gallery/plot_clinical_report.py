"""
What a clinical paper reports
=============================

This example computes, from a result folder, scores for held-out participants with confidence intervals, the area under
the ROC curve, the confusion matrix, and the accuracy in subgroups.
"""

import tempfile
from pathlib import Path

import neurocnn as nc

folder = Path(tempfile.mkdtemp())
labels = nc.make_caps(folder / "caps", n_participants=72, preprocessing="t1-volume", shape=(61, 73, 61))
caps = nc.Caps(folder / "caps", "t1-volume")
rest, test = nc.holdout(labels, fraction=1 / 3, stratify=["diagnosis", "sex", "age"])
splits = nc.kfold(rest, n_splits=3, stratify=["diagnosis", "sex", "age"])
print(nc.population(rest), nc.population(test), sep="\n\n")

# %%
# A vote combines the predictions for both hippocampi. The held-out participants are used once, after the training.
hippocampi = nc.Roi({"right": ((32, 48), (25, 45), (13, 29)), "left": ((12, 28), (25, 45), (13, 29))})
task = nc.classification("diagnosis", ["CN", "AD"])
trainer = nc.Trainer(epochs=10, batch_size=8, learning_rate=1e-3, n_workers=0)
results = nc.Experiment(caps, splits, hippocampi, task, "Conv3_FC1", trainer).run(folder / "results")
predictions = results.predict(caps, test, name="test")

# %%
# The row ``ensemble`` contains the metrics of the ensemble prediction, the mean of the folds' probabilities. The limits
# of 95 % confidence intervals are in the columns ``…_low`` and ``…_high``.
metrics = results.metrics(dataset="test").round(2)
for name in ("balanced_accuracy", "sensitivity", "specificity", "roc_auc"):
    all_folds = metrics.loc["ensemble"]
    print(
        f"{name}: {all_folds[name]} [{all_folds[f'{name}_low']}, {all_folds[f'{name}_high']}]; "
        f"single folds: {metrics.loc['mean', name]} ± {metrics.loc['std', name]}"
    )

# %%
# For the accuracy in subgroups, the columns of the participants are merged with the predictions.
rows = predictions[predictions["split"] == "ensemble"].merge(test, on=["participant_id", "session_id"])
rows["correct"] = rows["true_label"] == rows["predicted_label"]
rows["age group"] = rows["age"].ge(rows["age"].median()).map({True: "older half", False: "younger half"})
print(
    rows.groupby("sex")["correct"].mean().round(2),
    rows.groupby("age group")["correct"].mean().round(2),
    sep="\n\n",
)

# %%
# ``overview`` draws all figures at once. Each figure can also be drawn by its own function of ``neurocnn.plotting``.
template = caps.read(*test.iloc[0][["participant_id", "session_id"]])[0]
nc.plotting.overview(results.history(), predictions, ["CN", "AD"], results.part_map(), template)
