import numpy as np
import pytest
import torch

from neurocnn.engine.similarity import similarity

peer = pytest.importorskip("skimage.metrics")


@pytest.mark.parametrize("shape", [(9, 11, 8), (7, 7, 7), (12, 10)])
def test_similarities_agree_with_scikit_image(shape):
    generator = torch.Generator().manual_seed(0)
    images = 5 * torch.rand((3, 1, *shape), generator=generator) - 1
    outputs = images + 0.3 * torch.randn(images.shape, generator=generator)
    found = similarity(outputs, images)
    for i, (output, image) in enumerate(
        zip(outputs[:, 0].double().numpy(), images[:, 0].double().numpy(), strict=True)
    ):
        extent = float(image.max() - image.min())
        assert found["ssim"][i] == pytest.approx(
            peer.structural_similarity(image, output, data_range=extent), rel=1e-9
        )
        assert found["psnr"][i] == pytest.approx(
            peer.peak_signal_noise_ratio(image, output, data_range=extent)
        )
        assert found["mse"][i] == pytest.approx(np.mean((output - image) ** 2))
        assert found["mae"][i] == pytest.approx(np.mean(abs(output - image)))


def test_an_image_smaller_than_the_window_is_compared_in_a_smaller_window():
    image = torch.rand(1, 1, 5, 20, 20)
    output = image + 0.1 * torch.rand_like(image)
    expected = peer.structural_similarity(
        image[0, 0].double().numpy(),
        output[0, 0].double().numpy(),
        data_range=float(image.double().max() - image.double().min()),
        win_size=5,
    )
    assert similarity(output, image)["ssim"][0] == pytest.approx(expected, rel=1e-9)


def test_a_constant_image_has_finite_similarities():
    found = similarity(torch.ones(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8))
    assert found["psnr"][0] == pytest.approx(0.0)
    assert np.isfinite(found["ssim"][0])
