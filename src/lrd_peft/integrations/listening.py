"""Says why a server cannot listen on an address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lrd_peft.runtime.errors import UserError, explain_os_error


@contextlib.contextmanager
def listen_errors(host: str, port: int) -> Iterator[None]:
    """Turn an address that is taken, not this machine's or no address at all into a UserError of one line."""
    try:
        yield
    except (OSError, OverflowError) as error:
        reason = explain_os_error(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot listen on {host} port {port} ({reason}); choose another --port or --host") from error
