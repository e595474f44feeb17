"""A generator of project files whose two hierarchies are aligned.

The client hierarchy is the tree of relays with one level more: at each relay is a lead client of the same number, whose
parent is the lead of the relay above, and below the lead of each leaf relay are the other clients of that relay. A
result then passes no relay that it need not, and only the top leads report to the server.

The names are those of the guide: below R1 are R11 and R12, C11 leads at R11, and C111 is the first one below it. If
there is a width or a number of clients over 9, ``R11`` could be two relays, so all names have hyphens between their
numbers: R1-1, C1-1, C1-1-10.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import count, islice
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cellnet.errors import ConfigurationError
from cellnet.fqcn import MAX_SEGMENTS
from provisioning.builders import BUILDERS
from provisioning.plan import CONTROL_PORT
from provisioning.rules import FoldedScheme, FoldedSecurity, Host, Port, ProjectName
from provisioning.source import MAX_BYTES
from provisioning.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FIRST_PORT", "MAX_PARTICIPANTS", "Shape", "project_text"]

FIRST_PORT = 8003
"""The port of the first relay, unless another one is given."""
MAX_PARTICIPANTS = 100_000
"""How many a tree may have, with its server and its admin."""

_SERVER_PORT = 8002
_LAST_PORT = 65535
_OTHERS = 2  # the server and the admin
_RANGES = {
    "depth": (0, min(8, MAX_SEGMENTS - 2)),  # below the last relay are a client and its job cell
    "width": (1, 99),
    "clients": (0, 10_000),
}

_Path = tuple[int, ...]
"""Numbers from the server down: (1, 2) is the second node below the first one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a tree.

    :raises ConfigurationError: if a number is out of its range, or the tree would have too many participants
    """

    depth: int
    """How many tiers of relays are below the server; with none, all clients are directly at the server."""
    width: int
    """How many relays are below the server, and below each relay that is no leaf."""
    clients: int
    """How many clients are below the lead client of each leaf relay, or below the server if there are no relays."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), _RANGES[field.name]
            if not low <= value <= high:
                raise ConfigurationError(f"{field.name} is {value}: {low} to {high:,} are allowed")
        if self.participant_count > MAX_PARTICIPANTS:
            hint = "take a smaller depth or width, or fewer clients"
            message = f"{self.participant_count:,} participants are too many: {MAX_PARTICIPANTS:,} are allowed"
            raise ConfigurationError(f"{message} ({hint})")

    @property
    def relay_count(self) -> int:
        """How many relays there are."""
        return sum(self._tier(number) for number in range(1, self.depth + 1))

    @property
    def client_count(self) -> int:
        """How many clients there are, leads among them: one for each relay."""
        return self.relay_count + self._tier(self.depth) * self.clients

    @property
    def participant_count(self) -> int:
        """How many participants there are: relays, clients, the server and an admin."""
        return self.relay_count + self.client_count + _OTHERS

    def _tier(self, number: int) -> int:
        """Return how many relays are in a tier; the server is the only node of tier 0."""
        return int(self.width**number)


def project_text(
    shape: Shape,
    *,
    name: str = "tree",
    scheme: str = "grpc",
    security: str = "mtls",
    host: str = "localhost",
    first_port: int = FIRST_PORT,
) -> str:
    """Return the text of a project.yml with a tree of that shape.

    All listeners are at *host*, the relays at ports from *first_port* up, without those of the server. Planning it
    warns of nothing but of crowds, and of listeners without TLS if *security* is clear and *host* another machine.

    :raises ConfigurationError: if a value is not allowed in a project.yml, there are too few ports, or the text would
        be too large to be read again
    """
    settings = _settings(name=name, scheme=scheme, security=security, host=host, first_port=first_port)
    ports = _ports(settings.first_port, shape.relay_count)
    separator = "-" if max(shape.width, shape.clients) > 9 else ""
    text = "\n".join(
        [
            *_head(shape, settings),
            *_relays(shape, separator, _scalar(settings.host), ports),
            *_clients(shape, separator),
            _TAIL + BUILDERS.format(scheme=settings.scheme),
        ]
    )
    if len(text) > MAX_BYTES:  # it is all ASCII
        message = f"the project file would be larger than {MAX_BYTES // 2**20} MiB, and not be read again"
        raise ConfigurationError(f"{message}: take a shorter host, or a smaller tree")
    return text


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: ProjectName
    scheme: FoldedScheme
    security: FoldedSecurity
    host: Host
    first_port: Port


