"""
An architecture in a package of its own
=======================================

A package adds networks to neurocnn with one function, which is marked with ``hookimpl`` and returns names and builders
of the networks. After ``pip install`` of the package, the networks can be used by name, like the networks of neurocnn.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import neurocnn as nc

module = """
from torch import nn
import neurocnn as nc

def build(input_shape, n_outputs, *, width=4):
    convolutions = nn.Sequential(nn.Conv3d(input_shape[0], width, 5, padding=2), nn.ReLU(), nc.PadMaxPool3d(2))
    fc = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, n_outputs))
    return nc.CNN(convolutions, fc)

@nc.hookimpl
def neurocnn_architectures():
    return {"SmallCNN": build}
"""

# %%
# The entry point of the package names the module. Usually ``pip install`` writes the module and the metadata of the
# package; this example writes them into a temporary folder, so that nothing is installed.
folder = Path(tempfile.mkdtemp())
(folder / "smallcnn.py").write_text(module)
metadata = folder / "smallcnn-1.0.dist-info"
metadata.mkdir()
(metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: smallcnn\nVersion: 1.0\n")
(metadata / "entry_points.txt").write_text("[neurocnn]\nsmallcnn = smallcnn\n")

# %%
# In a new process, the network is listed with its package and version, and can be used by its name.
script = """
import neurocnn as nc
print(nc.list_models()["SmallCNN"])
print(nc.describe("SmallCNN", "1@40x48x40", width=4))
"""
paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
environment = {**os.environ, "PYTHONPATH": paths}
print(subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True).stdout)

# %%
# The figure shows feature maps of the new network before any training. Functions that accept a name of a network also
# accept its builder.
sys.path.insert(0, str(folder))
import smallcnn  # noqa: E402

labels = nc.make_caps(folder / "caps", n_participants=2, preprocessing="t1-volume", shape=(40, 48, 40))
image = nc.Caps(folder / "caps", "t1-volume").read(*labels.loc[0, ["participant_id", "session_id"]])
torch.manual_seed(0)
network = nc.create_model(smallcnn.build, tuple(image.shape), n_outputs=2, width=4)
with torch.no_grad():
    feature_maps = network.convolutions(image[None])[0]
figure, panels = plt.subplots(1, 5, figsize=(11, 2.8), layout="constrained")
for panel, volume, title in zip(panels, [image[0], *feature_maps], ["Image", *"1234"], strict=True):
    panel.imshow(volume[:, :, volume.shape[2] // 2].T, cmap="gray", origin="lower")
    panel.set(title=title, xticks=[], yticks=[])
