"""What can be wrong with a configuration."""

from __future__ import annotations

__all__ = ["ConfigurationError"]


class ConfigurationError(Exception):
    """The service can't start as configured. The message is one line that names the setting and says what to do.

    Attributes:
        exit_status: What a command exits with: 2, as for wrong arguments.
    """

    exit_status = 2
