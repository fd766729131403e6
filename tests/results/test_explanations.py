"""Attribution maps agree with torch's derivatives and with plain loops."""

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from studies import PARTS, Study, experiment
from torch import nn

import neurocnn as nc
from neurocnn.engine.attribution import Attribution, randomized_networks, task_output
from neurocnn.errors import MissingExtraError, ModelError, NotFoundError, SettingError

FOLDER = "fold-0/cnn_classification/best_balanced_accuracy/explanations"
AD = task_output(nc.classification("diagnosis", ["CN", "AD"]), 1)


def train(study: Study, folder: Path, parts: str = "patch", **settings) -> nc.Results:
    trainer = nc.Trainer(epochs=4, batch_size=4, learning_rate=3e-3, device="cpu")
    return experiment(study, parts, **{"trainer": trainer} | settings).run(folder, splits=[0], verbose=False)


@pytest.fixture(scope="module")
def results(study: Study, tmp_path_factory: pytest.TempPathFactory) -> nc.Results:
    """Train on patches that overlap, so that most voxels belong to at least two patches."""
    folder = tmp_path_factory.mktemp("explained") / "results"
    run = nc.Experiment(
        study.caps, study.splits, nc.Patch(12, 6), nc.classification("diagnosis", ["CN", "AD"]), "Conv3_FC1",
        nc.Trainer(epochs=4, batch_size=4, learning_rate=3e-3, device="cpu"),
    )  # fmt: skip
    return run.run(folder, splits=[0], verbose=False)


@pytest.fixture(scope="module")
def images(study: Study) -> pd.DataFrame:
    return study.labels.groupby("diagnosis").head(2).reset_index(drop=True)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def item(study: Study, results: nc.Results, images: pd.DataFrame, row: int, part: int) -> torch.Tensor:
    dataset = nc.CapsDataset(study.caps, images, results.parts)
    return dataset[row * len(dataset.part_ids) + part]["image"][None]


