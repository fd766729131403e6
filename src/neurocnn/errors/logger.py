"""The logger for progress and for warnings that do not stop a call."""

import logging

LOGGER = logging.getLogger("neurocnn")
