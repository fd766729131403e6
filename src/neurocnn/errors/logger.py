"""The logger for what is not an error: progress, and warnings that end no call."""

import logging

LOGGER = logging.getLogger("neurocnn")
