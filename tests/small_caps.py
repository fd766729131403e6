"""Functions that write small CAPS folders for tests."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

T1 = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def voxels_of(participant: int, shape: tuple[int, ...] = (6, 8, 7)) -> np.ndarray:
    """Return random voxels, which depend on the number of the participant."""
    return np.random.default_rng(participant).normal(100, 20, shape).astype(np.float32)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def write_t1(
    root: Path,
    participant: str,
    voxels: np.ndarray,
    session: str = "ses-M00",
    affine: np.ndarray = AFFINE,
) -> Path:
    """Write a t1-linear image of a participant, and return its path."""
    folder = root / "subjects" / participant / session / "t1_linear"
    return write_nifti(folder / f"{participant}_{session}_{T1}", voxels, affine)


def small_caps(root: Path, n: int = 3, shape: tuple[int, ...] = (6, 8, 7)) -> Path:
    """Write a CAPS folder of `n` participants with one t1-linear image each, and return its path."""
    for i in range(n):
        write_t1(root, f"sub-{i:02}", voxels_of(i, shape))
    return root


def rows(n: int = 3, session: str = "ses-M00") -> pd.DataFrame:
    """Return the table of sessions of the folder that `small_caps` writes."""
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02}" for i in range(n)],
            "session_id": session,
            "diagnosis": ["AD" if i % 2 else "CN" for i in range(n)],
            "age": [60.5 + i for i in range(n)],
        }
    )
