import pytest
from torch.utils.data import ConcatDataset, Dataset, Subset
from toys import Toys, network

from neurocnn.engine import Trainer, classification
from neurocnn.errors import LeakError, SettingError

TASK = classification("diagnosis", ["CN", "AD"])
TRAINER = Trainer(epochs=1, device="cpu")


class Items(Dataset):
    """Dataset that has samples and no optional members."""

    def __init__(self, dataset):
        self.inside = dataset

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        return self.inside[index]


class Open(Items):
    """Wrapper that forwards all attributes of its dataset."""

    @property
    def dataset(self):
        return self.inside

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "inside"), name)


WRAPPERS = [
    lambda data: Subset(data, [0, 1]),
    lambda data: ConcatDataset([data, data]),
    lambda data: Subset(Subset(data, [0, 1, 2]), [0, 1]),
    lambda data: ConcatDataset([Items(data), Subset(data, [1])]),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_wrapper_that_hides_members_that_training_uses_is_refused(wrap, which, tmp_path):
    sets = {"train": Toys(4), "validation": Toys(4, prefix="val")}
    sets[which] = wrap(sets[which])
    hidden = rf"the {which} set is a (Subset|ConcatDataset), which hides sessions, part_ids, without_aug.* of its Toys"
    with pytest.raises(SettingError, match=hidden + ".*create one Toys from them"):
        TRAINER.fit(network(), TASK, **sets, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapper_of_a_dataset_with_samples_only_is_accepted(wrap):
    assert len(TRAINER.fit(network(), TASK, wrap(Items(Toys(4)))).history) == 1


def test_a_wrapper_that_forwards_all_members_is_accepted():
    assert len(TRAINER.fit(network(), TASK, Open(Toys(4)), Open(Toys(4, prefix="val"))).history) == 1
    with pytest.raises(LeakError):
        TRAINER.fit(network(), TASK, Open(Toys(4)), Open(Toys(4)))
