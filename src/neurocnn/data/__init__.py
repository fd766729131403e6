"""Images and labels: reading and preparing images, cutting them into parts, splitting participants."""

from neurocnn.data.balance import balance
from neurocnn.data.bids import read_bids
from neurocnn.data.caps import Caps
from neurocnn.data.dataset import CapsDataset
from neurocnn.data.image_set import ImageSet, check_image_set
from neurocnn.data.image_table import Images
from neurocnn.data.matching import balanced
from neurocnn.data.painting import paint, part_affine
from neurocnn.data.parts import Parts, Patch, Slice, WholeImage
from neurocnn.data.population import population
from neurocnn.data.preprocessing import Custom, FlairLinear, PetLinear, T1Extensive, T1Linear, T1Volume
from neurocnn.data.progression import progression
from neurocnn.data.roi import Roi
from neurocnn.data.split_trees import read_splits, write_splits
from neurocnn.data.splits import Split, holdout, kfold, leave_one_group_out
from neurocnn.data.synthetic import make_caps
from neurocnn.data.transforms import MinMax, Transform, ZScore
from neurocnn.data.visits import baseline

__all__ = [
    "Caps",
    "CapsDataset",
    "Custom",
    "FlairLinear",
    "ImageSet",
    "Images",
    "MinMax",
    "Parts",
    "Patch",
    "PetLinear",
    "Roi",
    "Slice",
    "Split",
    "T1Extensive",
    "T1Linear",
    "T1Volume",
    "Transform",
    "WholeImage",
    "ZScore",
    "balance",
    "balanced",
    "baseline",
    "check_image_set",
    "holdout",
    "kfold",
    "leave_one_group_out",
    "make_caps",
    "paint",
    "part_affine",
    "population",
    "progression",
    "read_bids",
    "read_splits",
    "write_splits",
]
