"""Synthetic CAPS with a known effect: participants with and without atrophy of the hippocampi.

The random numbers of a participant depend only on (seed, index), with separate streams for the anatomy, the scan, the
disease and the labels. With ``atrophy=0`` an image is therefore the same for both diagnoses, and anatomy never depends
on age, sex or MMS.
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from neurocnn.data.preprocessing import as_preprocessing
from neurocnn.data.synthetic.person import Floats, Person, draw_person
from neurocnn.data.synthetic.phantom import Contrast, scan
from neurocnn.errors import SettingError, arguments
from neurocnn.storage.files import remove_leftovers, write_atomically
from neurocnn.storage.locks import hold
from neurocnn.storage.tables import read_table, write_table

DEFAULT_ATROPHY = 0.35
"""Mean fraction of the hippocampal volume that the participants labelled AD have lost.

This fraction is at the upper end of losses in dementia. The volumes of both groups overlap: the true volumes
separate them with an area under the ROC curve near 0.99, so the best possible balanced accuracy is about 0.95.
"""

SESSION = "ses-M000"
_WHERE, _SETTINGS, _LOCK = "make_caps", "synthetic.json", ".make_caps.lock"
# Version of the images. Increase it with each change of the code that changes the images.
_FORMAT = 1
# Number of integer steps per unit. It is a power of two, so that probabilities remain within [0, 1].
_LEVELS = 128
# Level 6 would take 5 times as long for files that are only 3 % smaller. More threads would wait for each other.
_GZIP_LEVEL, _MAX_WORKERS = 1, 8
_LOSS_DEVIATION, _MIN_VOXELS = 0.6, 8


@dataclass(frozen=True)
class _Space:
    """Grid of a pipeline's images: number of voxels, voxel size and position of the first voxel (mm).

    `individuality` is the fraction of the individual variation in shape that remains after registration.
    """

    shape: tuple[int, int, int]
    voxel: tuple[float, float, float]
    origin: tuple[float, float, float]
    individuality: float


# Clinica crops voxels 12 to 180, 13 to 220 and 0 to 178 out of a template whose origin is (-96, -132, -78).
_MNI = _Space((169, 208, 179), (1.0, 1.0, 1.0), (-84.0, -119.0, -78.0), 1.0)
# SPM writes x from right to left. After its nonlinear registration, less of the individual variation in shape remains.
_IXI = _Space((121, 145, 121), (-1.5, 1.5, 1.5), (90.0, -126.0, -72.0), 0.4)

_BRAIN = {"csf": 0.22, "grey": 0.58, "white": 0.82, "nucleus": 0.66, "hippocampus": 0.6}
_T1 = Contrast({"soft": 0.42, "scalp": 0.9, "skull": 0.1, **_BRAIN}, 0.025)
_STRIPPED = Contrast(_BRAIN, 0.025)
_FLAIR = Contrast(
    {"soft": 0.4, "scalp": 0.75, "skull": 0.08, "csf": 0.1}
    | {"grey": 0.72, "white": 0.56, "nucleus": 0.64, "hippocampus": 0.74},
    0.03,
)
_GREY = Contrast({"grey": 0.97, "hippocampus": 0.97, "nucleus": 0.75}, 0.04, probability=True)

_KINDS: Mapping[str, tuple[_Space, Contrast]] = MappingProxyType(
    {
        "t1-linear": (_MNI, _T1),
        "flair-linear": (_MNI, _FLAIR),
        "t1-extensive": (_IXI, _STRIPPED),
        "t1-volume": (_IXI, _GREY),
    }
)


def make_caps(
    folder: str | os.PathLike[str],
    n_participants: int = 100,
    preprocessing: str = "t1-linear",
    shape: tuple[int, int, int] | None = None,
    atrophy: float = DEFAULT_ATROPHY,
    seed: int = 0,
    *,
    n_workers: int | None = None,
) -> pd.DataFrame:
    """Create a synthetic CAPS: head-like images and a ``labels.tsv`` next to ``subjects/``.

    Parameters
    ----------
    folder
        Path of the CAPS root, created if missing. If it contains a CAPS of the same settings, only missing files are
        created.
    n_participants
        Number of participants, each with one session. In each pair, a randomly chosen participant has AD.
    preprocessing
        ``"t1-linear"`` (169×208×179 voxels of 1 mm), ``"t1-volume"`` (121×145×121 of 1.5 mm, probabilities of
        grey matter), ``"flair-linear"`` or ``"t1-extensive"``.
    shape
        Number of voxels along x, y, z, from 8 to the pipeline's number. Fewer voxels are larger, so that the field of
        view does not change; the affine contains the size of the voxels.
    atrophy
        Mean fraction of hippocampal volume lost in AD, in [0, 0.8]. Individual losses differ by at most 60 %
        from this mean, and ventricles grow with the loss. With 0 the images do not depend on the diagnosis.
    seed
        Seed of all random numbers. The same seed gives the same bytes, and participant i does not depend on
        `n_participants`.
    n_workers
        Number of threads; by default one per core, up to 8. The result does not depend on this number.

    Returns
    -------
    DataFrame
        Content of ``labels.tsv``: participant_id, session_id, diagnosis (AD, CN), age (years), sex (F, M) and
        MMS (0 to 30). Participants with AD are 2.5 years older on average, and their MMS decreases with their loss.

    Raises
    ------
    SettingError
        If an argument cannot be used, or `folder` contains anything except a CAPS of the same settings.
    StorageError
        If `folder` cannot be written.

    Examples
    --------
    >>> labels = make_caps(tmp / "caps", n_participants=4, shape=(24, 28, 24))
    >>> sorted(labels["diagnosis"])
    ['AD', 'AD', 'CN', 'CN']
    >>> sorted(entry.name for entry in (tmp / "caps").iterdir())
    ['.make_caps.lock', 'labels.tsv', 'subjects', 'synthetic.json']
    """
    n_workers = min(os.cpu_count() or 1, _MAX_WORKERS) if n_workers is None else n_workers
    n_participants = arguments.check_integer("n_participants", n_participants, minimum=1, where=_WHERE)
    seed = arguments.check_integer("seed", seed, minimum=0, where=_WHERE)
    n_workers = arguments.check_integer("n_workers", n_workers, minimum=1, where=_WHERE)
    atrophy = arguments.check_number("atrophy", atrophy, minimum=0, maximum=0.8, where=_WHERE)
    arguments.check_choice("preprocessing", preprocessing, _KINDS, where=_WHERE)
    size = _check_size(shape, _KINDS[preprocessing][0].shape)
    space, contrast = _KINDS[preprocessing]
    folder = arguments.check_path("folder", folder, where=_WHERE)
    settings = {"format": _FORMAT, "n_participants": n_participants, "preprocessing": preprocessing}
    settings |= {"shape": list(size), "atrophy": atrophy, "seed": seed}
    indices = range(n_participants)
    images = [folder / image_path(_participant_id(i), preprocessing) for i in indices]
    labels = folder / "labels.tsv"
    # The lock file is created later, because other folders and a complete CAPS (which may be read-only) must not
    # change.
    if _has_settings(folder, settings) and labels.exists() and all(image.exists() for image in images):
        return read_table(labels)

    def draw(index: int) -> None:
        person = _draw_participant(seed, index, atrophy, space.individuality)
        with write_atomically(images[index]) as file:
            file.write(_nifti_bytes(person, space, contrast, size, np.random.default_rng([seed, index, 1])))

    with hold(folder / _LOCK, f"the synthetic CAPS {folder}", wait=True) as lock:
        remove_leftovers(lock, folder / _SETTINGS, labels, *images)
        if not _has_settings(folder, settings):
            with write_atomically(folder / _SETTINGS, "w") as file:
                json.dump(settings, file, indent=2)
                file.write("\n")
        _run_in_threads(draw, [i for i in indices if not images[i].exists()], n_workers)
        if not labels.exists():
            write_table(pd.DataFrame([_label_row(seed, index) for index in indices]), labels)
    return read_table(labels)


def _run_in_threads(draw: Callable[[int], None], indices: Sequence[int], n_workers: int) -> None:
    # Threads are sufficient, because numpy and zlib release the interpreter lock. Processes would repeat all imports.
    with ThreadPoolExecutor(n_workers) as pool:
        try:
            list(tqdm(pool.map(draw, indices), "synthetic CAPS", len(indices), disable=None, unit="image"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def image_path(participant_id: str, preprocessing: str) -> Path:
    """Return the path of a participant's image below the CAPS root."""
    kind = as_preprocessing(preprocessing)
    name = f"{participant_id}_{SESSION}{kind.endings[0]}"
    return Path("subjects", participant_id, SESSION, kind.folder, name)


