"""
A task of your own: a variational autoencoder
=============================================

A task is a dataclass of functions. This variant has the loss of a variational autoencoder instead of the squared error;
training, selection, tables and checkpoints remain the same.
"""

import tempfile
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import neurocnn as nc

SIZE = (16, 20, 16)  # voxels of a hippocampus in images of 3 mm


class VariationalAutoencoder(nn.Module):
    """Autoencoder whose code of two numbers is drawn from a normal distribution."""

    def __init__(self) -> None:
        super().__init__()
        n_voxels = SIZE[0] * SIZE[1] * SIZE[2]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(n_voxels, 64), nn.ReLU(), nn.Linear(64, 4))
        self.decoder = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, n_voxels), nn.Unflatten(1, (1, *SIZE))
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return the means of the codes (B, 2)."""
        return self.encoder(images)[:, :2]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return mean, log_variance, self.decoder(mean + noise * (log_variance / 2).exp())


# %%
# The loss of a sample is the squared error, summed over its voxels, plus the divergence of its code from the standard
# normal distribution (Kingma and Welling, 2014). As for any other autoencoder, the last entry of the output is the
# reconstruction, so that the metrics of `reconstruction` can be used.
def loss(output: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    mean, log_variance, reconstruction = output
    error = (reconstruction - images).square().flatten(1).sum(1)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    return error + divergence


task = replace(nc.reconstruction(), name="variational", loss=loss)

# %%
folder = tempfile.mkdtemp()
labels = nc.make_caps(folder, n_participants=64, preprocessing="t1-volume", shape=(61, 73, 61), atrophy=0.5)
caps, hippocampus = nc.Caps(folder, "t1-volume"), nc.Roi({"right": ((32, 48), (25, 45), (13, 29))})
rest, test = nc.holdout(labels, fraction=0.25, stratify=["diagnosis"])
train, validation, everyone = (nc.CapsDataset(caps, rows, hippocampus) for rows in (rest, test, labels))
torch.manual_seed(0)
network = VariationalAutoencoder()
trainer = nc.Trainer(epochs=60, batch_size=8, learning_rate=3e-3, weight_decay=0, patience=0, n_workers=0)
training = trainer.fit(network, task, train, validation)
print(
    training.history[["epoch", "train_loss", "validation_loss", "validation_psnr"]]
    .iloc[::20]
    .to_string(index=False)
)

# %%
# ``encode`` returns one row per image with the numbers of its code. The diagnosis was not used in the training, but the
# codes of patients and controls differ.
network.load_state_dict(training.best["best_loss"])
codes = nc.encode(network, everyone).merge(labels, on=["participant_id", "session_id"])
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for diagnosis, rows in codes.groupby("diagnosis"):
    axes.scatter(rows["code0"], rows["code1"], label=diagnosis)
axes.set(title="Codes of the right hippocampus", xlabel="First number", ylabel="Second number")
axes.legend()
