"""File names of each Clinica pipeline.

Two generations of Clinica write ``<participant>_<session>_T1w_space-…`` and ``<participant>_<session>_space-…``; files
with either name are found. BIDS entities of the source file, such as ``_run-01`` or ``_acq-…``, may follow the session;
the endings in the classes below do not contain these entities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from neurocnn.errors.arguments import argument_error, check_choice, check_flag


@runtime_checkable
class Preprocessing(Protocol):
    """File names of a pipeline. Any frozen dataclass with these four members can be used."""

    @property
    def name(self) -> str:
        """Name of the pipeline in Clinica, such as ``"t1-linear"``."""
        ...

    @property
    def folder(self) -> str:
        """Folder of the images, relative to a session's folder. If empty, all subfolders are searched."""
        ...

    @property
    def prepared_folder(self) -> str:
        """Folder of the prepared tensors, relative to ``deeplearning_prepare_data/image_based``."""
        ...

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings of a file name, after ``<participant>_<session>`` and BIDS entities such as ``_run-01``."""
        ...


@dataclass(frozen=True)
class T1Linear:
    """T1-weighted MRI, linearly registered to MNI152NLin2009cSym.

    Parameters
    ----------
    cropped
        Whether the margins are cut off: 169×208×179 voxels, otherwise 193×229×193.

    Examples
    --------
    >>> T1Linear().endings[1]
    '_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz'
    """

    cropped: bool = True

    name = "t1-linear"
    folder = "t1_linear"
    prepared_folder = "t1_linear"

    def __post_init__(self) -> None:
        check_flag("cropped", self.cropped, where="T1Linear")

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings of a file name after ``<participant>_<session>``."""
        end = f"{_mni_space(self.cropped)}_T1w.nii.gz"
        return (f"_T1w{end}", end)


@dataclass(frozen=True)
class T1Extensive:
    """T1-weighted MRI, skull-stripped, registered to Ixi549Space; 121×145×121 voxels.

    Examples
    --------
    >>> T1Extensive().endings[2]
    '_space-Ixi549Space_desc-SkullStripped_T1w.nii.gz'
    """

    name = "t1-extensive"
    folder = "t1_extensive"
    prepared_folder = "t1_extensive"

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings after ``<participant>_<session>``, with ``SkullStripped`` or ``skullstripped``."""
        ends = [f"_space-Ixi549Space_desc-{word}_T1w.nii.gz" for word in ("SkullStripped", "skullstripped")]
        return tuple(f"{source}{end}" for source in ("_T1w", "") for end in ends)


@dataclass(frozen=True)
class T1Volume:
    """Probabilities of grey matter in Ixi549Space, not modulated; 121×145×121 voxels.

    Examples
    --------
    >>> T1Volume().endings[1]
    '_segm-graymatter_space-Ixi549Space_modulated-off_probability.nii.gz'
    """

    name = "t1-volume"
    folder = "t1/spm/segmentation/normalized_space"
    prepared_folder = "custom"

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings of a file name after ``<participant>_<session>``."""
        end = "_segm-graymatter_space-Ixi549Space_modulated-off_probability.nii.gz"
        return (f"_T1w{end}", end)


