"""The test of the example package; it asks for the network as a user does, by its name."""

import pytest
import torch

import neurocnn as nc


@pytest.mark.parametrize("shape", [(1, 9, 8), (2, 9, 8, 7)])
def test_the_network_is_found_by_its_name_once_the_package_is_installed(shape):
    assert nc.list_models()["TinyCNN"] == "neurocnn-tinycnn 1.0"
    model = nc.create_model("TinyCNN", shape, n_outputs=3, width=6)
    assert model(torch.zeros(2, *shape)).shape == (2, 3)


def test_an_autoencoder_can_be_derived_from_it():
    autoencoder = nc.CNN_Transformer(nc.create_model("TinyCNN", (1, 9, 8, 7)))
    assert autoencoder(torch.zeros(2, 1, 9, 8, 7))[1].shape == (2, 1, 9, 8, 7)
