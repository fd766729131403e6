"""A small CAPS whose answer is known: people with and without atrophy of the hippocampi.

What is random about a participant follows from (seed, index) alone, in streams that do not know each other: the
anatomy, the scan, the disease, the labels. Without atrophy an image is therefore the same whatever the
diagnosis, and anatomy never depends on age, sex or MMS.
"""

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neurocnn.data.anatomy import Floats, Person, draw_person
from neurocnn.data.phantom import Contrast, scan
from neurocnn.data.preprocessing import named
from neurocnn.data.tables import write_table
from neurocnn.errors import SettingError, suggestion
from neurocnn.files import write_whole

DEFAULT_ATROPHY = 0.3
"""Mean fraction of the hippocampal volume that the participants labelled AD have lost."""

SESSION = "ses-M000"
_SETTINGS = "synthetic.json"
_FORMAT = 1  # of the drawing: another drawing of the same settings is another CAPS
_LEVELS = 256  # integer steps for a unit; a power of two, so that probabilities stay within [0, 1]
_GZIP_LEVEL = 1


@dataclass(frozen=True)
class _Kind:
    """Grid and contrast of what a pipeline writes: full shape, and position of its voxels (mm)."""

    shape: tuple[int, int, int]
    voxel: tuple[float, float, float]
    origin: tuple[float, float, float]
    contrast: Contrast


# Clinica crops voxels 12-181, 13-221 and 0-179 of a template whose origin is (-96, -132, -78).
_MNI = {"shape": (169, 208, 179), "voxel": (1.0, 1.0, 1.0), "origin": (-84.0, -119.0, -78.0)}
# SPM writes x from right to left.
_IXI = {"shape": (121, 145, 121), "voxel": (-1.5, 1.5, 1.5), "origin": (90.0, -126.0, -72.0)}
_T1 = {"csf": 0.22, "grey": 0.58, "white": 0.82, "nucleus": 0.66, "hippocampus": 0.6}
_T1_SKULL = {"soft": 0.42, "scalp": 0.9, "skull": 0.1}
_FLAIR = {
    "csf": 0.1,
    "grey": 0.72,
    "white": 0.56,
    "nucleus": 0.64,
    "hippocampus": 0.74,
    "soft": 0.4,
    "scalp": 0.75,
    "skull": 0.08,
}
_GREY = {"grey": 0.97, "hippocampus": 0.97, "nucleus": 0.75}

_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "t1-linear": _Kind(**_MNI, contrast=Contrast({**_T1, **_T1_SKULL}, 0.025)),  # type: ignore[arg-type]
        "flair-linear": _Kind(**_MNI, contrast=Contrast(_FLAIR, 0.03)),  # type: ignore[arg-type]
        "t1-extensive": _Kind(**_IXI, contrast=Contrast(_T1, 0.025)),  # type: ignore[arg-type]
        "t1-volume": _Kind(**_IXI, contrast=Contrast(_GREY, 0.04, probability=True)),  # type: ignore[arg-type]
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
        Threads; all cores by default. The result does not depend on it.

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
    kind, size = _checked(n_participants, preprocessing, shape, atrophy, seed)
    settings = {
        "format": _FORMAT,
        "n_participants": n_participants,
        "preprocessing": preprocessing,
        "shape": list(size),
        "atrophy": float(atrophy),
        "seed": seed,
    }
    folder = Path(folder)
    _claim(folder, settings)
    labels = pd.DataFrame([_labels(seed, index) for index in range(n_participants)])
    paths = [folder / image_path(row.participant_id, preprocessing) for row in labels.itertuples()]
    missing = [index for index, path in enumerate(paths) if not path.exists()]

    def make(index: int) -> None:
        person = _person(seed, index, labels["diagnosis"].iloc[index], atrophy)
        with write_whole(paths[index]) as file:
            file.write(_nifti(person, kind, size, np.random.default_rng([seed, index, 1])))

    with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:
        for _ in tqdm(pool.map(make, missing), "synthetic CAPS", len(missing), disable=None, unit="image"):
            pass
    if not (folder / "labels.tsv").exists():
        write_table(labels, folder / "labels.tsv")
    return labels


