"""
The lab: Alzheimer's disease in the hippocampus
===============================================

A network distinguishes patients with Alzheimer's disease (AD) from cognitively normal participants (CN) by the grey
matter of their hippocampi. The text contains questions and tasks; think before you open an answer. The code after a
task is one solution: write your own solution before you read this code.

The data are those of the lab on deep learning for medical imaging (DL4MI) of the Aramis team: the file
``OASIS-1-dataset_pt_new.tar.gz`` of https://aramislab.paris.inria.fr/files/data/databases/DL4MI/, unpacked as
``OASIS-1_dataset/`` in the working directory. If this folder is missing, a synthetic data set with the same folder tree
is written. In the synthetic data, patients have smaller hippocampi than controls, and age has no effect on the images,
so that the correct answers are known. The synthetic data require about 1 GB of disk space. The script takes about ten
minutes on two cores. The script requires ``pip install 'neurocnn[plot]'``; figures are written into ``neurocnn-lab/``.
"""
# sphinx_gallery_thumbnail_path = 'tutorials/lab.png'

from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.utils.data import DataLoader

import neurocnn as nc

# Columns of the population table. In OASIS-1 their names are "age_bl" and "MMS".
AGE, MMS = "age", "MMS"

figures = Path("neurocnn-lab")
figures.mkdir(exist_ok=True)
torch.manual_seed(0)


# %%
# The data
# --------
#
# Clinica's pipeline ``t1-volume`` has registered each image to a template and segmented its grey matter. The images are
# tensors of 121×145×121 voxels, without the original NIfTI files. Two tables list the participants for training and
# validation.
N_PARTICIPANTS = 120  # of the synthetic data set; after a change, delete neurocnn-lab/dataset


def write_synthetic_data(folder: Path) -> None:
    """Write a synthetic data set with the folder tree of the lab's data set."""
    labels = nc.make_caps(folder / "CAPS", N_PARTICIPANTS, preprocessing="t1-volume", seed=0)
    caps = nc.Caps(folder / "CAPS", "t1-volume")
    caps.prepare()
    for participant, session in labels[["participant_id", "session_id"]].itertuples(index=False):
        caps.path(participant, session).unlink()
    train, validation = nc.holdout(labels, fraction=0.2, stratify=["diagnosis", "sex", AGE], seed=0)
    tables = folder / "tsv_files" / "lab_1"
    tables.mkdir(parents=True)
    for name, rows in {"train": train, "validation": validation, "OASIS_BIDS": labels}.items():
        nc.write_table(rows, tables / f"{name}.tsv")


folder = Path("OASIS-1_dataset")
if not folder.exists():
    folder = figures / "dataset"
    if not (folder / "tsv_files").exists():
        write_synthetic_data(folder)

tables = folder / "tsv_files" / "lab_1"
everyone = nc.read_table(tables / "OASIS_BIDS.tsv")
print(nc.population(everyone, columns={"age": AGE, "MMS": MMS}))

# %%
# The score of the Mini Mental State (MMS) ranges from 0 to 30; healthy persons score close to 30. The histograms show
# ages and scores for both diagnoses.
ages, scores = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")[1]
for axes, column, label in ((ages, AGE, "Age (years)"), (scores, MMS, "MMS")):
    groups = {name: rows[column].dropna() for name, rows in everyone.groupby("diagnosis")}
    axes.hist(list(groups.values()), bins=15, label=list(groups))
    axes.set(xlabel=label, ylabel="Participants")
ages.legend()
ages.figure.savefig(figures / "population.png")

# %%
# **Question.** Are the classes balanced? Could someone guess the diagnosis without an image?
#
# .. dropdown:: Answer
#
#     The synthetic classes have equal sizes, and the ages overlap almost completely: patients are 3 years older on
#     average. OASIS-1 has 73 patients (77.5 ± 7.4 years) and 304 controls (44.0 ± 23.3 years): no young participant has
#     dementia. A network that only recognises young brains would score well. The MMS was used for the diagnosis, so it
#     must not be an input.
#
# The training and the validation set have similar distributions of diagnosis, sex and age, and no common participant.
keys = ["participant_id", "session_id"]
train, validation = (
    nc.read_table(tables / f"{name}.tsv")[keys].merge(everyone, on=keys) for name in ("train", "validation")
)
for rows in (train, validation):
    print(nc.population(rows, columns={"age": AGE, "MMS": MMS}), end="\n\n")

