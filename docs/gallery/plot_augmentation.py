"""
Augment with MONAI and TorchIO
==============================

A transform is any callable from tensor to tensor, so that transforms of MONAI, TorchIO and torchvision can be used.
Transforms of MONAI and TorchIO receive the affine of the part, so that a flip along an anatomical direction or a
spacing in mm is correct.
"""

import tempfile

import matplotlib.pyplot as plt
import monai.transforms as monai
import torchio

import neurocnn as nc

folder = tempfile.mkdtemp()
labels = nc.make_caps(folder, n_participants=2, shape=(84, 104, 90))
caps = nc.Caps(folder, "t1-linear")
augmentations = {
    "None": None,
    "MONAI: noise": monai.RandGaussianNoise(prob=1, std=0.15),
    "TorchIO: flip left and right": torchio.RandomFlip("Left", flip_probability=1),
    "TorchIO: bias field": torchio.RandomBiasField(0.8),
    "Both": monai.Compose(
        [torchio.RandomMotion(degrees=15), monai.RandAdjustContrast(prob=1, gamma=(0.5, 2))]
    ),
}

# %%
# ``transform`` is applied to every set, ``augmentation`` to the training set only. The random numbers of an item depend
# on the seed, the epoch and the image, not on the number of workers: ``dataset[epoch, i]`` is repeatable.
figure, panels = plt.subplots(1, len(augmentations), figsize=(12, 3.2), layout="constrained")
for panel, (title, augmentation) in zip(panels, augmentations.items(), strict=True):
    dataset = nc.CapsDataset(caps, labels, transform=nc.MinMax(), augmentation=augmentation)
    panel.imshow(dataset[0, 0]["image"][0, :, :, 40].T, cmap="gray", origin="lower", vmin=0, vmax=1)
    panel.set(title=title, xticks=[], yticks=[])

# %%
# This figure shows the same image in the first eight epochs of training with ``Trainer(seed=0)``:
dataset = nc.CapsDataset(caps, labels, transform=nc.MinMax(), augmentation=augmentations["Both"]).with_seed(0)
figure, panels = plt.subplots(1, 8, figsize=(12, 2.2), layout="constrained")
for epoch, panel in enumerate(panels):
    panel.imshow(dataset[epoch, 0]["image"][0, :, :, 40].T, cmap="gray", origin="lower", vmin=0, vmax=1)
    panel.set(title=f"Epoch {epoch}", xticks=[], yticks=[])

# %%
# TorchIO's transforms receive slices with a depth of one voxel and the affine of the volume,
# so that a flip from left to right is correct in each direction of the slices.
slices = nc.Slice(direction=1, discarded_slices=20)
flips = [None, torchio.RandomFlip("Left", flip_probability=1)]
figure, panels = plt.subplots(1, 2, figsize=(5, 3), layout="constrained")
for panel, augmentation in zip(panels, flips, strict=True):
    item = nc.CapsDataset(caps, labels, slices, transform=nc.MinMax(), augmentation=augmentation)[0, 30]
    panel.imshow(item["image"][0].T, cmap="gray", origin="lower", vmin=0, vmax=1)
    panel.set(title="None" if augmentation is None else "Flip left and right", xticks=[], yticks=[])
