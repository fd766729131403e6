"""Handling of Ctrl-C and SIGTERM during training: a signal is recorded, and takes effect between two updates."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Record of a received signal that requests the end of this process.

    Examples
    --------
    >>> with Interruption().catch_signals() as interruption:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     interruption.signal
    15
    """

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def catch_signals(self) -> Iterator["Interruption"]:
        """Record the first SIGINT or SIGTERM during the block. A second signal has its usual effect.

        In threads other than the main thread nothing is recorded, because handlers cannot be set there.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[int, Any] = {}

        def record(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(number, before[number])

        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, record)
        try:
            yield self
        finally:
            for known, previous in before.items():
                signal.signal(known, previous)

    def exit(self) -> None:
        """Raise KeyboardInterrupt for SIGINT, and SystemExit with the exit status of the signal for other signals."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)
