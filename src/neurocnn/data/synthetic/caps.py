"""A small CAPS whose answer is known: people with and without atrophy of the hippocampi.

What is random about a participant follows from (seed, index) alone, in streams that do not know each other: the
anatomy, the scan, the disease, the labels. Without atrophy an image is therefore the same whatever the
diagnosis, and anatomy never depends on age, sex or MMS.
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
from neurocnn.errors import SettingError, suggestion
from neurocnn.storage.files import write_whole
from neurocnn.storage.tables import read_table, write_table

DEFAULT_ATROPHY = 0.35
"""Mean fraction of the hippocampal volume that the participants labelled AD have lost.

The high end of what dementia does. Volumes of both groups overlap: knowing the true volumes separates them with
an area under the ROC curve near 0.99, so that about 0.95 is the best balanced accuracy to hope for.
"""

SESSION = "ses-M000"
_SETTINGS = "synthetic.json"
_FORMAT = 1  # of the drawing: another drawing of the same settings is another CAPS
_LEVELS = 128  # integer steps for a value of 1; a power of two, so that probabilities stay within [0, 1]
_GZIP_LEVEL = 1  # the noise hardly compresses: level 6 gives 3 % smaller files and takes 5 times longer
_MOST_WORKERS = 8  # more threads than that wait for each other
_LOSS_SPREAD = 0.6  # of the single losses around the mean, relative to it
_SMALLEST = 8  # voxels along an axis


@dataclass(frozen=True)
class _Space:
    """The grid that a pipeline writes: voxels, their size and the position of the first (mm).

    `individuality` is what the registration leaves of a person's own form.
    """

    shape: tuple[int, int, int]
    voxel: tuple[float, float, float]
    origin: tuple[float, float, float]
    individuality: float


# Clinica crops voxels 12 to 180, 13 to 220 and 0 to 178 out of a template whose origin is (-96, -132, -78).
_MNI = _Space((169, 208, 179), (1.0, 1.0, 1.0), (-84.0, -119.0, -78.0), 1.0)
# SPM writes x from right to left, and its registration warps.
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
    """Make a synthetic CAPS: head-like images and a ``labels.tsv`` beside ``subjects/``.

    Parameters
    ----------
    folder
        The CAPS root, made where there is none. With the same settings, what exists is kept and only what is
        missing is made.
    n_participants
        How many, half of them AD (one of each two, at random). Each has one session.
    preprocessing
        ``"t1-linear"`` (169×208×179 voxels of 1 mm), ``"t1-volume"`` (121×145×121 of 1.5 mm, probabilities of
        grey matter), ``"flair-linear"`` or ``"t1-extensive"``.
    shape
        Voxels along x, y, z, at least 8 and at most the pipeline's own. Fewer voxels are larger ones: the same
        head, an honest affine.
    atrophy
        Mean fraction of hippocampal volume that AD has lost, in [0, 0.8]; single losses lie within 60 % of it,
        and ventricles grow along. With 0 the images know nothing of the diagnosis.
    seed
        Same seed, same bytes; participant i is the same whatever `n_participants`.
    n_workers
        Threads; by default one for each core, up to 8. The result does not depend on it.

    Returns
    -------
    DataFrame
        What ``labels.tsv`` holds: participant_id, session_id, diagnosis (AD, CN), age (years), sex (F, M) and
        MMS (0 to 30). AD is 2.5 years older on average and MMS falls with the individual loss.

    Raises
    ------
    SettingError
        An argument makes no sense, or `folder` holds anything but the CAPS of these very settings.

    Examples
    --------
    >>> labels = make_caps(tmp / "caps", n_participants=4, shape=(24, 28, 24))
    >>> sorted(labels["diagnosis"])
    ['AD', 'AD', 'CN', 'CN']
    >>> sorted(entry.name for entry in (tmp / "caps").iterdir())
    ['labels.tsv', 'subjects', 'synthetic.json']
    """
    n_workers = min(os.cpu_count() or 1, _MOST_WORKERS) if n_workers is None else n_workers
    _check_whole(n_participants=(n_participants, 1), seed=(seed, 0), n_workers=(n_workers, 1))
    size = _checked(preprocessing, shape, atrophy)
    space, contrast = _KINDS[preprocessing]
    folder = Path(folder)
    settings = {"n_participants": n_participants, "preprocessing": preprocessing, "shape": list(size)}
    _claim(folder, {"format": _FORMAT, **settings, "atrophy": float(atrophy), "seed": seed})

    def make(index: int) -> None:
        person = _person(seed, index, atrophy, space.individuality)
        with write_whole(folder / image_path(_participant(index), preprocessing)) as file:
            file.write(_nifti(person, space, contrast, size, np.random.default_rng([seed, index, 1])))

    everybody = range(n_participants)
    missing = [i for i in everybody if not (folder / image_path(_participant(i), preprocessing)).exists()]
    _in_threads(make, missing, n_workers)
    if not (folder / "labels.tsv").exists():
        write_table(pd.DataFrame([_labels(seed, index) for index in everybody]), folder / "labels.tsv")
    return read_table(folder / "labels.tsv")


def _in_threads(make: Callable[[int], None], indices: Sequence[int], n_workers: int) -> None:
    # Threads, for numpy and zlib let go of the interpreter; processes would import everything again.
    with ThreadPoolExecutor(n_workers) as pool:
        try:
            made = pool.map(make, indices)
            for _ in tqdm(made, "synthetic CAPS", len(indices), disable=None, unit="image"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def image_path(participant_id: str, preprocessing: str) -> Path:
    """Where a participant's image lies below the CAPS root."""
    kind = as_preprocessing(preprocessing)
    name = f"{participant_id}_{SESSION}{kind.endings[0]}"
    return Path("subjects", participant_id, SESSION, kind.folder, name)


