"""Where the agent answers over HTTP, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rankscope.agent.web import credentials


@dataclass
class Http:
    """The agent's HTTP address: metrics, health, page and API.

    Beyond this machine it listens only with TLS and basic auth (`web_config_file`, in Prometheus' own format), unless
    `insecure` says that this is wanted.
    """

    listen: str = "127.0.0.1:9780"
    web_config_file: str = ""  # TLS and basic auth, as in Prometheus' web configuration file
    insecure: bool = False  # listens beyond this machine for everyone

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port. Raises ValueError for what is neither `host:port` nor `:port`."""
        host, separator, port = self.listen.rpartition(":")
        if not separator or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{self.listen!r} is no host:port")
        return host.strip("[]") or "0.0.0.0", int(port)

    def url(self, hostname: str, bound: int = 0) -> str:
        """Return where the page is for whoever can reach `hostname`; empty where the port is not known yet.

        `bound` is the port that is listened on, where `listen` leaves the choice to the system.
        """
        port = bound or self.address[1]
        secure = self.web_config_file and credentials.load(Path(self.web_config_file)).cert_file
        return f"{'https' if secure else 'http'}://{hostname}:{port}" if port else ""

    def __post_init__(self) -> None:
        host, _ = self.address
        if host not in ("127.0.0.1", "::1", "localhost") and not (self.insecure or self.web_config_file):
            raise ValueError(
                f"{self.listen} is open to other machines: set web_config_file (TLS, basic auth) or insecure: true"
            )
        if self.web_config_file:
            credentials.load(Path(self.web_config_file))
