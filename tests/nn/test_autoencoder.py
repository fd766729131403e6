"""An autoencoder consists of the CNN's convolutions and their reverse layers, for any sequence of layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neurocnn.errors import ModelError, NeurocnnError
from neurocnn.nn import (
    CNN,
    CNN_Transformer,
    CropMaxUnpool3d,
    PadMaxPool2d,
    PadMaxPool3d,
    create_model,
    transfer_weights,
)


def names(sequence):
    return [type(layer).__name__ for layer in sequence]


def block(n, *channels, **options):
    convolution, norm, pool = {
        2: (nn.Conv2d, nn.BatchNorm2d, PadMaxPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, PadMaxPool3d),
    }[n]
    return [convolution(*channels, 3, **options), norm(channels[1]), nn.ReLU(), pool(2, 2)]


@pytest.mark.faults
@pytest.mark.parametrize("n", [2, 3])
def test_the_decoder_equals_the_published_one_in_2d_and_3d(n):
    autoencoder = CNN_Transformer(nn.Sequential(*block(n, 1, 8, padding=1), *block(n, 8, 16)))
    unit = [f"CropMaxUnpool{n}d", f"ConvTranspose{n}d", f"BatchNorm{n}d", "ReLU"]
    assert names(autoencoder.decoder) == unit * 2
    assert autoencoder.decoder[1].weight.shape == (16, 8, *[3] * n)
    assert autoencoder.decoder[2].num_features == 8
    assert autoencoder.decoder[6].num_features == 1


def test_forward_equals_the_explicit_loop_of_the_lab():
    torch.manual_seed(0)
    autoencoder = CNN_Transformer(nn.Sequential(*block(3, 1, 4, padding=1), *block(3, 4, 6))).eval()
    images = torch.randn(2, 1, 13, 10, 9)
    x, kept = images, []
    for layer in autoencoder.encoder:
        if isinstance(layer, PadMaxPool3d):
            pad = [number for size in x.shape[:1:-1] for number in (size % 2, 0)]
            x, indices = F.max_pool3d(F.pad(x, pad), 2, 2, return_indices=True)
            kept.append((indices, pad))
        else:
            x = layer(x)
    code = x.flatten(1)
    for start in (0, 4):
        indices, pad = kept.pop()
        x = F.max_unpool3d(x, indices, 2, 2)[:, :, pad[4] :, pad[2] :, pad[0] :]
        for layer in autoencoder.decoder[start + 1 : start + 4]:
            x = layer(x)
    found_code, found = autoencoder(images)
    torch.testing.assert_close(found_code, code, rtol=0, atol=0)
    torch.testing.assert_close(found, x, rtol=0, atol=0)
    torch.testing.assert_close(autoencoder.encode(images), code, rtol=0, atol=0)


def test_the_encoder_is_a_copy_with_the_weights_of_the_cnn():
    cnn = create_model("Conv5_FC3", (1, 16, 16, 16))
    autoencoder = CNN_Transformer(cnn)
    assert set(autoencoder.encoder.state_dict()) == set(cnn.convolutions.state_dict())
    with torch.no_grad():
        autoencoder.encoder[0].weight.zero_()
    assert cnn.convolutions[0].weight.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:CNN_Transformer. output='mirror' multiplies")
def test_a_leaky_relu_gets_the_inverse_slope_and_a_slope_of_0_is_kept():
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.25), nn.Conv2d(2, 2, 3), nn.LeakyReLU(0))
    decoder = CNN_Transformer(cnn).decoder
    assert [decoder[1].negative_slope, decoder[3].negative_slope] == [0, 4]


def test_flatten_and_linear_are_reversed_with_sizes_swapped():
    cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        PadMaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(4 * 3 * 2, 10),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Linear(10, 5, bias=False),
    )
    autoencoder = CNN_Transformer(cnn)
    assert names(autoencoder.decoder) == [
        "Linear",
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Dropout",
        "Reshape",
        "CropMaxUnpool2d",
        "ConvTranspose2d",
    ]
    assert autoencoder.decoder[0].bias is None
    assert autoencoder.decoder[2].num_features == 24
    code, reconstruction = autoencoder(torch.rand(3, 1, 8, 6))
    assert code.shape == (3, 5)
    assert reconstruction.shape == (3, 1, 8, 6)


def test_unflatten_is_reversed_too():
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(30, 24), nn.Unflatten(1, (2, 4, 3)), nn.Conv2d(2, 3, 3))
    code, reconstruction = CNN_Transformer(cnn)(torch.rand(2, 1, 5, 6))
    assert code.shape == (2, 3 * 2 * 1)
    assert reconstruction.shape == (2, 1, 5, 6)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)])
def test_a_max_pooling_of_torch_is_reversed_by_an_unpooling(pool):
    torch.manual_seed(0)
    autoencoder = CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 1), pool)).eval()
    assert names(autoencoder.decoder) == ["MaxUnpool2d", "ConvTranspose2d"]
    images = torch.rand(2, 1, 7, 9)
    maps = autoencoder.encoder[0](images)
    settings = (pool.kernel_size, pool.stride, pool.padding)
    maxima, indices = F.max_pool2d(maps, *settings, ceil_mode=pool.ceil_mode, return_indices=True)
    unpooled = torch.zeros(2, 2, 63).scatter(2, indices.flatten(2), maxima.flatten(2)).view(2, 2, 7, 9)
    expected = F.conv_transpose2d(unpooled, autoencoder.decoder[1].weight, autoencoder.decoder[1].bias)
    torch.use_deterministic_algorithms(True)
    torch.testing.assert_close(autoencoder(images)[1], expected, rtol=0, atol=0)


def test_strides_dilations_groups_and_bias_are_kept():
    convolution = nn.Conv3d(
        4, 8, (3, 2, 3), stride=(2, 1, 3), padding=(1, 0, 2), dilation=(1, 2, 1), groups=2
    )
    convolution_without = nn.Conv3d(8, 8, 3, groups=8, bias=False)
    decoder = CNN_Transformer(nn.Sequential(convolution, convolution_without)).decoder
    for layer, transposed in ((convolution, decoder[1]), (convolution_without, decoder[0])):
        for setting in ("kernel_size", "stride", "padding", "dilation", "groups"):
            assert getattr(transposed, setting) == getattr(layer, setting)
        assert (transposed.bias is None) == (layer.bias is None)
        assert (transposed.in_channels, transposed.out_channels) == (layer.out_channels, layer.in_channels)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch warns that this is slow
@given(st.integers(1, 6), st.integers(1, 3), st.integers(7, 12))
def test_the_reverse_of_a_convolution_with_same_padding_restores_the_input_size(kernel, dilation, size):
    convolution = nn.Conv2d(1, 2, kernel, dilation=dilation, padding="same")
    images = torch.rand(1, 1, size, size + 1)
    autoencoder = CNN_Transformer(nn.Sequential(convolution))
    found = autoencoder(images)[1]
    # The reference is the derivative of the convolution, which needs no size or padding of the output.
    maps = convolution(images.requires_grad_())
    weight = autoencoder.decoder[0].weight.detach()
    (expected,) = torch.autograd.grad(
        F.conv2d(images, weight, dilation=dilation, padding="same"), images, convolution(images).detach()
    )
    assert maps.shape[2:] == images.shape[2:]
    torch.testing.assert_close(found.detach(), expected + autoencoder.decoder[0].bias.item())


@st.composite
def architectures(draw):
    """Draw a sequential network in 2-D or 3-D with layers of all kinds in any order, and a shape of images."""
    n = draw(st.sampled_from([2, 3]))
    convolution, norm, instance, pad_pool, max_pool, dropout = (
        (nn.Conv2d, nn.BatchNorm2d, nn.InstanceNorm2d, PadMaxPool2d, nn.MaxPool2d, nn.Dropout2d)
        if n == 2
        else (nn.Conv3d, nn.BatchNorm3d, nn.InstanceNorm3d, PadMaxPool3d, nn.MaxPool3d, nn.Dropout3d)
    )
    channels = first = draw(st.integers(1, 2))
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        before, channels = channels, draw(st.sampled_from([2, 4]))
        layers.append(
            convolution(
                before,
                channels,
                draw(st.one_of(st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * n))),
                stride=draw(st.integers(1, 3)),
                padding=draw(st.integers(0, 2)),
                dilation=draw(st.integers(1, 2)),
                groups=draw(st.sampled_from([1, 2] if before == 2 else [1])),
                bias=draw(st.booleans()),
            )
        )
        following = [
            lambda c: norm(c),
            lambda c: instance(c, affine=True, track_running_stats=True),
            lambda c: nn.GroupNorm(2, c),
            lambda c: nn.PReLU(c),
            lambda c: nn.LeakyReLU(draw(st.sampled_from([0.0, 0.1]))),
            lambda c: nn.ELU(),
            lambda c: dropout(0.2),
            lambda c: pad_pool(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            lambda c: max_pool(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        ]
        chosen = draw(st.lists(st.sampled_from(following), max_size=4))
        inner = [make(channels) for make in chosen]
        layers += [nn.Sequential(*inner)] if draw(st.booleans()) and inner else inner
    size = [draw(st.integers(9, 17)) for _ in range(n)]
    return nn.Sequential(*layers), (2, first, *size)


@pytest.mark.filterwarnings("ignore:CNN_Transformer. output='mirror' multiplies")
@settings(max_examples=60)
@given(architectures())
def test_the_reconstruction_has_the_size_of_the_input_for_any_layers(case):
    cnn, shape = case
    images = torch.rand(shape)
    try:
        expected = copy.deepcopy(cnn).eval()(images).flatten(1)
    except (RuntimeError, ValueError):
        return  # the network itself does not accept images of this size
    autoencoder = CNN_Transformer(cnn).eval()
    code, reconstruction = autoencoder(images)
    assert reconstruction.shape == images.shape
    torch.testing.assert_close(code, expected)
    code.sum().backward(retain_graph=True)
    reconstruction.sum().backward()


class WithSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.convolution(x)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (WithSkip(), "skip connections"),
        (nn.AvgPool2d(2), "has no transposed version"),
        (nn.AdaptiveAvgPool2d(5), "has no transposed version"),
        (nn.Upsample(scale_factor=2), "has no transposed version"),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), "expected Conv2d or Conv3d"),
        (nn.LayerNorm([4, 6, 6]), "does not accept feature maps"),
        (nn.LazyConv2d(4, 3), "lazy layer is not initialised"),
    ],
)
def test_a_layer_that_cannot_be_transposed_is_refused_with_its_path(layer, reason):
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ModelError, match=r"^convolutions\.1\.1 \(") as error:
        CNN_Transformer(CNN(convolutions, nn.Flatten()))
    assert reason in str(error.value)


def test_a_network_that_is_not_a_sequence_is_refused():
    with pytest.raises(
        ModelError,
        match="found WithSkip in WithSkip, which has no `convolutions`; expected a Sequential, as in nc",
    ):
        CNN_Transformer(WithSkip())
    with pytest.raises(ModelError, match=r"found WithSkip in CNN\.convolutions"):
        CNN_Transformer(CNN(WithSkip(), nn.Flatten()))


@pytest.mark.faults
def test_resnet18_is_refused_for_its_skip_connections():
    pytest.importorskip("torchvision")
    with pytest.raises(ModelError, match=r"convolutions\.4\.0 \(BasicBlock\).*skip connections"):
        CNN_Transformer(create_model("resnet18", (3, 32, 32), weights=None))


def test_a_custom_layer_that_keeps_the_size_is_copied():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return x * self.factor

    decoder = CNN_Transformer(nn.Sequential(nn.Conv2d(1, 4, 3), Scale())).decoder
    assert decoder[1].factor.item() == 3


def test_pooling_layers_that_return_indices_and_padding_are_accepted_in_the_encoder():
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), PadMaxPool2d(2, return_indices=True, return_pad=True))
    autoencoder = CNN_Transformer(cnn)
    assert autoencoder.encode(torch.rand(2, 1, 7, 7)).shape == (2, 2 * 3 * 3)
    assert cnn[1].return_indices


def test_autoencoders_work_on_the_meta_device_under_export_and_in_double_precision():
    cnn = nn.Sequential(*block(3, 1, 4, padding=1))
    with torch.device("meta"):
        code, reconstruction = CNN_Transformer(copy.deepcopy(cnn).to("meta"))(torch.zeros(2, 1, 7, 8, 9))
    assert (code.shape, reconstruction.shape) == ((2, 4 * 4 * 4 * 5), (2, 1, 7, 8, 9))
    autoencoder = CNN_Transformer(cnn.double()).eval()
    images = torch.rand(1, 1, 5, 6, 7).double()
    program = torch.export.export(autoencoder, (images,))
    torch.testing.assert_close(program.module()(images), autoencoder(images))


def labs_autoencoder():
    """Return the encoder and decoder of the lab, written as in its instructions."""
    encoder, decoder = nn.ModuleList(), nn.ModuleList([nn.ConvTranspose3d(1, 32, 1)])
    for before, after in ((1, 8), (8, 16), (16, 32)):
        encoder += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.LeakyReLU()]
        encoder += [PadMaxPool3d(2, 2, return_indices=True, return_pad=True)]
    encoder += [nn.Conv3d(32, 1, 1)]
    for before, after in ((32, 16), (16, 8), (8, 1)):
        last = nn.Sigmoid() if after == 1 else nn.LeakyReLU()
        decoder += [
            CropMaxUnpool3d(2, 2),
            nn.ConvTranspose3d(before, after, 3, padding=1),
            nn.BatchNorm3d(after),
            last,
        ]
    return encoder, decoder


def test_a_single_call_creates_the_autoencoder_of_the_lab():
    torch.manual_seed(0)
    encoder, decoder = labs_autoencoder()
    autoencoder = CNN_Transformer(create_model("Conv3_FC1", (1, 30, 40, 30)), output="sigmoid", bottleneck=1)
    ours = [*autoencoder.encoder, autoencoder.bottleneck, autoencoder.expansion, *autoencoder.decoder]
    assert [type(layer) for layer in ours] == [type(layer) for layer in (*encoder, *decoder)]
    for layer, theirs in zip(ours, (*encoder, *decoder), strict=True):
        layer.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 1, 30, 40, 30)
    x, kept = images, []
    for layer in encoder:
        x = layer(x)
        if isinstance(layer, PadMaxPool3d):
            x, *rest = x
            kept.append(rest)
    code = x.flatten(1)
    for layer in decoder:
        x = layer(x, *kept.pop()) if isinstance(layer, CropMaxUnpool3d) else layer(x)
    found_code, found = autoencoder(images)
    assert code.shape == (2, 80)
    torch.testing.assert_close(found_code, code, rtol=0, atol=0)
    assert autoencoder.encode(images).shape == code.shape
    torch.testing.assert_close(found, x, rtol=0, atol=0)


def test_a_linear_output_ends_in_the_transposed_convolution_and_keeps_slopes():
    cnn = nn.Sequential(*block(3, 1, 4), nn.Conv3d(4, 6, 3), nn.LeakyReLU(0.25), nn.BatchNorm3d(6))
    linear = CNN_Transformer(cnn, output="linear")
    unit = ["ConvTranspose3d", "LeakyReLU", "BatchNorm3d"]
    assert names(linear.decoder) == [*unit, "CropMaxUnpool3d", "ConvTranspose3d"]
    assert linear.decoder[1].negative_slope == 0.25
    sigmoid = CNN_Transformer(cnn, output="sigmoid")
    assert names(sigmoid.decoder) == [*names(linear.decoder), "BatchNorm3d", "Sigmoid"]
    assert sigmoid.decoder[-2].num_features == 1
    reconstruction = sigmoid(torch.rand(2, 1, 11, 12, 13))[1]
    assert reconstruction.shape == (2, 1, 11, 12, 13)
    assert reconstruction.min() > 0
    assert reconstruction.max() < 1


@pytest.mark.filterwarnings("ignore:CNN_Transformer")  # some cases have slopes above 1
@settings(max_examples=30)
@given(architectures(), st.sampled_from(["linear", "sigmoid"]), st.sampled_from([None, 1, 3]))
def test_any_output_and_bottleneck_give_reconstructions_of_the_size_of_the_input(case, output, bottleneck):
    cnn, shape = case
    images = torch.rand(shape)
    try:
        maps = copy.deepcopy(cnn).eval()(images)
    except (RuntimeError, ValueError):
        return  # the network itself does not accept images of this size
    autoencoder = CNN_Transformer(cnn, output=output, bottleneck=bottleneck).eval()
    code, reconstruction = autoencoder(images)
    assert reconstruction.shape == images.shape
    channels = maps.shape[1] if bottleneck is None else bottleneck
    assert code.shape == (len(images), channels * maps[0, 0].numel())
    assert code.shape == autoencoder.encode(images).shape


def test_fully_connected_encoders_accept_the_outputs_linear_and_sigmoid():
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 4))
    for output, end in (
        ("linear", ["Linear", "Reshape"]),
        ("sigmoid", ["BatchNorm1d", "Sigmoid", "Reshape"]),
    ):
        autoencoder = CNN_Transformer(cnn, output=output)
        assert names(autoencoder.decoder)[-len(end) :] == end
        assert autoencoder(torch.rand(3, 1, 5, 6))[1].shape == (3, 1, 5, 6)


def test_a_bottleneck_is_not_transferred_with_the_encoder():
    torch.manual_seed(0)
    cnn = create_model("Conv5_FC3", (1, 9, 9, 9))
    source = CNN_Transformer(cnn, output="sigmoid", bottleneck=2)
    with torch.no_grad():
        source.encoder[0].weight.add_(1)
    transfer_weights(source, cnn)
    assert torch.equal(cnn.convolutions[0].weight, source.encoder[0].weight)
    target = CNN_Transformer(cnn, output="linear", bottleneck=1)
    kept = target.bottleneck.weight.clone()
    transfer_weights(cnn, target)
    assert torch.equal(target.encoder[0].weight, source.encoder[0].weight)
    assert torch.equal(target.bottleneck.weight, kept)


def test_a_bottleneck_needs_feature_maps():
    with pytest.raises(
        ModelError, match=r"bottleneck=1, but the encoder ends in Linear; expected feature maps"
    ):
        CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(9, 2)), bottleneck=1)
    with pytest.raises(ModelError, match="expected at least one"):
        CNN_Transformer(nn.Sequential(PadMaxPool2d(2)), output="linear")
    for value in (0, -1, 1.0, "1", True):
        with pytest.raises(NeurocnnError, match="bottleneck"):
            CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3)), bottleneck=value)
    with pytest.raises(NeurocnnError, match=r"output='linaer'.*did you mean 'linear'"):
        CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3)), output="linaer")


def test_an_inverse_slope_that_magnifies_values_causes_a_warning():
    with pytest.warns(UserWarning, match=r"output='mirror' multiplies negative values by 100 in 3 LeakyReLU"):
        CNN_Transformer(create_model("Conv3_FC1", (1, 16, 16, 16)))


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("intensity", [0.0, 0.4, 1.0])
def test_start_at_makes_the_first_reconstructions_nearly_constant(output, intensity):
    torch.manual_seed(0)
    autoencoder = CNN_Transformer(create_model("Conv5_FC3", (1, 12, 12, 12)), output=output)
    autoencoder.start_at(intensity)
    reconstruction = autoencoder(torch.rand(4, 1, 12, 12, 12))[1]
    assert reconstruction.mean().item() == pytest.approx(intensity, abs=0.05)
    assert reconstruction.std() < 0.1


def test_start_at_has_no_effect_with_the_output_mirror():
    autoencoder = CNN_Transformer(nn.Sequential(nn.Conv2d(1, 2, 3)))
    before = autoencoder.decoder[0].weight.clone()
    autoencoder.start_at(0.4)
    assert torch.equal(autoencoder.decoder[0].weight, before)
