"""Networks, plugins and checkpoints that cannot be used are refused, and do not affect others."""

import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from faults.clauses import covers, refuse
from small_caps import rows, small_caps
from studies import Study, experiment
from torch import nn

import neurocnn as nc
from neurocnn.nn import registry

GOOD = """
import neurocnn as nc
from torch import nn

def build(input_shape, n_outputs):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs))

@nc.hookimpl
def neurocnn_architectures():
    return {"BrainNet": build}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that installs a package with one plugin."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.installed.cache_clear()

    def put(package: str, code: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[neurocnn]\n{package} = {package}\n")
        monkeypatch.delitem(sys.modules, package, raising=False)

    yield put
    registry.installed.cache_clear()


RAISES = [
    "ImportError('no cuda')",
    "SystemExit(3)",
    "GeneratorExit()",
    "BaseException('x')",
]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            error,
            marks=covers("plugin that raises anything" if i else "plugin that fails to import"),
            id=error,
        )
        for i, error in enumerate(RAISES)
    ],
)
def test_a_plugin_that_fails_to_import_does_not_affect_other_plugins(install, error: str):
    install("broken_nets", f"raise {error}\n")
    install("good_nets", GOOD)
    with pytest.warns(UserWarning, match="broken_nets"):
        names = nc.list_models()
    assert {"BrainNet", "Conv4_FC3"} <= set(names)
    refuse(lambda: nc.create_model("Absent", (1, 9, 9)), nc.ModelError, "broken_nets", "Traceback")


@covers("two plugins with one name")
def test_an_error_names_both_plugins_that_provide_one_network(install):
    install("first_nets", GOOD)
    install("second_nets", GOOD)
    refuse(lambda: nc.create_model("BrainNet", (1, 9, 9)), nc.ModelError, "first_nets", "second_nets")


@covers("hook with another signature")
def test_a_warning_names_a_hook_with_a_wrong_signature(install):
    install("odd_nets", GOOD.replace("neurocnn_architectures()", "neurocnn_architectures(device, size)"))
    with pytest.warns(UserWarning, match="odd_nets"):
        assert "BrainNet" not in nc.list_models()


@covers("builder without a module")
def test_a_builder_that_returns_no_module_is_refused():
    refuse(lambda: nc.create_model(lambda input_shape, n_outputs: 3, (1, 9, 9)), nc.ModelError, "int")


@covers("outputs of another shape")
def test_a_network_whose_outputs_have_a_wrong_shape_is_refused():
    def build(input_shape, n_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(81, n_outputs + 1))

    refuse(lambda: nc.create_model(build, (1, 9, 9), n_outputs=2), nc.ModelError, "3", "2")


@covers("unknown name")
def test_an_unknown_name_is_refused_with_a_similar_one():
    refuse(lambda: nc.create_model("Conv4_FC2", (1, 40, 40, 40)), nc.ModelError, "Conv4_FC2", "'Conv4_FC3'")


@covers("layer that cannot be transposed")
def test_an_error_names_the_path_of_a_layer_that_cannot_be_transposed():
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2))
    cnn = nc.CNN(convolutions, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    refuse(lambda: nc.CNN_Transformer(cnn), nc.ModelError, "convolutions.1")


@covers("torchvision missing")
def test_only_resnet18_needs_torchvision(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    nc.create_model("Conv4_FC3", (1, 40, 40))
    refuse(lambda: nc.create_model("resnet18", (3, 64, 64), weights=None), nc.NeurocnnError, "torchvision")


@covers("ImageNet weights missing")
def test_the_error_of_missing_imagenet_weights_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    refuse(lambda: nc.create_model("resnet18", (3, 64, 64)), nc.NeurocnnError, str(tmp_path))


@pytest.fixture
def data(tmp_path: Path) -> nc.CapsDataset:
    return nc.CapsDataset(nc.Caps(small_caps(tmp_path / "caps", 6)), rows(6), label="diagnosis")


@covers("network for another size")
def test_a_network_for_another_image_size_is_refused(data: nc.CapsDataset):
    cnn = nc.create_model("Conv3_FC1", (1, 18, 18, 18))
    words = ("(1, 6, 8, 7)",)
    refuse(lambda: nc.predict(cnn, nc.classification(), data), nc.NeurocnnError, *words)
    refuse(lambda: nc.Trainer(epochs=1).fit(cnn, nc.classification(), data), nc.NeurocnnError, *words)


@covers("lazy layers")
def test_lazy_layers_are_refused_or_initialised(data: nc.CapsDataset):
    cnn = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    try:
        nc.Trainer(epochs=1, device="cpu").fit(cnn, nc.classification(), data)
    except nc.NeurocnnError as error:
        assert "lazy" in str(error).lower()  # noqa: PT017
    else:
        assert cnn[1].weight.shape == (2, 6 * 8 * 7)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(nc.create_model("Conv3_FC1", (1, 9, 9, 9)).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@covers("truncated, empty or text")
@pytest.mark.parametrize("content", [b"", b"no weights", None], ids=["empty", "text", "truncated"])
def test_a_file_without_weights_is_refused_with_its_path(weights: Path, content: bytes | None):
    weights.write_bytes(weights.read_bytes()[:-500] if content is None else content)
    refuse(lambda: nc.read_weights(weights), nc.CheckpointError, str(weights))


@covers("flipped bit in a file")
def test_flipped_bits_in_weights_are_detected_or_change_no_value(weights: Path, repetitions):
    expected, content = nc.read_weights(weights), weights.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(repetitions(30, 1000)):
        position = int(torch.randint(len(content), (), generator=generator))
        bit = int(torch.randint(8, (), generator=generator))
        weights.write_bytes(
            content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
        )
        try:
            found = nc.read_weights(weights)
        except nc.NeurocnnError:
            continue
        assert all(torch.equal(found[name], expected[name]) for name in expected)


class Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@covers("pickle payload")
def test_a_pickle_payload_is_refused_and_does_not_run(weights: Path, tmp_path: Path):
    torch.save({"model": Payload(tmp_path / "ran")}, weights)
    refuse(lambda: nc.read_weights(weights), nc.CheckpointError, str(weights))
    assert not (tmp_path / "ran").exists()


@covers("other layers")
def test_an_error_lists_layers_that_differ_and_the_network_is_unchanged():
    source, target = nc.create_model("Conv4_FC3_v1", (1, 33, 33)), nc.create_model("Conv3_FC1", (1, 33, 33))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    refuse(lambda: nc.transfer_weights(source, target), nc.ModelError, "convolutions.12.weight")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@covers("NaN weights")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_error_names_the_parameter_with_weights_that_are_not_finite(weights: Path, value: float):
    state = torch.load(weights, weights_only=True)
    state["fc.2.bias"][0] = value
    torch.save(state, weights)
    refuse(lambda: nc.read_weights(weights), nc.NeurocnnError, str(weights), "fc.2.bias")


@covers("well-formed with other content")
@pytest.mark.parametrize(
    "content", [{"model": {"a": "text"}}, {"model": 3}, [1, 2], {"model": {}}, {1: torch.zeros(2)}], ids=str
)
def test_a_file_with_other_content_is_refused(weights: Path, content: object):
    torch.save(content, weights)
    refuse(lambda: nc.read_weights(weights), nc.NeurocnnError, str(weights))


@covers("deeply nested")
def test_a_deeply_nested_file_is_refused(weights: Path):
    content: object = torch.zeros(1)
    for _ in range(200):
        content = [content]
    torch.save({"model": content}, weights)
    refuse(lambda: nc.read_weights(weights), nc.NeurocnnError, str(weights))


@covers("compressed to gigabytes")
def test_compressed_records_are_refused(weights: Path):
    with zipfile.ZipFile(weights) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in records.items():
            new.writestr(name, content if "data/" not in name else bytes(20_000_000))
    refuse(lambda: nc.read_weights(weights), nc.CheckpointError, str(weights))


@covers("names with ..")
@pytest.mark.parametrize("name", ["../test", "a/b", "..", "/tmp/x", "", "."])
def test_a_name_with_dots_cannot_leave_its_folder(study: Study, tmp_path: Path, name: str):
    results = experiment(study).run(tmp_path / "r" / "results", splits=[0])
    before = sorted(tmp_path.rglob("*"))
    new = pd.concat([study.labels.iloc[:0], study.splits[0].validation])
    refuse(lambda: results.predict(study.caps, new, name=name), nc.NeurocnnError)
    assert sorted(tmp_path.rglob("*")) == before