# %%
# Looking at an image
# -------------------
#
# Before you train, look at an image in three planes: sagittal, coronal and axial. The two boxes of 30×40×30 voxels
# contain the hippocampi. The hippocampus is required for memory and shrinks early in the disease.
#
# .. image:: /tutorials/lab.png
#    :alt: A synthetic image in three planes, with the boxes of both hippocampi.
caps = nc.Caps(folder / "CAPS", "t1-volume")
hippocampi = nc.Roi.hippocampi("t1-volume", random_shift=2)
RIGHT, LEFT = 0, 1  # part_id of each
first = validation.iloc[0]
image = caps.read(first["participant_id"], first["session_id"])
boxes = {"right": hippocampi.place(image.shape[1:], RIGHT), "left": hippocampi.place(image.shape[1:], LEFT)}
nc.plotting.planes(image, boxes=boxes, title=first["participant_id"]).savefig(figures / "image.png")
nc.plotting.planes(hippocampi.extract(image, LEFT), title="Left hippocampus").savefig(figures / "left.png")

# %%
# A dataset
# ---------
#
# torch reads data through an object with ``__len__`` and ``__getitem__``. This dataset has one item per hippocampus.
# ``dataset[i]`` calls ``dataset.__getitem__(i)``, which
#
# 1. divides i by the number of parts of an image: the quotient is the row of the table, and the remainder is the part
#    (``only_part`` keeps one part, so that i is the row);
# 2. reads only the voxels of the part's box from the file of the image;
# 3. applies the transform (None here, because the voxels are probabilities);
# 4. returns a dict: ``image`` (channel, depth, height, width), the ``label`` in the table, and the ids.
#
# In training, the box is shifted by up to two voxels along each axis, differently in each epoch, so that the network
# cannot memorise positions. ``without_augmentation()`` returns the dataset without these shifts.
both = nc.CapsDataset(caps, train, hippocampi, label="diagnosis", transform=None)
train_left, train_right = both.only_part(LEFT), both.only_part(RIGHT)
both = nc.CapsDataset(caps, validation, hippocampi, label="diagnosis", transform=None)
validation_left, validation_right = both.only_part(LEFT), both.only_part(RIGHT)

item = validation_left.without_augmentation()[0]
print({name: value for name, value in item.items() if name != "image"}, tuple(item["image"].shape))
crop = image[:, 25:55, 50:90, 27:57]
print("The item is a plain crop of the image:", torch.equal(item["image"], crop))
shifted = [validation_left[epoch, 0]["image"] for epoch in range(5)]
print("Voxels that a shift changes:", [int((one != crop).sum()) for one in shifted])

# %%
# A ``DataLoader`` stacks items into a batch, whose tensor has one more axis than that of an item.
batch = next(iter(DataLoader(train_left, batch_size=4)))
print(tuple(batch["image"].shape), batch["label"])

# %%
# **Question.** Why are the boxes not shifted in validation?
#
# .. dropdown:: Answer
#
#     The score should depend on the network only. With random shifts, the score would also depend on chance, and two
#     networks would be compared on different images.
#
# A network by hand
# -----------------
#
# Three blocks of convolution, batch norm, LeakyReLU and pooling reduce a hippocampus to 32 feature maps, from which one
# fully-connected layer computes a score for each class.
#
# - A convolution with kernel size k, padding P and stride S turns I voxels into (I − k + 2P) / S + 1. Its weights have
#   the shape (output channels, input channels, k, k, k), and there is one bias for each output channel.
# - Batch norm subtracts the mean of each channel over the batch and divides by the standard deviation; in evaluation,
#   it uses running averages instead. Then it scales and shifts each channel by two learned numbers. Dropout sets half
#   of its inputs to 0 in training, and changes nothing in evaluation.
# - Max pooling of size 2 and stride 2 would drop the last plane of an odd size. ``PadMaxPool3d`` adds a plane of zeros
#   in front instead, so that no voxel is dropped.
for size in ((4, 4, 4), (5, 5, 5)):
    maps = torch.rand(1, 1, *size)
    pooled = nn.MaxPool3d(2)(maps), nc.PadMaxPool3d(2, 2)(maps)
    print(size, "MaxPool3d:", tuple(pooled[0].shape[2:]), "PadMaxPool3d:", tuple(pooled[1].shape[2:]))