def image_path(participant_id: str, preprocessing: str) -> Path:
    """Where a participant's image lies below the CAPS root."""
    kind = named(preprocessing)
    name = f"{participant_id}_{SESSION}{kind.endings[0]}"
    return Path("subjects", participant_id, SESSION, kind.folder, name)


def _checked(
    n_participants: int, preprocessing: str, shape: tuple[int, int, int] | None, atrophy: float, seed: int
) -> tuple[_Kind, tuple[int, int, int]]:
    if preprocessing not in _KINDS:
        raise SettingError(f"make_caps draws no {preprocessing!r}; {suggestion(str(preprocessing), _KINDS)}")
    kind = _KINDS[preprocessing]
    for name, value, least in (("n_participants", n_participants, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SettingError(f"make_caps: {name} is {value!r}, expected a whole number of at least {least}")
    if not 0 <= atrophy <= 0.8:
        raise SettingError(f"make_caps: atrophy is {atrophy!r}, expected a fraction between 0 and 0.8")
    size = kind.shape if shape is None else tuple(shape)
    if len(size) != 3 or not all(8 <= n <= full for n, full in zip(size, kind.shape, strict=True)):
        raise SettingError(
            f"make_caps: shape is {shape!r}, expected three numbers of voxels between 8 and {kind.shape}"
        )
    return kind, (int(size[0]), int(size[1]), int(size[2]))


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


def _diagnosis(seed: int, index: int) -> str:
    first_is_ad = bool(np.random.default_rng([seed, index // 2, 3]).integers(2))
    return "AD" if (index % 2 == 0) == first_is_ad else "CN"


def _severity(seed: int, index: int) -> float:
    """How much more or less than the average a participant has lost, in [-1, 1]."""
    return float(np.random.default_rng([seed, index, 2]).uniform(-1, 1, 2).mean())


def _person(seed: int, index: int, diagnosis: str, atrophy: float) -> Person:
    person = draw_person(np.random.default_rng([seed, index, 0]))
    if diagnosis == "CN":
        return person
    return person.atrophied(atrophy + 0.6 * min(atrophy, 1 - atrophy) * _severity(seed, index))


def _labels(seed: int, index: int) -> dict[str, Any]:
    random = np.random.default_rng([seed, index, 4])
    sex = "F" if random.random() < 0.55 else "M"
    older, worse = random.standard_normal(2)
    diagnosis = _diagnosis(seed, index)
    if diagnosis == "AD":
        age, mms = 75.5 + 7.0 * older, 23.0 - 4.0 * _severity(seed, index) + 2.5 * worse
    else:
        age, mms = 73.0 + 6.5 * older, 29.0 + worse
    return {
        "participant_id": f"sub-{index + 1:04d}",
        "session_id": SESSION,
        "diagnosis": diagnosis,
        "age": round(float(np.clip(age, 55, 95)), 1),
        "sex": sex,
        "MMS": int(np.clip(np.rint(mms), 0, 30)),
    }


def _grid(
    kind: _Kind, size: tuple[int, int, int]
) -> tuple[list[Floats], np.ndarray[Any, np.dtype[np.float64]]]:
    """Positions of the voxels along z, y, x, and the affine: the outer faces of the image stay where they are."""
    affine = np.eye(4)
    for axis, (full, n, voxel, origin) in enumerate(
        zip(kind.shape, size, kind.voxel, kind.origin, strict=True)
    ):
        affine[axis, axis] = voxel * full / n
        affine[axis, 3] = origin + (affine[axis, axis] - voxel) / 2
    axes = [(affine[i, 3] + affine[i, i] * np.arange(size[i])).astype(np.float32) for i in (2, 1, 0)]
    return axes, affine


def _nifti(person: Person, kind: _Kind, size: tuple[int, int, int], random: np.random.Generator) -> bytes:
    """The whole file, compressed: neither its time nor its name is in it."""
    axes, affine = _grid(kind, size)
    voxels = scan(person, axes, kind.contrast, _LEVELS, random)
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(size)
    header.set_data_dtype(np.int16)
    header.set_sform(affine, code="mni")
    header.set_qform(affine, code="mni")
    header.set_xyzt_units("mm")
    header.set_slope_inter(1 / _LEVELS, 0)
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + voxels.astype("<i2", copy=False).tobytes()
    return zlib.compress(content, _GZIP_LEVEL, wbits=31)