def _check_size(shape: Sequence[int] | None, full: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the checked number of voxels per axis; the pipeline's `full` shape if `shape` is None."""
    if shape is None:
        return full
    sizes = arguments.check_shape("shape", shape, where=_WHERE)
    if not all(_MIN_VOXELS <= n <= maximum for n, maximum in zip(sizes, full, strict=True)):
        raise arguments.argument_error(
            "shape", shape, f"three integers from {_MIN_VOXELS} to {full}", where=_WHERE
        )
    return sizes[0], sizes[1], sizes[2]


def _has_settings(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a folder contains a CAPS of these settings; raise a SettingError if it contains anything else."""
    path = folder / _SETTINGS
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in settings if found.get(key) != settings[key]]
        except (ValueError, AttributeError):
            found, differing = {}, list(settings)
        if differing:
            changes = ", ".join(f"{key}={found.get(key)!r}, now {settings[key]!r}" for key in differing)
            raise SettingError(
                f"{folder} contains a synthetic CAPS with other settings: {changes}; choose another folder"
            )
        return True
    # If a run is killed at its start, only the lock and a temporary file of the settings remain.
    if folder.exists() and not (
        folder.is_dir()
        and all(entry.name == _LOCK or entry.name.startswith(f".{_SETTINGS}.") for entry in folder.iterdir())
    ):
        raise SettingError(f"{folder} exists and is not a synthetic CAPS; choose an empty or new folder")
    return False


def _participant_id(index: int) -> str:
    return f"sub-{index + 1:04d}"


def _diagnosis(seed: int, index: int) -> str:
    """Return the diagnosis. One participant of each pair has AD, independently of the other pairs."""
    first_is_ad = bool(np.random.default_rng([seed, index // 2, 3]).integers(2))
    return "AD" if (index % 2 == 0) == first_is_ad else "CN"


def _severity(seed: int, index: int) -> float:
    """Return a participant's deviation from the mean loss in AD, in [-1, 1]."""
    return float(np.random.default_rng([seed, index, 2]).uniform(-1, 1, 2).mean())


def _draw_participant(seed: int, index: int, atrophy: float, individuality: float) -> Person:
    person = draw_person(np.random.default_rng([seed, index, 0]), individuality)
    if _diagnosis(seed, index) == "CN":
        return person
    return person.atrophied(atrophy + _LOSS_DEVIATION * min(atrophy, 1 - atrophy) * _severity(seed, index))


def _label_row(seed: int, index: int) -> dict[str, Any]:
    """Return a row of ``labels.tsv``. Means and standard deviations resemble cohorts such as ADNI."""
    random = np.random.default_rng([seed, index, 4])
    sex = "F" if random.random() < 0.55 else "M"
    older, worse = random.standard_normal(2)
    diagnosis = _diagnosis(seed, index)
    if diagnosis == "AD":
        age, mms = 75.5 + 7.0 * older, 23.0 - 4.0 * _severity(seed, index) + 2.5 * worse
    else:
        age, mms = 73.0 + 6.5 * older, 29.0 + worse
    return {
        "participant_id": _participant_id(index),
        "session_id": SESSION,
        "diagnosis": diagnosis,
        "age": round(float(np.clip(age, 55, 95)), 1),
        "sex": sex,
        "MMS": int(np.clip(np.rint(mms), 0, 30)),
    }


def _voxel_grid(space: _Space, size: tuple[int, int, int]) -> tuple[list[Floats], NDArray[np.float64]]:
    """Return the positions of the voxels along z, y, x, and the affine. The field of view does not depend on `size`."""
    affine = np.eye(4)
    for i in range(3):
        affine[i, i] = space.voxel[i] * space.shape[i] / size[i]
        affine[i, 3] = space.origin[i] + (affine[i, i] - space.voxel[i]) / 2
    axes = [(affine[i, 3] + affine[i, i] * np.arange(size[i])).astype(np.float32) for i in (2, 1, 0)]
    return axes, affine


def _nifti_bytes(
    person: Person, space: _Space, contrast: Contrast, size: tuple[int, int, int], random: np.random.Generator
) -> bytes:
    """Return a compressed NIfTI file without a time or file name in its header, so that the bytes are reproducible."""
    axes, affine = _voxel_grid(space, size)
    voxels = scan(person, axes, contrast, _LEVELS, random)
    kind: Any = nib.Nifti1Header
    header = kind(endianness="<")
    header.set_data_shape(size)
    header.set_data_dtype(np.int16)
    header.set_sform(affine, code="mni")
    header.set_qform(affine, code="mni")
    header.set_xyzt_units("mm")
    header.set_slope_inter(1 / _LEVELS, 0)
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + voxels.astype("<i2", copy=False).tobytes()
    return zlib.compress(content, _GZIP_LEVEL, wbits=31)
