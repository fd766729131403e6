"""Settings are equal after a conversion to JSON and back; missing old settings have the values of their time."""

from neurocnn import engine
from neurocnn.results.networks import NetworkRecipe
from neurocnn.results.setting_json import from_json, to_json
from neurocnn.results.settings import fill_missing


def test_a_reconstruction_recorded_without_an_output_has_the_output_mirror():
    filled = fill_missing({"task": {"type": "reconstruction"}})
    assert filled["task"] == {"type": "reconstruction", "output": "mirror", "bottleneck": None}
    task = from_json(filled["task"])
    assert task.arguments == {"output": "mirror", "bottleneck": None}
    custom = fill_missing({"custom": "reconstruction with loss x", "reconstructs": True, "arguments": {}})
    assert custom["arguments"] == {"output": "mirror", "bottleneck": None}


def test_the_output_of_an_autoencoder_is_recorded():
    task = engine.reconstruction(output="sigmoid", bottleneck=1)
    encoded = to_json(task)
    assert encoded == {"type": "reconstruction", "output": "sigmoid", "bottleneck": 1}
    network = NetworkRecipe("Conv3_FC1", {}, (1, 16, 16, 16), from_json(fill_missing(encoded))).build()
    assert type(network.decoder[-1]).__name__ == "Sigmoid"
    assert network.bottleneck.out_channels == 1


def test_an_option_that_has_another_name_now_is_read_from_folders_of_earlier_versions():
    earlier = {"architecture": "Conv3_FC1", "options": {"dropout": 0.1, "fold_batch_norm": False}}
    assert fill_missing(earlier)["options"] == {"dropout": 0.1, "fused": False}
