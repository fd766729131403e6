"""Times of the activities within an epoch."""

import time


class EpochClock:
    """Clock that measures the seconds of each activity within an epoch.

    Examples
    --------
    >>> clock = EpochClock()
    >>> clock.lap("computing")
    >>> sorted(clock.seconds)
    ['computing', 'evaluating', 'waiting for data', 'writing']
    >>> clock.seconds["computing"] += 2
    >>> str(clock)
    'waiting for data 0.0 s, computing 2.0 s, evaluating 0.0 s, writing 0.0 s'
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("waiting for data", "computing", "evaluating", "writing"), 0.0)
        self._last = time.perf_counter()

    def lap(self, activity: str) -> None:
        """Add the time since the last call to the total of `activity`."""
        now = time.perf_counter()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{activity} {seconds:.1f} s" for activity, seconds in self.seconds.items())
