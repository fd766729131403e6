"""Training on a GPU: agreement with the CPU, reproducibility, resumed training, half precision and one rank of NCCL."""

import copy

import pytest
import torch
from toys import Toys, network

from neurocnn.engine import Trainer, classification, predict
from neurocnn.errors import TrainingError
from neurocnn.nn import PadMaxPool3d

pytestmark = pytest.mark.gpu
TASK = classification("diagnosis", classes=["CN", "AD"])
SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "device": "cuda"}


def train(model, folder=None, **settings):
    return Trainer(**SETTINGS | settings).fit(model, TASK, Toys(16), folder=folder)


def deterministic_network():
    """Return a network all of whose operations have a deterministic form on CUDA; torch's max pooling has none."""
    model = network()
    model[3] = PadMaxPool3d(2)
    return model


def test_weights_trained_on_the_gpu_are_close_to_weights_trained_on_the_cpu():
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    with torch.backends.cudnn.flags(allow_tf32=False):
        train(one)
    train(other, device="cpu")
    for name, value in one.state_dict().items():
        assert torch.allclose(value.cpu(), other.state_dict()[name], atol=1e-4), name


def test_two_deterministic_runs_are_equal():
    one = deterministic_network()
    other = copy.deepcopy(one)
    train(one, deterministic=True)
    train(other, deterministic=True)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_an_error_names_torchs_max_pooling_in_deterministic_mode():
    with pytest.raises(
        TrainingError, match=r"deterministic=True: max_pool3d.*use deterministic=False, the CPU, or"
    ):
        train(network(), deterministic=True)


def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path):
    whole, broken = deterministic_network(), deterministic_network()
    broken.load_state_dict(whole.state_dict())
    train(whole, deterministic=True)
    train(copy.deepcopy(broken), tmp_path, deterministic=True, epochs=1)
    resumed = train(broken, tmp_path, deterministic=True)
    assert len(resumed.history) == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(value, broken.state_dict()[name]), name


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_trains_to_finite_weights(precision):
    model = network()
    training = train(model, precision=precision)
    assert training.history["train_loss"].notna().all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("n_workers", [0, 2])
def test_predictions_of_gpu_and_cpu_agree(n_workers):
    model = network()
    there = predict(model, TASK, Toys(8), device="cuda", n_workers=n_workers)
    here = predict(model.cpu(), TASK, Toys(8), device="cpu")
    assert there["participant_id"].tolist() == here["participant_id"].tolist()
    assert abs(there["proba1"] - here["proba1"]).max() < 1e-3


def test_one_rank_of_nccl_trains_like_a_single_process(tmp_path):
    import torch.distributed as dist

    alone, ranked = deterministic_network(), deterministic_network()
    ranked.load_state_dict(alone.state_dict())
    train(alone, deterministic=True)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        train(ranked, deterministic=True)
    finally:
        dist.destroy_process_group()
    for name, value in alone.state_dict().items():
        assert torch.equal(value, ranked.state_dict()[name]), name
