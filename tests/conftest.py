"""What every test stands on."""

from hypothesis import settings

# How long an example takes says something about the machine, not about the promise that is tested.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")
