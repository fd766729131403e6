"""How well explanation maps of networks of patches show the atrophy in a synthetic CAPS.

Run with ``python benchmarks/explanation.py [folder]``; the results of an earlier run in the folder are reused. For each
method: the fraction of the sum over the mean map of AD that is in the shrunk regions, divided by the fraction of the
volume of the patches that is in these regions. The sum is that of the absolute or of the positive values. A map that is
unrelated to the regions has the ratio 1; integrated gradients and occlusion must reach 5 by absolute values. The shrunk
regions are the voxels whose mean change by the atrophy (difference of the images of AD with and without it) is at least
a tenth of the largest change. Takes about 20 minutes on two cores.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import neurocnn as nc

SHAPE = (60, 72, 60)  # 3 mm
EXPECTED = {"occlusion": 5.0, "integrated_gradients": 5.0, "gradient": 1.0, "grad_cam": 1.0}


def shrunk_regions(folder: Path, caps: nc.Caps, sessions) -> np.ndarray:
    nc.make_caps(folder / "healthy", 120, "t1-volume", SHAPE, atrophy=0.0)
    healthy = nc.Caps(folder / "healthy", "t1-volume")
    people = sessions[["participant_id", "session_id"]]
    changes = [(caps.read(*who) - healthy.read(*who))[0].abs().numpy() for who in people.to_numpy()]
    change = np.mean(changes, axis=0)
    return change >= 0.1 * change.max()


def main(folder: Path) -> bool:
    labels = nc.make_caps(folder / "caps", 120, "t1-volume", SHAPE)
    caps, patches = nc.Caps(folder / "caps", "t1-volume"), nc.Patch(20, 20)
    caps.prepare()
    rest, test = nc.holdout(labels, fraction=0.2, stratify=["diagnosis"], seed=0)
    splits = nc.kfold(rest, n_splits=2, stratify=["diagnosis"], seed=0)
    trainer = nc.Trainer(epochs=15, batch_size=8, learning_rate=1e-3, patience=5, device="cpu", n_workers=0)
    task = nc.classification()
    experiment = nc.Experiment(caps, splits, patches, task, "Conv3_FC1", trainer, multi=True)
    results = experiment.run(folder / "results", verbose=False)
    results.predict(caps, test, name="test")
    accuracy = results.metrics(dataset="test")["balanced_accuracy"]
    print(f"balanced accuracy on {len(test)} held-out participants: {accuracy['ensemble']:.2f} (ensemble)")

    ad = test[test["diagnosis"] == "AD"]
    regions, covered = shrunk_regions(folder, caps, ad), np.zeros(SHAPE, dtype=bool)
    for part in patches.ids(SHAPE):
        covered[patches.place(SHAPE, part)] = True
    share = regions[covered].mean()
    print(f"shrunk regions: {regions.sum()} voxels, {share:.2%} of the volume of the patches")
    passed = True
    for method, expected in EXPECTED.items():
        start = time.perf_counter()
        results.explain(caps, ad, method, baseline=test, steps=20, window=5)
        for by in ("absolute", "positive"):
            found = results.explanation(method, of="mean-AD")
            mass = np.abs(found) if by == "absolute" else np.maximum(found, 0)
            ratio = mass[regions].sum() / mass.sum() / share
            missed = by == "absolute" and ratio < expected
            passed &= not missed
            print(f"{method:20} {by:8} {ratio:6.1f} times{'  MISSED' if missed else ''}", flush=True)
        print(f"{'':20} {time.perf_counter() - start:.0f} s", flush=True)
    return passed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(not main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as name:
        sys.exit(not main(Path(name)))
