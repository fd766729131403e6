"""
Train your own models
=====================

This page shows all ways to train a network on brain images: on slices, patches, regions of interest or the whole image;
one network for all parts, or one network for each part; from random weights, or from the weights of an autoencoder or
another network. Further sections are about sMCI against pMCI, several cohorts, and your own labels and architecture.

The script writes small synthetic images, so that it runs anywhere, in about two minutes on two cores. Because it trains
for one epoch on a few images of 3.5 mm, **the accuracies are about chance, and warnings say that the autoencoders have
not learnt yet: the script only shows the calls**. ``FULL = True`` selects the settings of a study: images of 1 mm, 20
epochs and five splits, for a GPU. The quickstart (``docs/tutorials/quickstart.py``) is a small study whose networks
learn.
"""

# %%
# Data
# ----
#
# A study requires a CAPS folder, which Clinica writes, and a table of sessions with a diagnosis. To use your own data,
# change ``caps``, and read ``labels`` with ``nc.read_table("labels.tsv")`` or ``nc.read_bids("bids")``. The
# participants are divided into sets before the images are cut into parts, so that all parts of a participant are in the
# same set.
#
# .. image:: /tutorials/train_your_own.png
#    :alt: An image with the borders of its patches.

# sphinx_gallery_thumbnail_path = 'tutorials/train_your_own.png'
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.transforms import Compose, Resize

import neurocnn as nc

