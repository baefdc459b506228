"""Spaces on ZeroGPU: hardware that lends a GPU for single calls of the functions that ask for one.

The page does not ask: on the CPU it has answered before a GPU would be lent, at no cost to its visitors' daily share.
But ZeroGPU takes a Space for broken that declares no such function, or does not report that it has started.
"""

import os

from resnet_hub.errors import ConfigurationError


def is_here() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def report_start() -> None:
    """Tell ZeroGPU that the page is there. Raises ``ConfigurationError`` where it cannot be told."""
    try:
        import spaces
        from spaces.zero import startup
    except ImportError as error:
        raise ConfigurationError(
            f"this Space has ZeroGPU hardware, but {error}: add spaces to requirements.txt, or choose other hardware"
        ) from error
    spaces.GPU(_never_called)
    startup()


def _never_called() -> None:
    """See above."""
