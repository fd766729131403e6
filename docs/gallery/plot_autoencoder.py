"""
An autoencoder derived from a CNN
=================================

``CNN_Transformer`` derives an autoencoder from any CNN: the encoder is a copy of the convolutions of the CNN, and the
decoder reverses these convolutions layer by layer.
"""

import tempfile

import torch

import neurocnn as nc

torch.manual_seed(0)
cnn = nc.create_model("Conv3_FC1", (1, 16, 20, 16))
autoencoder = nc.CNN_Transformer(cnn, output="linear")
print(nc.describe(autoencoder, "1@16x20x16", n_outputs=None))

# %%
# The autoencoder learns to reproduce its input without labels. Here the input is the right hippocampus in images of 3
# mm.
folder = tempfile.mkdtemp()
labels = nc.make_caps(folder, n_participants=32, preprocessing="t1-volume", shape=(61, 73, 61))
hippocampus = nc.Roi({"right": ((32, 48), (25, 45), (13, 29))})
caps = nc.Caps(folder, "t1-volume")
rest, test = nc.holdout(labels, fraction=0.25)
train, validation = (nc.CapsDataset(caps, rows, hippocampus) for rows in (rest, test))
trainer = nc.Trainer(epochs=30, learning_rate=1e-2, patience=0, n_workers=0)
training = trainer.fit(autoencoder, nc.reconstruction(), train, validation)
print(training.history[["epoch", "train_loss", "validation_loss"]].iloc[::10].to_string(index=False))

# %%
# The code of an image is the output of the encoder. `transfer_weights` copies the weights of the trained encoder into
# the CNN.
image = validation[0]["image"]
autoencoder.cpu().load_state_dict(training.best["best_loss"])  # the image is not on the GPU
with torch.no_grad():
    code, reconstruction = autoencoder.eval()(image[None])
print(image.numel(), "voxels, a code of", code.numel(), "numbers")
nc.transfer_weights(autoencoder, cnn)
nc.plotting.reconstruction(image, reconstruction[0])
