"""How scripts end: by an error of the user's, Ctrl-C or SIGTERM, in one line and without leftovers."""

import signal
import sys
from collections.abc import Callable

from avatarsync.errors import AvatarSyncError


def run_script(main: Callable[[list[str] | None], None]) -> None:
    """Call `main`; bad input becomes one line and exit status 2, Ctrl-C 130, SIGTERM 143."""
    # By an exception, so that what is half written, or is somebody's face, is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main(None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except AvatarSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
