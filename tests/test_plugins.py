"""Other packages provide networks with one hook, and a broken package does not affect other packages."""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import neurocnn as nc
from neurocnn.errors import ModelError
from neurocnn.nn import registry

GOOD = """
    import neurocnn as nc
    from torch import nn

    def build(input_shape, n_outputs):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs))

    @nc.hookimpl
    def neurocnn_architectures():
        return {NAME: build}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package with one plugin module in a folder of Python's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.installed.cache_clear()

    def put(package, code, version="1.0"):
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[neurocnn]\n{module} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    yield put
    registry.installed.cache_clear()


def good(name):
    return GOOD.replace("NAME", repr(name))


def test_a_network_of_a_package_is_listed_with_its_origin_and_created(install):
    install("brain-nets", good("BrainNet"), version="2.1")
    assert nc.list_models()["BrainNet"] == "brain-nets 2.1"
    assert nc.create_model("BrainNet", (1, 9, 9), n_outputs=3)[1].weight.shape == (3, 81)
    assert nc.describe("BrainNet", "1@9x9").startswith("'BrainNet' on 1@9x9")


BROKEN = {
    "fails to import": ("import nothing_of_that_name", "ModuleNotFoundError", "nothing_of_that_name"),
    "leaves on import": ("import sys; sys.exit(3)", "SystemExit", "sys.exit(3)"),
    "is interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt", "raise KeyboardInterrupt"),
    "raises what is no Exception": (
        "class Stop(BaseException): pass\nraise Stop('here')",
        "Stop: here",
        "raise Stop",
    ),
    "raises an error without text": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "Mute",
        "raise Mute",
    ),
    "wrong signature": (
        good("X").replace("neurocnn_architectures()", "neurocnn_architectures(shape)"),
        "PluginValidationError",
        "shape",
    ),
    "unknown hook": (
        good("X").replace("_architectures", "_architecture"),
        "SettingError: hookimpl: function='neurocnn_architecture'; expected a function named 'neurocnn_architectures'",
        "@nc.hookimpl",
    ),
    "not marked": (good("X").replace("@nc.hookimpl", ""), "ModelError", "marked with @neurocnn.hookimpl"),
    "raises": (good("X").replace("return {'X': build}", "return 1 / 0"), "ZeroDivisionError", "1 / 0"),
    "returns no mapping": (good("X").replace("{'X': build}", "[build]"), "ModelError", "returned list"),
    "maps to no builder": (good("X").replace("build}", "'build'}"), "ModelError", "'build'"),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_causes_one_warning_and_other_plugins_load(case, install):
    code, kind, detail = BROKEN[case]
    install("broken-nets", code)
    install("brain-nets", good("BrainNet"))
    with pytest.warns(UserWarning, match=f"plugin broken-nets 1.0 failed to load: .*{kind}") as caught:
        names = nc.list_models()
    assert len(caught) == 1
    assert names["BrainNet"] == "brain-nets 1.0"
    assert "Conv5_FC3" in names
    assert "broken-nets" not in " ".join(names.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # A second warning would be raised as an error.
        nc.create_model("BrainNet", (1, 9, 9))
        with pytest.raises(ModelError) as error:
            nc.create_model("X", (1, 9, 9))
    assert "Plugin broken-nets 1.0 failed:\nTraceback" in str(error.value)
    assert detail in str(error.value)


@pytest.mark.faults
@pytest.mark.parametrize("metadata", [b"[neurocnn]\na = \xff\n", b"[neurocnn]\nno value\n"])
def test_a_package_with_unreadable_metadata_does_not_hide_other_plugins(metadata, install, tmp_path):
    folder = tmp_path / "broken_nets-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-nets\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_bytes(metadata)
    install("brain-nets", good("BrainNet"))
    with pytest.warns(UserWarning, match="plugin .*broken_nets-1.0.*failed to load"):
        names = nc.list_models()
    assert names["BrainNet"] == "brain-nets 1.0"
    assert "Conv5_FC3" in names


@pytest.mark.faults
def test_a_plugin_without_a_name_or_version_still_loads(install, tmp_path):
    module = install("brain-nets", good("BrainNet"))
    (tmp_path / f"{module}-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00")
    assert nc.list_models()["BrainNet"] == module


@pytest.mark.faults
def test_an_error_names_both_plugins_if_their_common_network_name_is_used(install):
    install("brain-nets", good("Same"))
    install("head-nets", good("Same"), version="3.0")
    install("other-nets", good("Other"))
    assert nc.list_models()["Same"] == "brain-nets 1.0 and head-nets 3.0"
    assert nc.create_model("Other", (1, 9, 9)) is not None
    with pytest.raises(ModelError, match=r"'Same': provided by brain-nets 1\.0 and by head-nets 3\.0"):
        nc.create_model("Same", (1, 9, 9))


@pytest.mark.faults
def test_a_plugin_cannot_replace_a_built_in_network(install):
    install("brain-nets", good("Conv5_FC3"))
    with pytest.raises(ModelError, match=r"'Conv5_FC3': provided by neurocnn .* and by brain-nets 1\.0"):
        nc.create_model("Conv5_FC3", (1, 9, 9))


@pytest.mark.faults
def test_a_builder_with_a_wrong_signature_result_or_output_is_refused_when_used(install):
    install("brain-nets", good("A").replace("def build(input_shape, n_outputs)", "def build()"))
    install("head-nets", good("B").replace("return nn.Sequential", "return str"))
    install("neck-nets", good("C").replace("LazyLinear(n_outputs)", "LazyLinear(7)"))
    with pytest.raises(ModelError, match=r"'A': build\(\) takes 0.*expected a builder with the arguments"):
        nc.create_model("A", (1, 9, 9))
    with pytest.raises(ModelError, match=r"'B': (cannot be built|the builder returned str)"):
        nc.create_model("B", (1, 9, 9))
    with pytest.raises(ModelError, match=r"'C': outputs \(2, 7\).*expected \(2, 2\)"):
        nc.create_model("C", (1, 9, 9))


EXAMPLE = Path(__file__).parents[1] / "plugins_example"
SCRIPT = """
    import neurocnn as nc
    labels = nc.make_caps("caps", n_participants=8, preprocessing="t1-volume", shape=(12, 14, 12), seed=0)
    splits = nc.kfold(labels, n_splits=2, stratify=["diagnosis"])
    experiment = nc.Experiment(
        nc.Caps("caps", "t1-volume"), splits, nc.WholeImage(), nc.classification("diagnosis", classes=["CN", "AD"]),
        "TinyCNN", nc.Trainer(epochs=1, batch_size=4), options={"width": 3},
    )
    results = experiment.run("results", splits=[0])
    assert results.load_model(0, "best_loss").convolutions[0].out_channels == 3
    print("trained", nc.list_models()["TinyCNN"])
