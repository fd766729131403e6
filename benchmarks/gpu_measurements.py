"""The measurements of `on_gpu`: each compares ways of doing the same in one run, taking turns."""

import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from test_engine import PadThenPool
from torch import Tensor, nn

import neurocnn as nc
from neurocnn.engine.ranks import Ranks
from neurocnn.engine.run import Run
from neurocnn.nn import kernels

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
TASK = nc.classification("diagnosis", classes=["CN", "AD"])
LAST = torch.channels_last_3d
Times = dict[str, list[float]]


def wait() -> None:
    """Wait until the GPU is idle."""
    if GPU:
        torch.cuda.synchronize()


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Return the milliseconds of each way in `rounds` rounds, after one to warm up."""
    times: Times = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            wait()
            begun = time.perf_counter()
            run()
            wait()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return times


@contextmanager
def triton(voxels: int | None) -> Iterator[None]:
    """Pool maps of at least `voxels` by the Triton kernels in the block."""
    before, kernels.TRITON_VOXELS = kernels.TRITON_VOXELS, voxels
    try:
        yield
    finally:
        kernels.TRITON_VOXELS = before


def pooling() -> Iterator[tuple[str, Times]]:
    """Both passes of a pooling: by the kernels, as today, padded first, and torch's own without padding."""
    large = [
        (4, 8, 169, 208, 179),
        (4, 16, 85, 104, 90),
        (4, 32, 43, 52, 45),
        (32, 15, 48, 48, 48),
        (8, 32, 12, 12, 12),
    ]
    for shape in large if GPU else [(1, 2, 9, 10, 11)]:
        for layout in (torch.contiguous_format, LAST):
            x = torch.randn(shape, device=DEVICE).contiguous(memory_format=layout).requires_grad_()
            pools = {
                "nn.MaxPool3d": nn.MaxPool3d(2), "pad then pool": PadThenPool(), "ours": nc.PadMaxPool3d(2)
            }  # fmt: skip
            ways = {name: _both(pool, x) for name, pool in pools.items()}
            if GPU:
                ways["Triton"] = _both(nc.PadMaxPool3d(2), x, voxels=1)
                maps = torch.empty_like(x), torch.empty_like(x)
                # A copy reads and writes the map once: the least that a pass over it costs.
                ways["copy"] = lambda maps=maps: maps[0].copy_(maps[1])
            yield (
                f"pooling, both passes, {shape}, {'last' if layout == LAST else 'contiguous'}",
                in_turn(ways, 9),
            )


def _both(pool: nn.Module, x: Tensor, voxels: int | None = None) -> Callable[[], object]:
    gradient = torch.randn_like(pool(x))

    def run() -> object:
        with triton(voxels):
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
        for choice, settings, voxels in _choices():
            run = Run(copy.deepcopy(network), nc.Trainer(**settings), TASK, None, DEVICE, Ranks())
            ways[choice] = _step(run, batch, voxels)
        yield f"step of {name}, batches of {batch_size}", in_turn(ways, 9 if GPU else 2)


def _choices() -> list[tuple[str, dict[str, Any], int | None]]:
    if not GPU:
        return [("defaults", {}, None)]
    return [
        ("defaults", {}, None),
        ("Triton", {}, 2**20),
        ("compile", {"compile": True}, None),
        ("bfloat16", {"precision": "bfloat16"}, None),
        ("bfloat16, Triton", {"precision": "bfloat16"}, 2**20),
        ("bfloat16, compile", {"precision": "bfloat16", "compile": True}, None),
        ("bfloat16, compile, Triton", {"precision": "bfloat16", "compile": True}, 2**20),
    ]


def _step(run: Run, batch: dict[str, Any], voxels: int | None) -> Callable[[], object]:
    def step() -> None:
        with triton(voxels):
            run.accumulate(batch, n_samples=len(batch["image"]), empty=False, last=True)
            run.update()

    return step


