"""Ctrl-C and SIGTERM as a wish that is granted between two updates."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Whether this process was asked to end.

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
        """Take note of the signals while the block runs; a second one acts as it would without.

        Handlers can be set in the main thread only; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[int, Any] = {}

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(number, before[number])

        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, note)
        try:
            yield self
        finally:
            for known, previous in before.items():
                signal.signal(known, previous)

    def leave(self) -> None:
        """Do what the signal would have done: raise KeyboardInterrupt or SystemExit."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)