"""


def fresh_environment(folder):
    """Create an environment that can import the packages of this one, without downloads, and return its Python."""
    options = ["--without-pip"] if importlib.util.find_spec("pip") else []
    subprocess.run([sys.executable, "-m", "venv", *options, folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    seen = [entry for entry in sys.path if entry and Path(entry).is_dir() and "site-packages" in entry]
    # An editable install is only a path file, which Python ignores in folders that are added by path files.
    seen += [str(Path(nc.__file__).parents[1])]
    (Path(site) / "parent.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    return python


def test_the_example_package_is_two_files_of_under_40_lines():
    files = [EXAMPLE / "pyproject.toml", EXAMPLE / "neurocnn_tinycnn.py"]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 40
    assert sorted(p.name for p in EXAMPLE.glob("*.*")) == sorted(
        [*(f.name for f in files), "test_neurocnn_tinycnn.py"]
    )


def test_the_example_package_can_be_installed_and_trained_with(tmp_path):
    pytest.importorskip("hatchling", reason="its build backend, which pip cannot fetch without a network")
    python = fresh_environment(tmp_path / "environment")
    shutil.copytree(EXAMPLE, tmp_path / "package")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(EXAMPLE / "test_neurocnn_tinycnn.py", work)
    (work / "train.py").write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for command in (
        [
            "-m",
            "pip",
            "install",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            tmp_path / "package",
        ],
        ["train.py"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_neurocnn_tinycnn.py"],
    ):
        done = subprocess.run(
            [python, *command], cwd=work, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if command == ["train.py"]:
            assert "trained neurocnn-tinycnn 1.0" in done.stdout
