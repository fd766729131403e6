"""
Quickstart
==========

This script is a complete study, from a folder of images to predictions for participants whom no network has seen.

The data are a synthetic CAPS folder with grey-matter maps, in which patients (AD) have smaller hippocampi than controls
(CN). An autoencoder is trained on the two hippocampal regions without labels, and its encoder initialises the
classifier. The classifier is trained on three folds, a vote combines the predictions for both regions, and the
classifier is evaluated on a held-out third of the participants. A second classifier starts from random weights.
Comparing both shows the effect of the pretraining.

.. image:: /quickstart.png
   :alt: Learning curves, ROC curve, confusion matrix and map of the balanced accuracy of both regions.
"""

# sphinx_gallery_thumbnail_path = 'quickstart.png'
import logging

import neurocnn as nc

logging.basicConfig(level=logging.INFO, format="%(message)s")

if __name__ == "__main__":
    folder = "neurocnn-quickstart"
    labels = nc.make_caps(f"{folder}/caps", n_participants=132, preprocessing="t1-volume", seed=0)
    print(nc.population(labels), end="\n\n")

    caps = nc.Caps(f"{folder}/caps", "t1-volume")
    rest, test = nc.holdout(labels, fraction=1 / 3, stratify=["diagnosis", "sex", "age"], seed=0)
    splits = nc.kfold(rest, n_splits=3, stratify=["diagnosis", "sex", "age"], seed=0)
    hippocampi = nc.Roi.hippocampi("t1-volume")

    pretrainer = nc.Trainer(epochs=5, batch_size=8, learning_rate=1e-2)
    nc.Experiment(caps, splits, hippocampi, nc.reconstruction(), "Conv3_FC1", pretrainer).run(
        f"{folder}/autoencoder"
    )
    example = nc.CapsDataset(caps, test, hippocampi)[0]["image"]
    autoencoder = nc.Results(f"{folder}/autoencoder").load_model(split=0)
    reconstruction = autoencoder(example.unsqueeze(0))[1][0]
    nc.plotting.reconstruction(example, reconstruction).savefig(f"{folder}/reconstruction.png")

    task = nc.classification("diagnosis", classes=["CN", "AD"])
    trainer = nc.Trainer(epochs=10, batch_size=8, learning_rate=1e-3, patience=5)
    accuracies = {}
    for name, source in {"cnn-without-pretraining": None, "cnn": f"{folder}/autoencoder"}.items():
        results = nc.Experiment(
            caps, splits, hippocampi, task, "Conv3_FC1", trainer, transfer_from=source
        ).run(f"{folder}/{name}")
        results.predict(caps, test, name="test")
        metrics = results.metrics(level="image", dataset="test")
        accuracies[name] = metrics["balanced_accuracy"]

    print(f"\nBalanced accuracy on {len(test)} held-out participants, one prediction per image:\n")
    print(metrics[["balanced_accuracy", "sensitivity", "specificity", "roc_auc"]].round(3).to_string())
    without, pretrained = accuracies.values()
    gain = (pretrained - without).loc[results.splits]
    print(
        f"\nPretraining {'helps' if gain.mean() > gain.std() else 'does not help'} here: balanced accuracy "
        f"{without['mean']:.3f} without it, {pretrained['mean']:.3f} with it; difference per fold "
        f"{gain.mean():.3f} ± {gain.std():.3f}"
    )

    first = caps.read(test["participant_id"].iloc[0], test["session_id"].iloc[0])[0]
    figure = nc.plotting.overview(
        results.history(),
        results.predictions(dataset="test"),
        ["CN", "AD"],
        results.part_map(),
        template=first,
        title="Two hippocampal regions, three folds: learning curves, predictions for held-out participants",
    )
    figure.savefig(f"{folder}/quickstart.png")
    print(f"\nThe tables, models and pictures are in {folder}/, this one is {folder}/quickstart.png")