@dataclass(frozen=True)
class FlairLinear:
    """FLAIR MRI, linearly registered to MNI152NLin2009cSym.

    Parameters
    ----------
    cropped
        Whether the margins are cut off: 169×208×179 voxels, otherwise 193×229×193.

    Examples
    --------
    >>> FlairLinear(cropped=False).endings[-1]
    '_space-MNI152NLin2009cSym_res-1x1x1_flair.nii.gz'
    """

    cropped: bool = True

    name = "flair-linear"
    folder = "flair_linear"
    prepared_folder = "flair_linear"

    def __post_init__(self) -> None:
        check_flag("cropped", self.cropped, where="FlairLinear")

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings of a file name after ``<participant>_<session>``."""
        end = f"{_mni_space(self.cropped)}_flair.nii.gz"
        return (f"_FLAIR{end}", f"_T1w{end}", end)


@dataclass(frozen=True)
class PetLinear:
    """PET, linearly registered to MNI152NLin2009cSym, as uptake relative to a region.

    Parameters
    ----------
    tracer
        Tracer as in the file names: ``"18FFDG"``, ``"18FAV45"``, ….
    region
        Reference region as in the file names: ``"cerebellumPons2"``, ``"pons"``, ….
    cropped
        Whether the margins are cut off: 169×208×179 voxels, otherwise 193×229×193.
    reconstruction
        Reconstruction as in the file names (``_rec-…``); None if each session has a single image of the tracer.

    Examples
    --------
    >>> PetLinear("18FFDG", "pons").endings[-1]
    '_trc-18FFDG_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_suvr-pons_pet.nii.gz'
    """

    tracer: str
    region: str
    cropped: bool = True
    reconstruction: str | None = None

    name = "pet-linear"
    folder = "pet_linear"
    prepared_folder = "pet_linear"

    def __post_init__(self) -> None:
        for name in ("tracer", "region", "reconstruction"):
            value = getattr(self, name)
            is_optional = name == "reconstruction" and value is None
            if not is_optional and not (isinstance(value, str) and value.isalnum()):
                expected = "letters and digits as in the file names"
                raise argument_error(name, value, expected, where="PetLinear")
        check_flag("cropped", self.cropped, where="PetLinear")

    @property
    def endings(self) -> tuple[str, ...]:
        """Possible endings of a file name after ``<participant>_<session>``."""
        end = f"{_mni_space(self.cropped)}_suvr-{self.region}_pet.nii.gz"
        tracer = f"_trc-{self.tracer}" + (f"_rec-{self.reconstruction}" if self.reconstruction else "")
        return (f"{tracer}_pet{end}", f"_T1w{tracer}{end}", f"{tracer}{end}")


@dataclass(frozen=True)
class Custom:
    """Files anywhere below the session's folder, found by the end of their names.

    Parameters
    ----------
    suffix
        End of the file name, with ``.nii.gz`` or ``.nii``:
        ``"graymatter_space-Ixi549Space_modulated-off_probability.nii.gz"``.

    Examples
    --------
    >>> Custom("_space-own_T1w.nii.gz").endings
    ('_space-own_T1w.nii.gz',)
    """

    suffix: str

    name = "custom"
    folder = ""
    prepared_folder = "custom"

    def __post_init__(self) -> None:
        is_plain = isinstance(self.suffix, str) and not any(sign in self.suffix for sign in "*?/\\")
        if not is_plain or not self.suffix.endswith((".nii.gz", ".nii")):
            expected = "the end of a file name, with .nii.gz or .nii and without * ? / or \\"
            raise argument_error("suffix", self.suffix, expected, where="Custom")

    @property
    def endings(self) -> tuple[str, ...]:
        """Ending of the file name, `suffix`."""
        return (self.suffix,)


DEFAULTS: Mapping[str, Preprocessing] = MappingProxyType(
    {kind.name: kind for kind in (T1Linear(), T1Extensive(), T1Volume(), FlairLinear())}
)
_WITH_ARGUMENTS = {
    "pet-linear": 'PetLinear(tracer="18FFDG", region="pons")',
    "custom": 'Custom(suffix="_probability.nii.gz")',
}


def as_preprocessing(preprocessing: str | Preprocessing) -> Preprocessing:
    """Return a preprocessing object; a name is replaced by the object with default settings.

    Parameters
    ----------
    preprocessing
        A name such as ``"t1-linear"``, or an object, which is returned unchanged.

    Raises
    ------
    SettingError
        If no preprocessing has this name, or the preprocessing has arguments without defaults.

    Examples
    --------
    >>> as_preprocessing("t1-linear")
    T1Linear(cropped=True)
    """
    if isinstance(preprocessing, str):
        if preprocessing in _WITH_ARGUMENTS:
            remedy = f"use {_WITH_ARGUMENTS[preprocessing]}"
            raise argument_error("preprocessing", preprocessing, "an object with arguments", remedy=remedy)
        return DEFAULTS[check_choice("preprocessing", preprocessing, DEFAULTS)]
    if isinstance(preprocessing, type) or not isinstance(preprocessing, Preprocessing):
        raise argument_error("preprocessing", preprocessing, "a name or an object such as T1Linear()")
    return preprocessing


def _mni_space(cropped: bool) -> str:
    return f"_space-MNI152NLin2009cSym{'_desc-Crop' if cropped else ''}_res-1x1x1"