# %%
# **Task.** Write the network: 8, 16 and 32 filters of size 3 with padding 1, then dropout of 0.5 before the
# fully-connected layer. Which sizes do the feature maps have, and how many weights are there?
#
# .. dropdown:: Answer
#
#     The feature maps have the sizes 8×15×20×15, 16×8×10×8 and 32×4×5×4 after the three blocks, so that the
#     fully-connected layer has 2,560 inputs. There are 22,786 weights, most of them in the third convolution (13,856)
#     and in the fully-connected layer (5,122).
class Network(nn.Module):
    """The lab's network for a hippocampus (B, 1, 30, 40, 30)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 8), (8, 16), (16, 32)):
            layers += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after)]
            layers += [nn.LeakyReLU(), nc.PadMaxPool3d(2, 2)]
        self.convolutions = nn.Sequential(*layers)
        self.fc = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 4 * 5 * 4, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one score per class (B, 2)."""
        return self.fc(self.convolutions(images))


n_weights = sum(weights.numel() for weights in Network().parameters())
print(f"{n_weights} weights")
print(nc.describe("Conv3_FC1", "1@30x40x30"))

# %%
# Training by hand
# ----------------
#
# An epoch passes every hippocampus through the network once: compute the scores, compare them with the diagnoses,
# compute the gradients, and update the weights with the optimizer. Then the network is evaluated on the complete
# training set, and the weights with the smallest loss are kept. The validation set is not used for this selection,
# because its score would then be biased, and there is no third set for an unbiased score.
#
# **Task.** Write two functions: one trains a network, the other evaluates it.
CODES = {"CN": 0, "AD": 1}


def measure(table: pd.DataFrame) -> dict[str, float]:
    """Return sensitivity, specificity and their mean, from the columns `true_label` and `predicted_label`."""
    right = table["true_label"] == table["predicted_label"]
    sensitivity, specificity = (float(right[table["true_label"] == code].mean()) for code in (1, 0))
    return {
        "sensitivity": round(sensitivity, 3),
        "specificity": round(specificity, 3),
        "balanced_accuracy": round((sensitivity + specificity) / 2, 3),
    }


def test_by_hand(model: nn.Module, loader: DataLoader) -> tuple[pd.DataFrame, float]:
    """Return a table with one row per hippocampus, and the mean loss."""
    model.eval()  # batch norm and dropout behave differently in evaluation
    tables, total = [], 0.0
    with torch.no_grad():
        for batch in loader:
            targets = torch.tensor([CODES[label] for label in batch["label"]])
            outputs = model(batch["image"])
            total += float(nn.functional.cross_entropy(outputs, targets, reduction="sum"))
            probabilities = outputs.softmax(1)
            found = {
                "true_label": targets,
                "predicted_label": outputs.argmax(1),
                "proba1": probabilities[:, 1],
            }
            tables.append(pd.DataFrame({"participant_id": batch["participant_id"], **found}))
    return pd.concat(tables, ignore_index=True), total / len(loader.dataset)


