"""Networks of this package can be exported."""

import pytest
import torch

import neurocnn as nc


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Conv3_FC1", (1, 18, 20, 18)), ("Conv4_FC3", (1, 50, 50, 50)), ("Conv4_FC3", (1, 64, 70))],
)
def test_an_exported_network_returns_the_same_outputs(name: str, shape: tuple[int, ...]):
    model = nc.create_model(name, shape).eval()
    images = torch.rand(2, *shape)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))
