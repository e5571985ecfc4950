"""A broker as others would reach it: ``portask serve`` with tokens, maybe TLS, limits of its own, and a log file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from portask.config import Settings, load, tokens
from portask.errors import PortaskError
from portask_lab.loadgen.processes import Child, free_port

FRIEND = "friend"
FOE = "foe"
HELLO_SECONDS = 2.0
"""Within which a newcomer must have said HELLO: short, so that a drill sees the end of it."""
_WATERMARK = 64 << 20
_KEPT = 16 << 20


class Line(msgspec.Struct):
    """One line of the broker's log, as far as it is looked at."""

    event: str = ""
    level: str = ""
    peer: str = ""
    address: str = ""
    reason: str = ""
    count: int = 0
    worker: int = -1


class Guarded(Child):
    """A context manager around the broker.

    Attributes:
        settings: What it runs with.
        tokens: Of `FRIEND` and `FOE`, by name. Both may do everything: what stops the foe is the limits.
        ca: Path of who signed its certificate; empty without TLS.

    Raises:
        ConnectFailed: it does not start.
    """

    def __init__(self, folder: Path, server: str, workers: int = 1, *, encrypted: bool = False) -> None:
        self.tokens = {name: tokens.mint(name) for name in (FRIEND, FOE)}
        self.ca = ""
        parts = [
            f'[server]\nvariant = {json.dumps(server)}\nhost = "127.0.0.1"\nworkers = {workers}\n',
            '[server.options]\ngrace = 1.0\n[storage]\nvariant = "memory"\n[logging]\nformat = "json"\n',
            f"[memory]\nmax_bytes = {_WATERMARK}\n[topics.retention]\nbytes = {_KEPT}\n",
            f"[limits]\nhello_timeout_s = {HELLO_SECONDS}\nmax_channels = 2000\nmax_frame_bytes = {1 << 20}\n",
        ]
        for name, token in self.tokens.items():
            parts += [
                f'[auth.identities.{name}]\ntoken_hash = ["{tokens.hash_line(token)}"]\n',
                'allow = [{action = "*", filter = ">"}]\n',
            ]
        if encrypted:
            parts.append(self._certify(folder))
        config = folder / "portask.toml"
        config.write_text("".join(parts))
        self.settings: Settings = load(config)
        self._log = folder / "broker.log"
        port = free_port()
        command = (sys.executable, "-m", "portask.cli", "serve", "--config", str(config), "--port", str(port))
        # asked by its log: who connects to look would be an offender
        super().__init__(command, port, self._is_ready, self._log)

    def _is_ready(self, _port: int) -> bool:
        return any(line.event == "ready" and line.worker < 0 for line in self.lines())

    def _certify(self, folder: Path) -> str:
        import trustme  # noqa: PLC0415 - only for a broker with TLS

        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        pair = folder / "broker.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(pair))
        pair.chmod(0o600)
        return f"[tls]\ncertificate = {json.dumps(str(pair))}\n"

    @property
    def url(self) -> str:
        """For clients."""
        return f"portask{'s' if self.ca else ''}://127.0.0.1:{self.port}"

    def lines(self) -> list[Line]:
        """What it has logged so far.

        Raises:
            PortaskError: a line is no JSON.
        """
        text = self._log.read_bytes()
        try:
            return [
                msgspec.json.decode(line, type=Line) for line in text[: text.rfind(b"\n") + 1].splitlines()
            ]
        except msgspec.MsgspecError as error:
            raise PortaskError(f"the broker's log has a line that is no JSON: {error}") from None