def log_odds(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the log-odds from the probabilities, by the formula in the docstring of `explain`."""
    p = torch.softmax(model(image).double(), dim=1)[:, 1]
    return torch.log(p / (1 - p))


@pytest.mark.cpu
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(study, results, images):
    images = images.tail(2).reset_index(drop=True)
    maps = results.explain(study.caps, images, "integrated_gradients", "complete", baseline=0.25, steps=150)
    model = results.load_model(0)
    own = maps[maps["part_id"].notna() & maps["participant_id"].notna()]
    assert len(own) == len(images) * 8
    for number, path in enumerate(own["path"]):
        row, part = divmod(number, 8)
        image = item(study, results, images, row, part)
        with torch.no_grad():
            expected = float(log_odds(model, image) - log_odds(model, torch.full_like(image, 0.25)))
        assert read(path).sum() == pytest.approx(expected, rel=0.02, abs=0.005)


def test_the_map_of_an_image_is_the_weighted_sum_of_its_parts_maps_averaged_over_overlaps(
    study, results, images
):
    maps = results.explain(study.caps, images, "gradient")
    weights = pd.read_csv(results.folder / f"{FOLDER}/../part_balanced_accuracy.tsv", sep="\t")["weight"]
    assert weights.sum() == pytest.approx(1)
    one = maps[maps["participant_id"] == images["participant_id"][1]]
    total, count = np.zeros((18, 20, 18)), np.zeros((18, 20, 18))
    for part, path in zip(one["part_id"][1:], one["path"][1:], strict=True):
        box = results.parts.place((18, 20, 18), part)
        total[box] += weights[part] * read(path)
        count[box] += weights[part] > 0
    assert count.max() > 1
    np.testing.assert_allclose(read(one["path"].iloc[0]), total / np.maximum(count, 1), atol=1e-6)


@pytest.mark.cpu
@pytest.mark.parametrize("n_images", [1, 4])
def test_a_gradient_map_is_the_derivative_of_the_log_odds(study, results, images, n_images):
    """No baseline is needed: a single image is explained like several ones."""
    maps = results.explain(study.caps, images.head(n_images), "gradient")
    image = item(study, results, images, 0, 3).requires_grad_()
    log_odds(results.load_model(0), image).backward()
    path = maps.loc[maps["participant_id"].eq(images["participant_id"][0]) & maps["part_id"].eq(3), "path"]
    np.testing.assert_allclose(read(path.iloc[0]), image.grad[0, 0], atol=1e-5)


@pytest.mark.cpu
def test_an_occlusion_map_is_the_change_if_a_box_is_replaced_by_the_mean_image(study, results, images):
    maps = results.explain(study.caps, images, "occlusion", window=6)
    model, image = results.load_model(0), item(study, results, images, 2, 5)
    people = images[["participant_id", "session_id"]].itertuples(index=False)
    mean = torch.stack([study.caps.read(*who) for who in people]).mean(0)
    baseline = nc.MinMax()(results.parts.extract(mean, 5))[None]
    path = maps.loc[maps["participant_id"].eq(images["participant_id"][2]) & maps["part_id"].eq(5), "path"]
    found = read(path.iloc[0])
    for x in (0, 6):
        for y in (0, 6):
            for z in (0, 6):
                box = (..., slice(x, x + 6), slice(y, y + 6), slice(z, z + 6))
                changed = image.clone()
                changed[box] = baseline[box]
                with torch.no_grad():
                    expected = float(log_odds(model, image) - log_odds(model, changed))
                np.testing.assert_allclose(found[box], expected, atol=1e-4)


def test_grad_cam_weights_the_maps_of_the_last_convolution_by_their_mean_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    image = torch.rand(2, 1, 8, 8)
    maps = model[:3](image).detach().requires_grad_()
    scores = model[3:](maps)
    (scores[:, 1] - scores[:, 0]).sum().backward()
    coarse = (maps * maps.grad.mean(dim=(2, 3), keepdim=True)).sum(1, keepdim=True).clamp(min=0)
    expected = nn.functional.interpolate(coarse, (8, 8), mode="bilinear")
    found = Attribution("grad_cam").compute(model, AD, image, torch.zeros_like(image))
    torch.testing.assert_close(found, expected)


def test_map_files_are_in_the_space_of_the_image(study, results, images):
    maps = results.explain(study.caps, images, "gradient", "space")
    who = images.iloc[0]
    own = study.caps.affine(who["participant_id"], who["session_id"])
    folder = results.folder / FOLDER / "space" / "gradient"
    names = {f"{p}_{s}" for p, s in zip(images["participant_id"], images["session_id"], strict=True)}
    names |= {"mean-AD", "mean-CN"}
    expected = {f"{name}{part}.nii.gz" for name in names for part in ("", *(f"_part-{i}" for i in range(8)))}
    assert {path.name for path in folder.iterdir()} == expected == {path.name for path in maps["path"]}
    image = nib.load(folder / "mean-AD.nii.gz")
    assert image.shape == (18, 20, 18)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, own, atol=1e-6)
    part = nib.load(folder / "mean-AD_part-7.nii.gz")
    corner = [axis.start for axis in results.parts.place((18, 20, 18), 7)]
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], own @ [*corner, 1], atol=1e-5)


def test_a_mean_map_is_the_mean_over_the_participants_of_its_class(study, results, images):
    maps = results.explain(study.caps, images, "gradient", "means")
    for level in (maps["part_id"].isna(), maps["part_id"].eq(2)):
        ad = maps[level & maps["class"].eq("AD")]
        mean = np.mean([read(path) for path in ad["path"][1:]], axis=0)
        assert ad["participant_id"].isna().tolist() == [True, False, False]
        np.testing.assert_allclose(read(ad["path"].iloc[0]), mean, atol=1e-6)
    np.testing.assert_array_equal(
        results.explanation("gradient", "means", of="mean-AD_part-2"), read(ad["path"].iloc[0])
    )


def test_unlabelled_images_have_a_single_mean_map(study, results, images):
    maps = results.explain(study.caps, images.drop(columns="diagnosis"), "gradient", "unlabelled")
    assert maps["path"].iloc[0].name == "mean.nii.gz"
    assert maps["class"].isna().all()


def test_maps_of_an_earlier_call_are_replaced(study, results, images):
    results.explain(study.caps, images, "gradient", "again")
    fewer = results.explain(study.caps, images.head(1), "gradient", "again", baseline=0)
    folder = results.folder / FOLDER / "again" / "gradient"
    assert {path.name for path in folder.iterdir()} == {path.name for path in fewer["path"]}


def test_only_maps_of_parts_are_written_if_no_part_votes(study, images, tmp_path):
    results = train(study, tmp_path / "results")
    results.vote(weights={3: 1.0})
    image = results.explain(study.caps, images, "gradient")["path"][0]
    box = results.parts.place((18, 20, 18), 3)
    outside = np.ones((18, 20, 18), dtype=bool)
    outside[box] = False
    assert read(image)[box].any()
    assert not read(image)[outside].any()
    results.vote(selection_threshold=1)
    maps = results.explain(study.caps, images, "gradient")
    assert maps["part_id"].notna().all()
    assert not image.exists()


@pytest.mark.parametrize(
    ("parts", "settings"),
    [
        ("image", {}),
        ("roi", {"multi": True}),
        ("slice", {}),
        ("roi", {"task": "regression"}),
    ],
)
def test_every_kind_of_part_network_and_task_is_explained(study, images, tmp_path, parts, settings):
    results = train(study, tmp_path / "results", parts, **settings)
    n_parts = 0 if parts == "image" else len(PARTS[parts].ids((18, 20, 18)))
    for method in ("gradient", "integrated_gradients", "grad_cam", "occlusion"):
        maps = results.explain(study.caps, images, method, steps=3, window=6)
        means = 1 if "task" in settings else 2
        assert len(maps) == (len(images) + means) * (n_parts + 1)
        assert all(np.isfinite(read(path)).all() for path in maps["path"])


@pytest.mark.cpu
def test_the_map_of_a_slice_is_the_sum_over_its_channels(study, images, tmp_path):
    slices = nc.Slice(direction=2, discarded_slices=8, channels=3)
    task = nc.classification("diagnosis", ["CN", "AD"])
    trainer = nc.Trainer(epochs=1, batch_size=4, device="cpu")
    run = nc.Experiment(study.caps, study.splits, slices, task, "Conv3_FC1", trainer)
    results = run.run(tmp_path / "results", splits=[0], verbose=False)
    maps = results.explain(study.caps, images, "gradient")
    image = nc.CapsDataset(study.caps, images, slices)[0]["image"][None].requires_grad_()
    log_odds(results.load_model(0), image).backward()
    first = maps.loc[maps["participant_id"].eq(images["participant_id"][0]) & maps["part_id"].eq(8), "path"]
    np.testing.assert_allclose(read(first.iloc[0])[:, :, 0], image.grad[0].sum(0), atol=1e-6)


def test_each_randomized_network_has_one_more_layer_of_random_weights():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for name, network in randomized_networks(model, seed=1):
        new = network.state_dict()
        seen.append((name, {key.split(".")[0] for key in before if not torch.equal(new[key], before[key])}))
    # The batch norm (layer 1) is not trained here, so that its weights equal those of a new batch norm.
    assert seen == [("3", {"3"}), ("1", {"3"}), ("0", {"3", "0"})]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.cpu
def test_the_map_of_a_randomized_network_is_compared_by_rank_correlation(study, results, images):
    found = results.explain_randomized(study.caps, images.head(1), "gradient", baseline=0, seed=5)
    names = [name for name, module in results.load_model(0).named_modules() if module._parameters]
    assert found.index.tolist() == names[::-1]
    # The same batch in the same memory format: among equal gradients, rounding would decide the order.
    layout = torch.channels_last_3d
    model = results.load_model(0).to(memory_format=layout)
    layers = list(randomized_networks(model, seed=5))
    parts = torch.cat([item(study, results, images, 0, part) for part in range(8)]).contiguous(
        memory_format=layout
    )
    one, other = (
        Attribution("gradient").compute(network, AD, parts, parts).flatten(1).numpy()
        for network in (model, layers[-1][1])
    )
    pairs = [
        (stats.spearmanr(a, b)[0], stats.spearmanr(abs(a), abs(b))[0])
        for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(found.iloc[-1], np.mean(pairs, axis=0), atol=1e-5)
    assert found["spearman"].abs().max() < 0.9


REFUSED: dict[str, Callable[[Study, nc.Results, pd.DataFrame], object]] = {
    "target='MCI'": lambda s, r, i: r.explain(s.caps, i, "gradient", target="MCI"),
    "method='saliency'": lambda s, r, i: r.explain(s.caps, i, "saliency"),
    "baseline=None": lambda s, r, i: r.explain(s.caps, i.head(1), "occlusion"),
    "steps=1": lambda s, r, i: r.explain(s.caps, i, "gradient", steps=1),
    "name='train'": lambda s, r, i: r.explain(s.caps, i, "gradient", "train"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_invalid_arguments_are_refused(message, study, results, images):
    with pytest.raises(SettingError, match=message):
        REFUSED[message](study, results, images)


def test_parts_of_another_size_than_their_box_are_refused(study, images, tmp_path):
    results = train(study, tmp_path / "results", "roi", transform=halve)
    with pytest.raises(SettingError, match="the size of a part in the volume"):
        nc.Results(results.folder, transform=halve).explain(study.caps, images, "gradient")


def halve(part: torch.Tensor) -> torch.Tensor:
    return part[:, ::2]


def test_the_error_about_a_missing_map_lists_existing_maps(study, results, images):
    results.explain(study.caps, images, "gradient", "known")
    with pytest.raises(NotFoundError, match="expected one of: mean-AD, mean-AD_part-0"):
        results.explanation("gradient", "known", of="mean-MCI")


def test_reconstructions_and_networks_without_convolutions_are_refused(study, images, tmp_path):
    codes = train(study, tmp_path / "codes", "roi", task="reconstruction")
    with pytest.raises(SettingError, match="expected a task with predictions"):
        codes.explain(study.caps, images, "gradient")
    with pytest.raises(ModelError, match="no convolution"):
        image = torch.rand(1, 1, 4, 4)
        Attribution("grad_cam").compute(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), AD, image, image)


def test_the_error_without_captum_names_the_extra(study, results, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neurocnn\[explain\]'"):
        results.explain(study.caps, images, "gradient")
