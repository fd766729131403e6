"""How each Clinica pipeline names its files.

Names are computed, never searched for, except for `Custom`. Two generations of Clinica write
``<participant>_<session>_T1w_space-…`` and ``<participant>_<session>_space-…``: both are candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from neurocnn.errors import SettingError, suggestion


@runtime_checkable
class Preprocessing(Protocol):
    """What `Caps` asks of a preprocessing; a frozen dataclass with these four members is one."""

    @property
    def name(self) -> str:
        """As Clinica calls it: ``"t1-linear"``."""
        ...

    @property
    def folder(self) -> str:
        """Where its files lie below a session's folder; empty: anywhere."""
        ...

    @property
    def prepared_folder(self) -> str:
        """Where its tensors lie below ``deeplearning_prepare_data/image_based``."""
        ...

    @property
    def endings(self) -> tuple[str, ...]:
        """What may follow ``<participant>_<session>`` in a file's name; exactly one of them exists."""
        ...


def _crop(cropped: bool) -> str:
    return "_desc-Crop" if cropped else ""


@dataclass(frozen=True)
class T1Linear:
    """T1-weighted MRI, linearly registered to MNI152NLin2009cSym.

    Parameters
    ----------
    cropped
        169×208×179 voxels without the margins (the default), or all 193×229×193.

    Examples
    --------
    >>> T1Linear().endings[1]
    '_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz'
    """

    cropped: bool = True

    name = "t1-linear"
    folder = "t1_linear"
    prepared_folder = "t1_linear"

    @property
    def endings(self) -> tuple[str, ...]:
        """What may follow ``<participant>_<session>`` in a file's name."""
        rest = f"_space-MNI152NLin2009cSym{_crop(self.cropped)}_res-1x1x1_T1w.nii.gz"
        return (f"_T1w{rest}", rest)


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
        """What may follow ``<participant>_<session>`` in a file's name: both spellings."""
        rests = [f"_space-Ixi549Space_desc-{word}_T1w.nii.gz" for word in ("SkullStripped", "skullstripped")]
        return tuple(f"{start}{rest}" for start in ("_T1w", "") for rest in rests)


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
        """What may follow ``<participant>_<session>`` in a file's name."""
        rest = "_segm-graymatter_space-Ixi549Space_modulated-off_probability.nii.gz"
        return (f"_T1w{rest}", rest)


@dataclass(frozen=True)
class FlairLinear:
    """FLAIR MRI, linearly registered to MNI152NLin2009cSym.

    Parameters
    ----------
    cropped
        169×208×179 voxels without the margins (the default), or all.

    Examples
    --------
    >>> FlairLinear(cropped=False).endings[-1]
    '_space-MNI152NLin2009cSym_res-1x1x1_flair.nii.gz'
    """

    cropped: bool = True

    name = "flair-linear"
    folder = "flair_linear"
    prepared_folder = "flair_linear"

    @property
    def endings(self) -> tuple[str, ...]:
        """What may follow ``<participant>_<session>`` in a file's name."""
        rest = f"_space-MNI152NLin2009cSym{_crop(self.cropped)}_res-1x1x1_flair.nii.gz"
        return (f"_FLAIR{rest}", f"_T1w{rest}", rest)


@dataclass(frozen=True)
class PetLinear:
    """PET, linearly registered to MNI152NLin2009cSym, as uptake relative to a region.

    Parameters
    ----------
    tracer
        ``"18FFDG"``, ``"18FAV45"``, … as in the file's name.
    region
        The region of reference: ``"cerebellumPons2"``, ``"pons"``, ….
    cropped
        169×208×179 voxels without the margins (the default), or all.

    Examples
    --------
    >>> PetLinear("18FFDG", "pons").endings[-1]
    '_trc-18FFDG_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_suvr-pons_pet.nii.gz'
    """

    tracer: str
    region: str
    cropped: bool = True

    name = "pet-linear"
    folder = "pet_linear"
    prepared_folder = "pet_linear"

    def __post_init__(self) -> None:
        for what, value in (("tracer", self.tracer), ("region", self.region)):
            if not isinstance(value, str) or not value.isalnum():
                raise SettingError(
                    f"PetLinear: {what} is {value!r}, expected letters and digits as in the files' names"
                )

    @property
    def endings(self) -> tuple[str, ...]:
        """What may follow ``<participant>_<session>`` in a file's name."""
        crop = _crop(self.cropped)
        rest = f"_space-MNI152NLin2009cSym{crop}_res-1x1x1_suvr-{self.region}_pet.nii.gz"
        trace = f"_trc-{self.tracer}"
        return (f"{trace}_pet{rest}", f"_T1w{trace}{rest}", f"{trace}{rest}")


@dataclass(frozen=True)
class Custom:
    """Any file below the session's folder, found by the end of its name.

    Parameters
    ----------
    suffix
        How the name ends, ``.nii.gz`` or ``.nii`` included:
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
        if not isinstance(self.suffix, str) or not self.suffix.endswith((".nii.gz", ".nii")):
            raise SettingError(
                f"Custom: suffix is {self.suffix!r}, expected text that ends in .nii.gz or .nii"
            )
        if any(sign in self.suffix for sign in "*?/\\"):
            raise SettingError(
                f"Custom: suffix is {self.suffix!r}, expected the plain end of a file's name, no * ? or /"
            )

    @property
    def endings(self) -> tuple[str, ...]:
        """How the file's name ends."""
        return (self.suffix,)


NAMES: Mapping[str, type[T1Linear | T1Extensive | T1Volume | FlairLinear]] = MappingProxyType(
    {kind.name: kind for kind in (T1Linear, T1Extensive, T1Volume, FlairLinear)}
)


def named(preprocessing: str | Preprocessing) -> Preprocessing:
    """The preprocessing that a name stands for, with its defaults.

    Parameters
    ----------
    preprocessing
        A name such as ``"t1-linear"``, or a preprocessing, which comes back as it is.

    Raises
    ------
    SettingError
        No preprocessing has this name, or it needs arguments.

    Examples
    --------
    >>> named("t1-linear")
    T1Linear(cropped=True)
    """
    if not isinstance(preprocessing, str):
        if isinstance(preprocessing, type) or not isinstance(preprocessing, Preprocessing):
            raise SettingError(
                f"preprocessing is {preprocessing!r}, expected a name or an object such as T1Linear()"
            )
        return preprocessing
    if preprocessing == "pet-linear":
        raise SettingError(
            'preprocessing "pet-linear" needs arguments: PetLinear(tracer="18FFDG", region="pons")'
        )
    if preprocessing == "custom":
        raise SettingError('preprocessing "custom" needs an argument: Custom(suffix="_probability.nii.gz")')
    if preprocessing not in NAMES:
        raise SettingError(f"there is no preprocessing {preprocessing!r}; {suggestion(preprocessing, NAMES)}")
    return NAMES[preprocessing]()
