"""
One network for each part, and its map
======================================

With ``multi=True`` each part of the image has its own network. The balanced accuracies of the networks on the
validation set show which parts contain information about the diagnosis. They are also the weights of the vote.
"""

import tempfile
from pathlib import Path

import neurocnn as nc

folder = Path(tempfile.mkdtemp())
labels = nc.make_caps(
    folder / "caps", n_participants=48, preprocessing="t1-volume", shape=(61, 73, 61), atrophy=0.5
)
caps = nc.Caps(folder / "caps", "t1-volume")
splits = nc.kfold(labels, n_splits=3, stratify=["diagnosis"])

# %%
# The parts are six regions of 16×20×16 voxels, three on each side of the brain. Patches or slices could also be used.
regions = nc.Roi(
    {
        f"{side}{name}": (x, y, z)
        for side, x in (("right", (32, 48)), ("left", (12, 28)))
        for name, y, z in (
            ("Hippocampus", (25, 45), (13, 29)),
            ("Frontal", (50, 70), (25, 41)),
            ("Occipital", (5, 25), (25, 41)),
        )
    }
)
task = nc.classification("diagnosis", ["CN", "AD"])
trainer = nc.Trainer(epochs=8, batch_size=4, learning_rate=1e-3, n_workers=0)
results = nc.Experiment(caps, splits, regions, task, "Conv3_FC1", trainer, multi=True).run(
    folder / "results", splits=[0]
)

# %%
# All six networks were trained in one pass over the images. The weight of a network in the vote is its balanced
# accuracy, divided by the sum over all networks.
weights = nc.part_weights(results.predictions(level="part"))
print(weights.rename(dict(enumerate(regions.regions))).round(2).to_string())
print("Balanced accuracy of the vote:", round(results.metrics().loc[0, "balanced_accuracy"], 2))

# %%
# The synthetic patients have smaller hippocampi, so that the networks of both hippocampi classify best.
template = caps.read(*labels.loc[0, ["participant_id", "session_id"]])[0]
nc.plotting.part_map(results.part_map(), template, at=(40, 35, 21), vmin=0.5, vmax=1, voxel_size=(3, 3, 3))
