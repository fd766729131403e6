"""The measurements of `on_gpu`: each compares ways of doing the same in one run, taking turns."""

import copy
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_report import Times, describe, write
from test_engine import PadThenPool
from torch import Tensor, nn

import neurocnn as nc
from neurocnn.engine import gradients
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run
from neurocnn.nn import kernels

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
TASK = nc.classification("diagnosis", classes=["CN", "AD"])
LAST = torch.channels_last_3d


def wait() -> None:
    """Wait until the GPU is idle."""
    if GPU:
        torch.cuda.synchronize()


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, repeat: int = 1) -> Times:
    """Return the milliseconds of each way in `rounds` rounds of `repeat` calls, after three calls to warm up."""
    times: Times = {name: [] for name in ways}
    for run in ways.values():
        for _ in range(3):
            run()
    for _ in range(rounds):
        for name, run in ways.items():
            wait()
            begun = time.perf_counter()
            for _ in range(repeat):
                run()
            wait()
            times[name].append(1e3 * (time.perf_counter() - begun) / repeat)
    return times


@contextmanager
def setting(module: Any, name: str, value: object) -> Iterator[None]:
    """Change a variable of a module in the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def pooling() -> Iterator[tuple[str, Times]]:
    """Both passes of a pooling: by kernels, by torch's operations, padded first, and torch's own without padding."""
    shapes = [
        (4, 8, 169, 208, 179),
        (4, 16, 85, 104, 90),
        (32, 15, 48, 48, 48),
        (4, 15, 48, 48, 48),
        (8, 32, 12, 12, 12),
    ]
    for shape in shapes if GPU else [(1, 2, 9, 10, 11)]:
        for layout in (torch.contiguous_format, LAST):
            x = torch.randn(shape, device=DEVICE).contiguous(memory_format=layout).requires_grad_()
            pools = {"nn.MaxPool3d": nn.MaxPool3d(2), "pad then pool": PadThenPool()}
            ways = {name: _both(pool, x) for name, pool in pools.items()}
            ways["torch's operations"] = _both(nc.PadMaxPool3d(2), x, voxels=None)
            if GPU:
                ways["Triton"] = _both(nc.PadMaxPool3d(2), x, voxels=1)
                maps = torch.empty_like(x), torch.empty_like(x)
                # A copy reads and writes the map once: the least that a pass over it costs.
                ways["copy"] = lambda maps=maps: maps[0].copy_(maps[1])
            name = f"pooling, both passes, {shape}, {'last' if layout == LAST else 'contiguous'}"
            yield name, in_turn(ways, 7, repeat=5)
    x = torch.randn(shapes[0] if GPU else (1, 2, 9, 10, 11), device=DEVICE)
    maxima, indices, padding = nc.PadMaxPool3d(2, return_indices=True, return_pad=True)(x)
    ways = {
        "nn.MaxUnpool3d": lambda: nn.MaxUnpool3d(2)(maxima, indices),
        "ours": lambda: nc.CropMaxUnpool3d(2)(maxima, indices, padding),
    }
    yield "unpooling", in_turn(ways, 7, repeat=5)


def _both(pool: nn.Module, x: Tensor, voxels: int | None = None) -> Callable[[], object]:
    gradient = torch.randn_like(pool(x))

    def run() -> object:
        with setting(kernels, "TRITON_VOXELS", voxels):
            return torch.autograd.grad(pool(x), x, gradient)

    return run


def step() -> Iterator[tuple[str, Times]]:
    """A training step of the built-in networks: plain and padded first, and the choices of a Trainer."""
    cases = [("Conv5_FC3", (1, 169, 208, 179), 4), ("Conv4_FC3", (1, 50, 50, 50), 32)]
    for name, shape, batch_size in cases if GPU else [("Conv4_FC3", (1, 40, 40, 40), 2)]:
        network, image = nc.create_model(name, shape, n_outputs=2), torch.rand(batch_size, *shape)
        batch = {
            "image": image.to(DEVICE),
            "label": ["AD"] * batch_size,
            "participant_id": [f"sub-{i}" for i in range(batch_size)],
            "session_id": ["ses-M00"] * batch_size,
            "part_id": torch.zeros(batch_size, dtype=torch.int64),
        }
        ways = {"pad then pool, plain loop": _plain_step(network, batch["image"])}
        for choice, settings, fused in _choices():
            model = copy.deepcopy(network)
            model.fused = fused
            run = Run(model, nc.Trainer(**settings), TASK, None, DEVICE, Ranks())
            ways[choice] = _step(run, batch)
        yield f"step of {name}, batches of {batch_size}", in_turn(ways, 7 if GPU else 2)


def _choices() -> list[tuple[str, dict[str, Any], bool]]:
    choices: list[tuple[str, dict[str, Any], bool]] = [("defaults", {}, True)]
    if GPU:
        choices += [("layer by layer", {}, False), ("bfloat16", {"precision": "bfloat16"}, True)]
    return choices


def _step(run: Run, batch: dict[str, Any]) -> Callable[[], object]:
    def step() -> None:
        run.accumulate(batch, n_samples=len(batch["image"]), empty=False, last=True)
        run.update()

    return step


def _plain_step(network: nn.Module, image: Tensor) -> Callable[[], object]:
    plain = copy.deepcopy(network)
    plain.fused = False  # type: ignore[assignment]
    for name, module in list(plain.named_modules()):
        if isinstance(module, nc.PadMaxPool3d):
            plain.set_submodule(name, PadThenPool())
    plain.to(DEVICE).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)
    target = torch.ones(len(image), dtype=torch.int64, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(plain(image), target).backward()
        optimizer.step()

    return step


def epoch() -> Iterator[tuple[str, Times]]:
    """An epoch with its evaluations, without workers and with the default, and its steps and passes alone."""
    n, shape = (32, (169, 208, 179)) if GPU else (8, (40, 40, 40))
    with tempfile.TemporaryDirectory() as folder:
        labels = nc.make_caps(folder, n_participants=n, preprocessing="t1-linear", shape=shape)
        caps = nc.Caps(folder, "t1-linear")
        caps.prepare(labels)
        for parts in (nc.WholeImage(), nc.Patch(50, 50) if GPU else nc.Patch(32, 8)):
            # There are 36 patches per image, so that fewer images suffice.
            n_used = n // 2 if parts.name == "patch" else n
            cut = 3 * n_used // 4
            train, validation = (
                nc.CapsDataset(caps, rows, parts=parts, label="diagnosis")
                for rows in (labels[:cut], labels[cut:n_used])
            )
            network = nc.create_model("Conv4_FC3", train.input_shape, n_outputs=2)
            alone = {"steps and passes alone": _alone(network, train, validation)}
            times = in_turn(alone, EPOCHS - 2)
            choices = {"no workers": {"n_workers": 0}, "default": {}, "resident": {"resident": True}}
            for name, settings in choices.items():
                trainer = nc.Trainer(epochs=EPOCHS, batch_size=4, **settings)
                times[name] = _epoch_times(trainer, network, train, validation)
            yield f"epoch over {cut} + {n_used - cut} images, {parts.name}", times


EPOCHS = 6


def _epoch_times(trainer: nc.Trainer, network: nn.Module, train: Any, validation: Any) -> list[float]:
    """Return the milliseconds of each epoch of a training, without the first two."""
    history = trainer.fit(copy.deepcopy(network), TASK, train, validation).history
    return [1e3 * seconds for seconds in history["time"].diff()[2:]]


def _alone(network: nn.Module, train: Any, validation: Any) -> Callable[[], object]:
    model = copy.deepcopy(network).to(DEVICE, memory_format=LAST)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    image = torch.rand(4, *train.input_shape, device=DEVICE).contiguous(memory_format=LAST)
    target = torch.ones(4, dtype=torch.int64, device=DEVICE)

    def run() -> None:
        model.train()
        for _ in range(0, len(train), 4):
            optimizer.zero_grad()
            F.cross_entropy(model(image), target).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            for _ in range(0, len(train) + len(validation), 4):
                model(image)

    return run


def networks() -> Iterator[tuple[str, Times]]:
    """A step of 36 networks of one part each, and of one network that sees the same parts."""
    n, size = (36, 50) if GPU else (4, 32)
    image = torch.rand(4, 1, size, size, size, device=DEVICE)
    labels = {"label": ["AD"] * 4, "participant_id": list("abcd"), "session_id": ["ses-M00"] * 4}
    batch = {"image": image, "part_id": torch.zeros(4, dtype=torch.int64), **labels}
    large = {
        key: value * n if isinstance(value, list) else torch.cat([value] * n) for key, value in batch.items()
    }
    made = [nc.create_model("Conv4_FC3", (1, size, size, size), n_outputs=2) for _ in range(n)]

    def steps(n_voxels: int) -> Callable[[], object]:
        runs = [
            Run(copy.deepcopy(model), nc.Trainer(), TASK, k, DEVICE, Ranks()) for k, model in enumerate(made)
        ]
        ways = [_step(run, batch) for run in runs]

        def run_all() -> None:
            with setting(gradients, "_MAX_VOXELS", n_voxels):
                for step in ways:
                    step()

        return run_all

    one = _step(Run(copy.deepcopy(made[0]), nc.Trainer(), TASK, None, DEVICE, Ranks()), large)
    ways = {f"{n} networks without graphs": steps(0), f"{n} networks": steps(2**24), "one network": one}
    yield f"step of {n} networks", in_turn(ways, 5)


def host() -> Iterator[tuple[str, Times]]:
    """An update of a trivial network: the loop's own cost, and that of a bare loop."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    image = torch.rand(4, 1, 4, 4, 4, device=DEVICE)
    labels = {"label": ["AD"] * 4, "participant_id": list("abcd"), "session_id": ["ses-M00"] * 4}
    batch = {"image": image, "part_id": torch.zeros(4, dtype=torch.int64), **labels}
    ours = _step(Run(copy.deepcopy(model), nc.Trainer(), TASK, None, DEVICE, Ranks()), batch)
    plain = _plain_step(model, image)
    ways = {"bare loop": plain, "ours": ours}
    yield (
        "100 updates of a trivial network",
        in_turn({k: lambda r=r: [r() for _ in range(100)] for k, r in ways.items()}, 9),
    )


def main(out: Path, seconds: float) -> int:
    """Measure until the time is over, and write both files after each measurement; return 1 after an error."""
    begun, failed = time.monotonic(), 0
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if GPU else f"CPU {platform.machine()}",
        "versions": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
        },
        "measurements": {},
        "not measured": [],
    }
    out.mkdir(parents=True, exist_ok=True)
    for measure in (step, networks, epoch, pooling, host):
        try:
            for name, times in measure():
                found["measurements"][name] = describe(times)
                ways = found["measurements"][name].items()
                print(f"{name}: " + ", ".join(f"{k} {v['median_ms']:.2f} ms" for k, v in ways), flush=True)
                write(out, found)
                if time.monotonic() - begun > seconds:
                    found["not measured"].append(f"what follows {name}: no time was left")
                    write(out, found)
                    return failed
        except Exception as error:  # the other measurements are still worth having
            failed, found["not measured"] = 1, [*found["not measured"], f"{measure.__name__}: {error!r}"]
            print(found["not measured"][-1], file=sys.stderr)
            write(out, found)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