def _settings(**values: object) -> _Settings:
    """Check values by the rules of a project.yml, so that what is written can be read."""
    try:
        return _Settings.model_validate(values)
    except ValidationError as error:
        problems = []
        for found in error.errors(include_url=False):
            message = found["msg"].removeprefix("Value error, ")
            if found["type"] == "literal_error":
                message = f"{found['input']!r} is not allowed: {found['ctx']['expected']} is"
            problems.append(f"{found['loc'][0]}: {message}")
        raise ConfigurationError("; ".join(problems)) from None


def _ports(first: int, number: int) -> list[int]:
    """Return a port for each relay; those of the server may be on the same machine."""
    ports = list(islice((port for port in count(first) if port not in (_SERVER_PORT, CONTROL_PORT)), number))
    if ports and ports[-1] > _LAST_PORT:
        message = f"{counted(number, 'relay')} from port {first} up would need port {ports[-1]}"
        raise ConfigurationError(f"{message}: {_LAST_PORT} is the last (begin lower, or take a smaller tree)")
    return ports


def _tiers(widths: Iterable[int]) -> list[list[_Path]]:
    """Return the nodes of a tree, tier by tier, without its root."""
    tiers: list[list[_Path]] = [[()]]
    for width in widths:
        tiers.append([(*path, number) for path in tiers[-1] for number in range(1, width + 1)])
    return tiers[1:]


def _head(shape: Shape, settings: _Settings) -> Iterator[str]:
    size = f"{counted(shape.relay_count, 'relay')}, {counted(shape.client_count, 'client')}"
    yield f"# Made by `cellnet tree --depth {shape.depth} --width {shape.width} --clients {shape.clients}`: {size}."
    yield _ALIGNED if shape.depth else _FLAT
    yield "api_version: 3"
    yield f"name: {_scalar(settings.name)}"
    yield f"connection_security: {settings.security}"
    yield _SERVER.format(port=_SERVER_PORT, host=_scalar(settings.host))


def _relays(shape: Shape, separator: str, host: str, ports: Iterable[int]) -> Iterator[str]:
    port = iter(ports)
    for number, tier in enumerate(_tiers([shape.width] * shape.depth), 1):
        yield f"\n  # Relays, tier {number} of {shape.depth}."
        for path in tier:
            yield _RELAY.format(
                name=_name("R", path, separator),
                connect_to=_connect_to(path[:-1], separator),
                host=host,
                port=next(port),
            )


def _clients(shape: Shape, separator: str) -> Iterator[str]:
    tiers = _tiers([*[shape.width] * shape.depth, shape.clients])
    for number, tier in enumerate(tiers, 1):
        if not tier:
            continue
        leads = f"Lead clients at the relays of tier {number}" if number <= shape.depth else ""
        yield f"\n  # {leads or ('The other clients' if shape.depth else 'Clients')}."
        for path in tier:
            yield _CLIENT.format(
                name=_name("C", path, separator),
                parent=f"\n    parent: {_name('C', path[:-1], separator)}" if path[:-1] else "",
                connect_to=_connect_to(path[: shape.depth], separator),
            )


def _name(letter: str, path: _Path, separator: str) -> str:
    return letter + separator.join(map(str, path))


def _connect_to(relay: _Path, separator: str) -> str:
    """Return the key that names the relay above; at the server there is none."""
    return f"\n    connect_to:\n      name: {_name('R', relay, separator)}" if relay else ""


def _scalar(text: str) -> str:
    """Return *text* as YAML, in quotes if it would be something else without: names such as ``on`` and ``1.5``."""
    return str(yaml.safe_dump(text)).partition("\n")[0]


_ALIGNED = """\
#
# At each relay is a lead client of the same number, which combines the results of all clients below that relay:
# they meet as near as they can, and only the top leads report to the server. All listeners are at one host, each at a
# port of its own: when a relay has a machine, write that into its listening_host."""

_FLAT = "# There are no relays: all clients are directly at the server."

_SERVER = """\

participants:
  - name: server
    type: server
    org: example
    fed_learn_port: {port}
    default_host: {host}"""

_RELAY = """\
  - name: {name}
    type: relay
    org: example{connect_to}
    listening_host:
      default_host: {host}
      port: {port}"""

_CLIENT = """\
  - name: {name}
    type: client
    org: example{parent}{connect_to}"""

_TAIL = """\

  # A person who steers the project.
  - name: admin@example.com
    type: admin
    org: example
    role: project_admin
"""
