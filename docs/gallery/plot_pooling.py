"""
Pooling that keeps every voxel
==============================

Max pooling of size 2 drops the last plane of an odd size. ``PadMaxPool`` adds a plane of zeros in front of the axis
instead, and ``CropMaxUnpool`` removes this plane, so that the output of a decoder has exactly the size of the encoder's
input.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import neurocnn as nc

feature_map = torch.tensor(
    [[1, 2, 0, 3, 9], [4, 1, 1, 0, 2], [0, 2, 7, 1, 1], [3, 1, 0, 5, 2], [8, 0, 2, 1, 6.0]]
)
batch = feature_map[None, None]
pool = nc.PadMaxPool2d(2, return_indices=True, return_pad=True)
pooled, indices, padding = pool(batch)
print("Padding (left, right, top, bottom):", padding)

# %%
# torch's pooling drops the last row and column, so that the values 9, 8 and 6 are lost. With padding these values are
# kept, and unpooling writes each maximum to its original position.
stages = {
    "Feature map, 5×5": feature_map,
    "MaxPool2d, 2×2": nn.MaxPool2d(2)(batch)[0, 0],
    "PadMaxPool2d, 3×3": pooled[0, 0],
    "CropMaxUnpool2d, 5×5": nc.CropMaxUnpool2d(2)(pooled, indices, padding)[0, 0],
}
figure, panels = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for panel, (title, values) in zip(panels, stages.items(), strict=True):
    panel.imshow(values, cmap="Blues", vmin=0, vmax=12)
    panel.set(title=title, xticks=[], yticks=[])
    for row, column in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
        panel.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center")