def _check_whole(**numbers: tuple[object, int]) -> None:
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SettingError(f"make_caps: {name} is {value!r}, expected a whole number of at least {least}")


def _checked(preprocessing: str, shape: Sequence[int] | None, atrophy: float) -> tuple[int, int, int]:
    """The shape to draw, once the settings make sense."""
    if preprocessing not in _KINDS:
        raise SettingError(f"make_caps draws no {preprocessing!r}; {suggestion(str(preprocessing), _KINDS)}")
    if not isinstance(atrophy, int | float) or not 0 <= atrophy <= 0.8:
        raise SettingError(f"make_caps: atrophy is {atrophy!r}, expected a fraction between 0 and 0.8")
    full = _KINDS[preprocessing][0].shape
    if shape is None:
        return full
    size = tuple(shape)
    if len(size) != 3 or not all(
        isinstance(n, int) and _SMALLEST <= n <= most for n, most in zip(size, full, strict=True)
    ):
        raise SettingError(
            f"make_caps: shape is {shape!r}, expected three whole numbers from {_SMALLEST} up to {full}"
        )
    return size[0], size[1], size[2]


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into an empty folder, or check that they are those of a full one."""
    path = folder / _SETTINGS
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in settings if found.get(key) != settings[key]]
        except (ValueError, AttributeError):
            found, differing = {}, list(settings)
        if differing:
            what = ", ".join(f"{key} {found.get(key)!r} there, {settings[key]!r} here" for key in differing)
            raise SettingError(
                f"{folder} holds a synthetic CAPS of other settings ({what}); choose another folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(f"{folder} exists and is no synthetic CAPS; choose a folder that is empty or new")
    else:
        with write_whole(path, "w") as file:
            json.dump(settings, file, indent=2)
            file.write("\n")


def _participant(index: int) -> str:
    return f"sub-{index + 1:04d}"


def _diagnosis(seed: int, index: int) -> str:
    """One of each two participants is AD, whoever else there is."""
    first_is_ad = bool(np.random.default_rng([seed, index // 2, 3]).integers(2))
    return "AD" if (index % 2 == 0) == first_is_ad else "CN"


def _severity(seed: int, index: int) -> float:
    """How much more or less than the average AD takes from a participant, in [-1, 1]."""
    return float(np.random.default_rng([seed, index, 2]).uniform(-1, 1, 2).mean())


def _person(seed: int, index: int, atrophy: float, individuality: float) -> Person:
    person = draw_person(np.random.default_rng([seed, index, 0]), individuality)
    if _diagnosis(seed, index) == "CN":
        return person
    return person.atrophied(atrophy + _LOSS_SPREAD * min(atrophy, 1 - atrophy) * _severity(seed, index))


def _labels(seed: int, index: int) -> dict[str, Any]:
    """A row of ``labels.tsv``. Means and deviations are of the order of cohorts such as ADNI."""
    random = np.random.default_rng([seed, index, 4])
    sex = "F" if random.random() < 0.55 else "M"
    older, worse = random.standard_normal(2)
    diagnosis = _diagnosis(seed, index)
    if diagnosis == "AD":
        age, mms = 75.5 + 7.0 * older, 23.0 - 4.0 * _severity(seed, index) + 2.5 * worse
    else:
        age, mms = 73.0 + 6.5 * older, 29.0 + worse
    return {
        "participant_id": _participant(index),
        "session_id": SESSION,
        "diagnosis": diagnosis,
        "age": round(float(np.clip(age, 55, 95)), 1),
        "sex": sex,
        "MMS": int(np.clip(np.rint(mms), 0, 30)),
    }


def _grid(space: _Space, size: tuple[int, int, int]) -> tuple[list[Floats], NDArray[np.float64]]:
    """Positions of the voxels along z, y, x, and the affine; the image's outer faces stay in their place."""
    affine = np.eye(4)
    for i in range(3):
        affine[i, i] = space.voxel[i] * space.shape[i] / size[i]
        affine[i, 3] = space.origin[i] + (affine[i, i] - space.voxel[i]) / 2
    axes = [(affine[i, 3] + affine[i, i] * np.arange(size[i])).astype(np.float32) for i in (2, 1, 0)]
    return axes, affine


def _nifti(
    person: Person, space: _Space, contrast: Contrast, size: tuple[int, int, int], random: np.random.Generator
) -> bytes:
    """The whole compressed file; neither a time nor a name is in it."""
    axes, affine = _grid(space, size)
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