def _plain_step(network: nn.Module, image: Tensor) -> Callable[[], object]:
    plain = copy.deepcopy(network)
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
            cut = 3 * n // 4
            train, validation = (
                nc.CapsDataset(caps, rows, parts=parts, label="diagnosis")
                for rows in (labels[:cut], labels[cut:])
            )
            network = nc.create_model("Conv4_FC3", train.input_shape, n_outputs=2)
            ways = {"steps and passes alone": _alone(network, train, validation)}
            for name, settings in {"no workers": {"n_workers": 0}, "default": {}}.items():
                trainer = nc.Trainer(epochs=1, batch_size=4, **settings)
                ways[name] = partial(_fit, trainer, network, train, validation)
            yield f"epoch over {cut} + {n - cut} images, {parts.name}", in_turn(ways, 3)


def _fit(trainer: nc.Trainer, network: nn.Module, train: Any, validation: Any) -> None:
    trainer.fit(copy.deepcopy(network), TASK, train, validation)


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
    made = [nc.create_model("Conv4_FC3", (1, size, size, size), n_outputs=2) for _ in range(n + 1)]
    steps = [
        _step(Run(model, nc.Trainer(), TASK, k, DEVICE, Ranks()), batch, None)
        for k, model in enumerate(made[1:])
    ]
    one = _step(Run(made[0], nc.Trainer(), TASK, None, DEVICE, Ranks()), large, None)
    ways = {"one network": one, f"{n} networks": lambda: [step() for step in steps]}
    yield f"step of {n} networks", in_turn(ways, 5)


def host() -> Iterator[tuple[str, Times]]:
    """An update of a trivial network: the loop's own cost, and that of a bare loop."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    image = torch.rand(4, 1, 4, 4, 4, device=DEVICE)
    labels = {"label": ["AD"] * 4, "participant_id": list("abcd"), "session_id": ["ses-M00"] * 4}
    batch = {"image": image, "part_id": torch.zeros(4, dtype=torch.int64), **labels}
    ours = _step(Run(copy.deepcopy(model), nc.Trainer(), TASK, None, DEVICE, Ranks()), batch, None)
    plain = _plain_step(model, image)
    ways = {"bare loop": plain, "ours": ours}
    yield (
        "100 updates of a trivial network",
        in_turn({k: lambda r=r: [r() for _ in range(100)] for k, r in ways.items()}, 9),
    )


def describe(times: Times) -> dict[str, dict[str, float]]:
    """Return median, quartiles and the ratio to the first way of each way."""
    first = statistics.median(next(iter(times.values())))
    found = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] = {"median_ms": middle, "low_ms": low, "high_ms": high, "ratio": middle / first}
    return found


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
    for measure in (pooling, step, networks, host, epoch):
        try:
            for name, times in measure():
                found["measurements"][name] = describe(times)
                print(
                    f"{name}: "
                    + ", ".join(f"{k} {v['median_ms']:.2f} ms" for k, v in describe(times).items()),
                    flush=True,
                )
                if time.monotonic() - begun > seconds:
                    break
        except Exception as error:  # the other measurements are still worth having
            failed, found["not measured"] = 1, [*found["not measured"], f"{measure.__name__}: {error!r}"]
            print(found["not measured"][-1], file=sys.stderr)
        (out / "on_gpu.json").write_text(json.dumps(found, indent=2) + "\n")
        (out / "on_gpu.md").write_text(table(found))
        if time.monotonic() - begun > seconds:
            found["not measured"].append(f"what follows {measure.__name__}: no time was left")
            break
    (out / "on_gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    return failed


def table(found: dict[str, Any]) -> str:
    """Return the measurements as rows of a Markdown table."""
    lines = [
        f"{found['device']}, {found['versions']}",
        "",
        "| measurement | way | ms (quartiles) | ratio |",
        "|---|---|---|---|",
    ]
    for name, ways in found["measurements"].items():
        for way, v in ways.items():
            quartiles = f"{v['low_ms']:.2f}–{v['high_ms']:.2f}"
            lines.append(f"| {name} | {way} | {v['median_ms']:.2f} ({quartiles}) | {v['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
