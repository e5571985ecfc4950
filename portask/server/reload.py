"""What a running broker takes over when its settings were read again; `portask.config.live` says which those are."""

from __future__ import annotations

from portask.config import Settings
from portask.core.broker import Broker
from portask.server.authentication import authenticator
from portask.server.build import options
from portask.server.tls import Tls


def take_over(engine: Broker, encryption: Tls | None, settings: Settings) -> None:
    """Has the broker go on with these. From any thread.

    Raises:
        ConfigError: a file of the certificate cannot be used; nothing has changed.
    """
    if encryption is not None:
        encryption.reload(settings.tls, settings.limits.max_connections)
    engine.options = options(settings)
    engine.admission.authenticator = authenticator(settings.auth)
    engine.wake()  # a limit that is new may be due
