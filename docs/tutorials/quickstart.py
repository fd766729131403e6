"""A complete study, from a folder of images to predictions for participants that no network has seen.

The data are a synthetic CAPS: grey-matter maps in which patients (AD) have smaller hippocampi than controls (CN). An
autoencoder is trained on the two hippocampal regions without labels, and its encoder initialises the classifier. It is
trained on three folds, the two regions vote, and a held-out third of the participants evaluates the result.
"""

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
    trainer = nc.Trainer(epochs=12, batch_size=8, learning_rate=1e-3, patience=5)

    pretrainer = nc.Trainer(epochs=5, batch_size=8, learning_rate=1e-2)

    nc.Experiment(caps, splits, hippocampi, nc.reconstruction(), "Conv3_FC1", pretrainer).run(
        f"{folder}/autoencoder"
    )
    results = nc.Experiment(
        caps,
        splits,
        hippocampi,
        nc.classification("diagnosis", classes=["CN", "AD"]),
        "Conv3_FC1",
        trainer,
        transfer_from=f"{folder}/autoencoder",
    ).run(f"{folder}/cnn")

    results.predict(caps, test, name="test")
    metrics = results.metrics(level="image", dataset="test")
    print(f"\nBalanced accuracy on {len(test)} held-out participants, one prediction per image:\n")
    print(metrics[["balanced_accuracy", "sensitivity", "specificity", "roc_auc"]].round(3).to_string())

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
    print(f"\nThe tables, models and this picture are in {folder}/: {folder}/quickstart.png")
