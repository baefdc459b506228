"""How the scripts end: 0, what they return, 2 after one line for what the user can mend, 130 after Ctrl-C.

Training also returns 3 where all is trained and saved but not pushed, and 128 and the signal's number where a signal
stopped it.
"""

import sys
from collections.abc import Callable

from resnet_hub.errors import ResNetHubError


def run_command(main: Callable[[], int | None]) -> None:
    """Run ``main`` and end the process."""
    try:
        sys.exit(main())
    except ResNetHubError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing of it was saved", file=sys.stderr)
        sys.exit(130)