FULL = False
folder = Path("train-your-own")
results = folder / "results"
shape = None if FULL else (48, 58, 50)
everyone = nc.make_caps(folder / "caps", n_participants=200 if FULL else 14, shape=shape)
caps = nc.Caps(folder / "caps", "t1-linear")
labels = everyone.head(len(everyone) * 6 // 10)

splits = nc.kfold(labels, n_splits=5 if FULL else 2, stratify=["diagnosis", "sex", "age"])
ad_cn = nc.classification("diagnosis", classes=["CN", "AD"])
trainer = nc.Trainer(epochs=20) if FULL else nc.Trainer(epochs=1, batch_size=2, learning_rate=1e-2)
print(nc.population(labels))

# %%
# ``nc.read_splits("data/labels_lists/train", n_splits=5)`` reads splits of ClinicaDL.
#
# Every training run is an experiment: images, splits, parts, task, architecture and trainer, and one result folder. The
# function below shortens the calls on this page. With the small settings, it trains only the first split; ``run``
# without ``splits`` trains all splits.


def train(name, parts, task, architecture, **settings):
    """Train an experiment in `results/<name>`. `settings` may contain other images or splits."""
    settings = {"caps": caps, "splits": splits, "trainer": trainer} | settings
    experiment = nc.Experiment(parts=parts, task=task, architecture=architecture, **settings)
    return experiment.run(results / name, splits=None if FULL else [0])


# %%
# Slices
# ------
#
# 2-D networks that are pretrained on photographs can be applied to slices. ``resnet18`` is ResNet-18 with an additional
# layer after its 1000 outputs. Its inputs have three channels and, as in ClinicaDL, are scaled to [0, 1] and resized to
# 224×224. With weights that were trained on ImageNet, only the last five convolutions, the 1000 outputs and the added
# layer are trained. The weights are downloaded on first use. With the small settings, they are used only if torch's
# cache contains the file; otherwise all layers are trained from random weights.

file = Path(torch.hub.get_dir(), "checkpoints", Path(ResNet18_Weights.DEFAULT.url).name)
pretrained = {"weights": "imagenet" if FULL or file.exists() else None}
to_imagenet = Compose([nc.MinMax(), Resize((224, 224))])
slices = nc.Slice(direction=0, discarded_slices=20 if FULL else 23, channels=3)

# one network for all slices
train("slice_cnn", slices, ad_cn, "resnet18", options=pretrained, transform=to_imagenet)

# one network per slice
train("slice_multi-cnn", slices, ad_cn, "resnet18", options=pretrained, transform=to_imagenet, multi=True)

# %%
# An autoencoder cannot be derived from ResNet-18, because of its skip connections. But it can be derived from
# ``Conv4_FC3``, which also accepts slices:

# autoencoder
grey = nc.Slice(direction=0, discarded_slices=20 if FULL else 23)
train("slice_autoencoder", grey, nc.reconstruction(), "Conv4_FC3", reconstructions=True)

# %%
# Patches
# -------
#
# Patches keep the third dimension. ``Conv4_FC3`` has four convolutions, each followed by a pooling that pads inputs of
# odd size, and three fully-connected layers.

patches = nc.Patch(size=50, stride=50) if FULL else nc.Patch(size=32, stride=18)  # Conv4_FC3 needs 31 voxels
print(nc.describe("Conv4_FC3", "1@50x50x50"))

# %%
# An autoencoder learns from images without labels. Its encoder has the convolutions of the network, so that the weights
# of the encoder can initialise a classifier: ``transfer_from`` accepts the results of the autoencoder, or the path of
# their folder. The weights of split k come from split k of the source. If the source was trained on a participant of
# the validation set, an error is raised.

# autoencoder
patch_ae = train("patch_autoencoder", patches, nc.reconstruction(), "Conv4_FC3")

# single-CNN: with the autoencoder's weights, and from random weights
train("patch_single-cnn_ae", patches, ad_cn, "Conv4_FC3", transfer_from=patch_ae)
patch_cnn = train("patch_single-cnn", patches, ad_cn, "Conv4_FC3")

# multi-CNN: with the autoencoder's weights, with the single-CNN's, and from random weights
train("patch_multi-cnn_ae", patches, ad_cn, "Conv4_FC3", multi=True, transfer_from=patch_ae)
train("patch_multi-cnn_single", patches, ad_cn, "Conv4_FC3", multi=True, transfer_from=patch_cnn)
patch_multi = train("patch_multi-cnn", patches, ad_cn, "Conv4_FC3", multi=True)

# %%
# More combinations are possible: a network can initialise a network of the same kind (with several networks, the
# network of the same part), and a classifier can initialise the encoder of an autoencoder. Several networks cannot
# initialise a single network.

train("patch_single-cnn_single", patches, ad_cn, "Conv4_FC3", transfer_from=patch_cnn)
train("patch_multi-cnn_multi", patches, ad_cn, "Conv4_FC3", multi=True, transfer_from=patch_multi)
train("patch_autoencoder_ae", patches, nc.reconstruction(), "Conv4_FC3", transfer_from=patch_ae)
train("patch_autoencoder_single", patches, nc.reconstruction(), "Conv4_FC3", transfer_from=patch_cnn)

# %%
# The predictions of the parts are combined by soft voting: the weight of a part is its balanced accuracy on the
# validation set. The result folder contains the metrics of the parts and of the images.

print(patch_cnn.metrics(level="part")[["balanced_accuracy"]])
print(patch_cnn.metrics(level="image")[["balanced_accuracy", "sensitivity", "specificity"]])

# %%
# Regions of interest
# -------------------
#
# The library contains two boxes of 50×50×50 voxels around the hippocampi, for ``t1-linear`` images of 1 mm. Other
# regions are defined by boxes or masks (``nc.Roi.from_masks``). The calls are the same as for patches.

boxes = {"right": ((15, 47), (11, 43), (3, 35)), "left": ((1, 33), (11, 43), (3, 35))}
hippocampi = nc.Roi.hippocampi("t1-linear") if FULL else nc.Roi(boxes)

# autoencoder
roi_ae = train("roi_autoencoder", hippocampi, nc.reconstruction(), "Conv4_FC3")

# single-CNN: with the autoencoder's weights, and from random weights
train("roi_cnn_ae", hippocampi, ad_cn, "Conv4_FC3", transfer_from=roi_ae)
roi_cnn = train("roi_cnn", hippocampi, ad_cn, "Conv4_FC3")

# multi-CNN: with the autoencoder's weights, with the single-CNN's, and from random weights
train("roi_multi-cnn_ae", hippocampi, ad_cn, "Conv4_FC3", multi=True, transfer_from=roi_ae)
train("roi_multi-cnn_single", hippocampi, ad_cn, "Conv4_FC3", multi=True, transfer_from=roi_cnn)
roi_multi = train("roi_multi-cnn", hippocampi, ad_cn, "Conv4_FC3", multi=True)

# the same kind of network, and an autoencoder with the single-CNN's weights
train("roi_cnn_single", hippocampi, ad_cn, "Conv4_FC3", transfer_from=roi_cnn)
train("roi_multi-cnn_multi", hippocampi, ad_cn, "Conv4_FC3", multi=True, transfer_from=roi_multi)
train("roi_autoencoder_ae", hippocampi, nc.reconstruction(), "Conv4_FC3", transfer_from=roi_ae)
train("roi_autoencoder_single", hippocampi, nc.reconstruction(), "Conv4_FC3", transfer_from=roi_cnn)

# %%
# Whole image
# -----------
#
# ``Conv5_FC3`` has five convolutions. The size of its first fully-connected layer is computed from the size of the
# image, so that the network accepts ``t1-linear``, ``t1-extensive`` and any other images (``Conv5_FC3_mni`` is
# ClinicaDL's name of the network for ``t1-extensive``).

image = nc.WholeImage()

# autoencoder
image_ae = train("image_autoencoder", image, nc.reconstruction(), "Conv5_FC3")

# CNN: with the autoencoder's weights, and from random weights
train("image_cnn_ae", image, ad_cn, "Conv5_FC3", transfer_from=image_ae)
image_cnn = train("image_cnn", image, ad_cn, "Conv5_FC3")

# %%
# A similar task: sMCI against pMCI
# ---------------------------------
#
# Predicting whether mild cognitive impairment (MCI) progresses to Alzheimer's disease is harder, and fewer participants
# are available. A network that was trained on AD against CN provides good initial weights; the weights of a dissimilar
# task can be worse than random weights.
#
# ``nc.progression`` divides MCI by the diagnoses of later sessions. The synthetic data have a single session per
# participant. Therefore a later session is created here, in which participants with the atrophy of AD have progressed.

others = everyone.iloc[len(labels) :]
later = others["diagnosis"].replace({"CN": "MCI"})
visits = pd.concat([others.assign(diagnosis="MCI"), others.assign(session_id="ses-M036", diagnosis=later)])
stages = nc.progression(visits, months=36)
known = stages[stages["diagnosis"].isin(["sMCI", "pMCI"])]
print(known["diagnosis"].value_counts())

mci_splits = nc.kfold(known, n_splits=5 if FULL else 2, stratify=["diagnosis"])
progressive = nc.classification("diagnosis", classes=["sMCI", "pMCI"])
mci = {"task": progressive, "splits": mci_splits}
train("mci_patch_single-cnn", patches, architecture="Conv4_FC3", transfer_from=patch_cnn, **mci)
train("mci_patch_multi-cnn", patches, architecture="Conv4_FC3", multi=True, transfer_from=patch_multi, **mci)
train("mci_roi_cnn", hippocampi, architecture="Conv4_FC3", transfer_from=roi_cnn, **mci)
train("mci_image_cnn", image, architecture="Conv5_FC3", transfer_from=image_cnn, **mci)

# %%
# Several cohorts
# ---------------
#
# Several cohorts are described by two tables: the table of images has the columns ``cohort`` and ``path`` (CAPS
# folder), and the table of labels has the columns ``cohort``, ``path`` (split tree) and ``diagnoses``. Participants of
# different cohorts may have the same ids.

second = nc.make_caps(folder / "caps-2", n_participants=200 if FULL else 8, shape=shape, seed=1)
nc.write_splits(splits, folder / "labels")
nc.write_splits(nc.kfold(second, n_splits=len(splits), stratify=["diagnosis"]), folder / "labels-2")
cohorts = pd.DataFrame({"cohort": ["first", "second"]})
nc.write_table(cohorts.assign(path=[str(folder / "caps"), str(folder / "caps-2")]), folder / "caps.tsv")
trees = [str(folder / "labels"), str(folder / "labels-2")]
nc.write_table(cohorts.assign(path=trees, diagnoses="AD,CN"), folder / "labels.tsv")

both = nc.Caps(folder / "caps.tsv", "t1-linear")
both_splits = nc.read_splits(folder / "labels.tsv", n_splits=len(splits))
train("cohorts_roi_cnn", hippocampi, ad_cn, "Conv4_FC3", caps=both, splits=both_splits)

# %%
# Your own labels
# ---------------
#
# Any column of the table can be the label. A mapping can assign several labels to one class; a regression predicts
# numbers.

train("sex_roi_cnn", hippocampi, nc.classification("sex", classes=["F", "M"]), "Conv4_FC3")

everything = pd.concat([labels, known])
stable = nc.classification("diagnosis", classes={"CN": 0, "sMCI": 0, "pMCI": 1, "AD": 1})
all_splits = nc.kfold(everything, n_splits=len(splits), stratify=["diagnosis"])
train("stable_roi_cnn", hippocampi, stable, "Conv4_FC3", splits=all_splits)

age = nc.regression("age", mean=float(labels["age"].mean()), scale=float(labels["age"].std()))
train("age_roi_cnn", hippocampi, age, "Conv4_FC3")

# %%
# Your own architecture
# ---------------------
#
# An architecture is a function of the input's shape and the number of outputs. If it returns an ``nc.CNN``,
# autoencoders can be derived and weights transferred as for the built-in architectures.
# ``docs/how-to/add-an-architecture.md`` shows how to register an architecture under a name.


def two_blocks(input_shape, n_outputs, channels=8):
    """Two convolutions and one fully-connected layer, for 3-D parts."""
    convolutions = nn.Sequential(
        nn.Conv3d(input_shape[0], channels, kernel_size=3, padding=1),
        nn.BatchNorm3d(channels),
        nn.ReLU(),
        nc.PadMaxPool3d(kernel_size=4, stride=4),
        nn.Conv3d(channels, 2 * channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nc.PadMaxPool3d(kernel_size=4, stride=4),
    )
    return nc.CNN(convolutions, nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs)))


own_ae = train("own_autoencoder", hippocampi, nc.reconstruction(output="sigmoid", bottleneck=1), two_blocks)
train("own_cnn", hippocampi, ad_cn, two_blocks, transfer_from=own_ae, options={"channels": 8})

# %%
# All results
# -----------

for path in sorted(results.iterdir()):
    metrics = nc.Results(path).metrics().filter(["balanced_accuracy", "mse", "mae"])
    print(f"{path.name:32}", metrics.iloc[0].round(3).to_dict())
