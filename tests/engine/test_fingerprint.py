"""Settings that may change when training is resumed, and errors for changes of other settings."""

import dataclasses

import pytest

from neurocnn.engine.fingerprint import check_settings, differences, earlier_values, resume_rules
from neurocnn.engine.settings import TrainingSettings
from neurocnn.errors import SettingError


def test_only_settings_without_effect_on_results_may_change_on_a_resume():
    rules = resume_rules(TrainingSettings)
    free = {name for name, rule in rules.items() if rule == "free"}
    assert free == {"n_workers", "device", "resident", "checkpoint_seconds", "rank_seconds"}
    assert {name for name, rule in rules.items() if rule == "grow"} == {"epochs"}


def test_each_setting_without_a_rule_must_stay_the_same_on_a_resume(tmp_path):
    rules = resume_rules(TrainingSettings)
    now = dataclasses.asdict(TrainingSettings())
    for name in set(now) - set(rules):
        with pytest.raises(SettingError, match=rf"{name}: "):
            check_settings(now, now | {name: "other"}, rules, tmp_path)


def test_settings_that_an_older_state_lacks_have_their_earlier_value():
    @dataclasses.dataclass
    class Newer:
        old: int = 1
        output: str = dataclasses.field(default="linear", metadata={"before": "mirror"})

    saved = earlier_values(Newer) | {"old": 2}
    assert saved == {"old": 2, "output": "mirror"}
    assert differences(saved, {"old": 2, "output": "linear"}) == {"output": ("mirror", "linear")}


def test_another_order_of_the_regions_is_a_difference():
    regions = {"left": [[1, 9]], "right": [[9, 17]]}
    settings = [
        {"parts": {"type": "Roi", "regions": each}} for each in (regions, dict(reversed(regions.items())))
    ]
    assert differences(settings[0], settings[1]) == {"parts.regions": (["left", "right"], ["right", "left"])}
    assert differences(settings[0], settings[0]) == {}