def train_by_hand(
    model: nn.Module, dataset: nc.CapsDataset, n_epochs: int, learning_rate: float, batch_size: int = 4
) -> nn.Module:
    """Return a copy of the network after the epoch with the smallest training loss."""
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    test_loader = DataLoader(dataset.without_augmentation(), batch_size=32)
    best, smallest = deepcopy(model), float("inf")
    for epoch in range(n_epochs):
        model.train()
        order = torch.randperm(len(dataset)).tolist()
        # With an index (epoch, number), each epoch has its own shifts.
        for batch in DataLoader(dataset, batch_size, sampler=[(epoch, number) for number in order]):
            targets = torch.tensor([CODES[label] for label in batch["label"]])
            loss = nn.functional.cross_entropy(model(batch["image"]), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        table, mean_loss = test_by_hand(model, test_loader)
        print(f"epoch {epoch}: loss {mean_loss:.4f}, {measure(table)}")
        if mean_loss < smallest:
            best, smallest = deepcopy(model), mean_loss
    return best


N_EPOCHS = 30
LEARNING_RATE = 3e-4
by_hand = train_by_hand(Network(), train_left, N_EPOCHS, LEARNING_RATE)
table, _ = test_by_hand(by_hand, DataLoader(validation_left.without_augmentation(), batch_size=32))
accuracy_by_hand = measure(table)
print("By hand, left hippocampus:", accuracy_by_hand)

# %%
# **Question.** What happens with a learning rate of 1e-5, with a learning rate of 1e-2, and with batches of 64? Try
# ``train_by_hand(Network(), train_left, N_EPOCHS, 1e-2)`` and ``train_by_hand(…, LEARNING_RATE, batch_size=64)``.
#
# .. dropdown:: Answer
#
#     With 1e-5, the loss decreases so slowly that 30 epochs are not enough. With 1e-2, the loss varies strongly,
#     because each step goes beyond the minimum. The final loss may still be lower, because the network can memorise so
#     few participants. With batches of 64, an epoch is faster but has only two updates, so that more epochs or a larger
#     learning rate are required. The training set is small for such batches.
#
# The same in three lines
# -----------------------
#
# ``Trainer.fit`` contains the loop above. It also uses a GPU if the machine has one, can write checkpoints from which a
# stopped run resumes, and returns the history of the training. Without a validation set, the training loss selects
# the best epoch.
task = nc.classification("diagnosis", classes=["CN", "AD"])
trainer = nc.Trainer(
    epochs=N_EPOCHS, batch_size=4, learning_rate=LEARNING_RATE, weight_decay=0, patience=0, n_workers=0
)


def train_and_predict(train: nc.CapsDataset, validation: nc.CapsDataset) -> pd.DataFrame:
    """Return the predictions of a new network for the validation set, one row per hippocampus."""
    cnn = nc.create_model("Conv3_FC1", train.input_shape)
    cnn.load_state_dict(trainer.fit(cnn, task, train).best["best_loss"])
    return nc.predict(cnn, task, validation)


left = train_and_predict(train_left, validation_left)
print("Left hippocampus:", measure(left))

# %%
# Two networks, one vote
# ----------------------
#
# A second network is trained on the right hippocampus. Soft voting averages the probabilities of both networks, here
# with equal weights, and predicts the class with the larger mean.
right = train_and_predict(train_right, validation_right)
print("Right hippocampus:", measure(right))
votes = nc.soft_vote(pd.concat([left, right]))
accuracy_of_votes = measure(votes)
print("Both:", accuracy_of_votes)

# %%
# **Question.** Why can a vote be better than each of the networks? Is the balanced accuracy of the vote an unbiased
# estimate?
#
# .. dropdown:: Answer
#
#     Both networks are trained to recognise the same disease but make partly different errors, and a confident network
#     outweighs an uncertain network. This script uses the validation set neither for training nor for selection, so the
#     estimate is unbiased for the synthetic data. The lab's architecture and learning rate were chosen on the
#     validation set of OASIS-1, so that the estimate for OASIS-1 is too high; an unbiased estimate requires a third
#     set.
#
# The disease or the age?
# -----------------------
#
# In OASIS-1 only old participants have dementia. A network that recognises age would classify all young participants
# correctly, but would be no better than chance in a memory clinic. Two checks are possible: the accuracy among
# participants of 62 years and over (62 is the lowest age of the patients), and the accuracy of predictions from age
# only, without images.
old = votes.merge(validation[[*keys, AGE]], on=keys)
old = old[old[AGE] >= 62]
accuracy_of_old = measure(old)
print(f"62 and over ({len(old)} of {len(votes)}):", accuracy_of_old)


def measure_age(rows: pd.DataFrame) -> dict[str, float]:
    """Return the accuracy of a logistic regression on age that was fitted to the training set."""
    model = LogisticRegression(class_weight="balanced").fit(train[[AGE]], train["diagnosis"].map(CODES))
    predicted = model.predict(rows[[AGE]])
    return measure(pd.DataFrame({"true_label": rows["diagnosis"].map(CODES), "predicted_label": predicted}))


accuracy_of_age = measure_age(validation)
accuracy_of_age_old = measure_age(validation[validation[AGE] >= 62])
print("Age alone:", accuracy_of_age, "62 and over:", accuracy_of_age_old)
controls = votes.merge(validation[[*keys, AGE]], on=keys).query("true_label == 0")
correlation = float(np.corrcoef(controls["proba1"], controls[AGE])[0, 1])
print(f"Correlation of age and the probability of AD among controls: {correlation:.2f}")

# %%
# **Question.** Does the network recognise the disease or the age?
#
# .. dropdown:: Answer
#
#     In the synthetic data, the network recognises the disease: its accuracy is the same among old participants,
#     predictions from age are much worse, and age has no effect on the images. The correlation among only 12 controls
#     is chance if it is between −0.58 and 0.58 (p > 0.05). In OASIS-1, the accuracy of the lab's network of the left
#     hippocampus is 0.78, but only 0.71 among old participants. The validation set of OASIS-1 has 15 patients, all of
#     62 years and over, and 62 controls, of whom 45 are younger. Therefore the rule "62 and over is AD" has a balanced
#     accuracy of 0.86, which is higher than that of both networks together (0.82). To avoid this, train and evaluate
#     only on participants of 62 years and over.
#
# An autoencoder by hand
# ----------------------
#
# An autoencoder learns from images without using their diagnoses, which can be wrong. Its encoder compresses an image
# into a code, and its decoder restores the image from the code. The pooling layers of the encoder return the positions
# of their maxima, to which the unpooling layers of the decoder write their inputs. A convolution of size 1 reduces the
# 32 feature maps to a single feature map. This code has 80 numbers for a hippocampus of 36,000 voxels. The decoder
# receives these numbers and the positions of the maxima, so that a good reconstruction does not prove that the code is
# informative.
#
# **Task.** Write the autoencoder, whose decoder ends in batch norm and a sigmoid. Which layer of the decoder reverses
# which layer of the encoder?


class Autoencoder(nn.Module):
    """The lab's autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList([nn.ConvTranspose3d(1, 32, 1)])
        for before, after in ((1, 8), (8, 16), (16, 32)):
            self.encoder += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.LeakyReLU()]
            self.encoder += [nc.PadMaxPool3d(2, 2, return_indices=True, return_pad=True)]
        self.encoder += [nn.Conv3d(32, 1, 1)]
        for before, after in ((32, 16), (16, 8), (8, 1)):
            self.decoder += [nc.CropMaxUnpool3d(2, 2), nn.ConvTranspose3d(before, after, 3, padding=1)]
            self.decoder += [nn.BatchNorm3d(after), nn.Sigmoid() if after == 1 else nn.LeakyReLU()]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes (B, 80) and the reconstructions (B, 1, 30, 40, 30)."""
        positions = []
        for layer in self.encoder:
            x = layer(x)
            if isinstance(layer, nc.PadMaxPool3d):
                x, indices, padding = x
                positions.append((indices, padding))
        code = x.flatten(1)
        for layer in self.decoder:
            x = layer(x, *positions.pop()) if isinstance(layer, nc.CropMaxUnpool3d) else layer(x)
        return code, x


# %%
# .. dropdown:: Answer
#
#     Each convolution is reversed by a transposed convolution, and each pooling by an unpooling, in the opposite order;
#     batch norm and activation follow each transposed convolution. The sigmoid at the end keeps the output in [0, 1],
#     as probabilities are.
#
# ``CNN_Transformer`` derives the same autoencoder from the network, for any input size. With equal weights, both
# autoencoders return the same values. The derived autoencoder is trained as above.
#
# **Question.** Which lines of ``train_by_hand`` and ``test_by_hand`` change for an autoencoder?
#
# .. dropdown:: Answer
#
#     The target is the image itself: the loss is ``nn.functional.mse_loss(model(batch["image"])[1], batch["image"])``,
#     and no diagnosis is used. The evaluation returns only the mean loss, because there are no classes to count.
cnn = nc.create_model("Conv3_FC1", (1, 30, 40, 30))
autoencoder = nc.CNN_Transformer(cnn, output="sigmoid", bottleneck=1)
same = Autoencoder()
layers = [*autoencoder.encoder, autoencoder.bottleneck, autoencoder.expansion, *autoencoder.decoder]
for layer, other in zip(layers, [*same.encoder, *same.decoder], strict=True):
    other.load_state_dict(layer.state_dict())
code, reconstructions = autoencoder(batch["image"])
is_same = torch.equal(reconstructions, same(batch["image"])[1])
print("Codes:", tuple(code.shape), "the same as by hand:", is_same)

trainer = nc.Trainer(
    epochs=N_EPOCHS, batch_size=4, learning_rate=1e-2, weight_decay=0, patience=0, n_workers=0
)
training = trainer.fit(autoencoder, nc.reconstruction(), train_left)
autoencoder.cpu().load_state_dict(training.best["best_loss"])  # the images below are not on the GPU
nc.plotting.learning_curves(training.history).savefig(figures / "autoencoder.png")

# %%
# The error of the autoencoder is compared with the error of the best constant image, which is the mean image of the
# training set. To measure the effect of the code, the decoder is then called with the mean code of all participants and
# the positions of each participant.
plain = train_left.without_augmentation()
images = torch.stack([plain[number]["image"] for number in range(len(plain))])
error_of_mean = float(((images - images.mean(0)) ** 2).mean())
ratio = training.history["train_loss"].min() / error_of_mean
print(f"Error of the autoencoder: {ratio:.2f} of the mean image's")
autoencoder.eval()
with torch.no_grad():
    mean_code = autoencoder.encode(images).mean(0)
    handle = autoencoder.bottleneck.register_forward_hook(
        lambda layer, inputs, output: mean_code.view_as(output[:1]).expand_as(output)
    )
    error = float(((autoencoder(images)[1] - images) ** 2).mean())
    handle.remove()
print(f"With the mean code and the own positions: {error / error_of_mean:.2f}")
reconstruction = autoencoder(crop.unsqueeze(0))[1][0]
picture = nc.plotting.reconstruction(crop, reconstruction)
picture.savefig(figures / "reconstruction.png")

# %%
# **Question.** What is missing in the reconstruction?
#
# .. dropdown:: Answer
#
#     Noise and the finest folds are missing. The size and the position of the hippocampus are restored, but mainly from
#     the positions of the maxima: with the mean code, the error is hardly larger. A code can contain the complete
#     information only if the autoencoder does not pass positions to its decoder.
#
# Clusters without diagnoses
# --------------------------
#
# A mixture of two Gaussians is fitted to the codes, without any information about the participants. The Gaussians are
# spherical, because a full covariance of 80 numbers cannot be estimated from so few participants.
codes = nc.encode(autoencoder, plain)
features = codes.filter(regex=r"^code\d+$").to_numpy(float)
mixture = GaussianMixture(2, covariance_type="spherical", n_init=5, random_state=0)
clusters = codes[keys].assign(cluster=mixture.fit_predict(features)).merge(train, on=keys)
by_cluster = clusters.groupby("cluster").agg(
    N=("cluster", "size"),
    AD=("diagnosis", lambda diagnoses: (diagnoses == "AD").mean()),
    age=(AGE, "mean"),
    MMS=(MMS, "mean"),
)
print(by_cluster.round(2))

markers = {"CN": "o", "AD": "x"}
axes = plt.subplots(figsize=(6, 4), layout="constrained")[1]
for (cluster, diagnosis), rows in clusters.groupby(["cluster", "diagnosis"]):
    label = f"cluster {cluster}, {diagnosis}"
    axes.plot(rows[AGE], rows[MMS], markers[diagnosis], color=f"C{cluster}", label=label, alpha=0.7)
axes.set(xlabel="Age (years)", ylabel="MMS")
axes.legend()
axes.figure.savefig(figures / "clusters.png")

# %%
# **Question.** Which property of a participant do the clusters show: the diagnosis, the age or the MMS?
#
# .. dropdown:: Answer
#
#     The clusters show the size of the hippocampus. In the synthetic data, this size depends only on the disease, as
#     does the MMS. Most patients are in one cluster, whose mean MMS is several points lower. The mean ages of the
#     clusters differ little, because the mean ages of patients and controls differ little. In OASIS-1, the hippocampus
#     also shrinks with age, so that you must consider both axes of the figure. Next, try the codes of both hippocampi
#     together, fewer dimensions, or features from which the effect of age was removed.
