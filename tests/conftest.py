"""What all tests share: every asynchronous test runs on asyncio and on trio."""

from __future__ import annotations

import datetime
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import CONNECT, LISTEN, Credentials, Identity
from cellnet.placement import Placement
from provisioning import Lock, read_plan, update
from provisioning.authority import LEAF_LIFE, Authority, certificates_pem, key_pem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAY = datetime.timedelta(days=1)


DESELECTED = pytest.StashKey[list[pytest.Item]]()
"""Tests that are not run this time, such as those that take long."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.session.stash.setdefault(DESELECTED, []).append(item)


ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
TRIO_LONG = pytest.param(("trio", {}), id="trio", marks=pytest.mark.long)
"""For modules of many processes, where the backend of the tests' own is a small part: `make long` runs these."""


@pytest.fixture(params=[ASYNCIO, pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def virtual_time() -> object:
    """For a module that overrides anyio_backend: trio, on a clock that jumps to the next thing that happens."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def free_ports(count: int) -> list[int]:
    """Find ports that are free; all are held until the last is known, so that no two are the same."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def provisioned(project: str, *, seconds: float | None = None) -> Iterator[Path]:
    """Provision the text of a project into ``kits`` of a folder that is there for the length of the block.

    :param seconds: how long certificates hold, if it is not as long as usual
    """
    # not pytest's tmp_path: the paths of sockets below it would be too long
    with tempfile.TemporaryDirectory(prefix="cellnet-") as name:
        folder = Path(name)
        (folder / "project.yml").write_text(project)
        life = LEAF_LIFE if seconds is None else datetime.timedelta(seconds=seconds)
        lock = Lock.of_file(folder / "lock", create=True)
        update(read_plan(folder / "project.yml"), folder / "kits", lock, life=life)
        yield folder


class Issue:
    """Issues credentials as provisioning does, for listening and for connecting as the role needs it; or wrong ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authorities: dict[tuple[str, bool], Authority] = {}
        self._numbers = count()

    def authority(self, project: str = "mobile") -> Authority:
        """Return who issues the credentials of *project*."""
        return self._authorities.setdefault((project, False), Authority.create(project))

    def __call__(
        self,
        name: str,
        role: str,
        *,
        hosts: Sequence[str] = ("localhost",),
        project: str = "mobile",
        foreign: bool = False,
        age_days: float = 0,
        placed: str | None = None,
        parents: Sequence[str] = (),
        own_issuer: bool = False,
    ) -> Credentials:
        then = datetime.datetime.now(datetime.UTC) - age_days * DAY
        if (project, foreign) not in self._authorities:
            self._authorities[project, foreign] = Authority.create(project, then - DAY)
        root = self._authorities[project, foreign]
        authority = root.issuing(then) if own_issuer else root
        folder = self._folder / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        (folder / "rootCA.pem").write_bytes(authority.certificate_pem)
        placement = Placement(project, role, placed or name, tuple(parents), "").issue(authority.key).signed

        def pair(stem: str, usage: object, listening: Credentials | None = None) -> Credentials:
            key = ec.generate_private_key(ec.SECP256R1())
            identity = Identity(project, role, name)
            certificate = authority.issue(
                identity, key.public_key(), usage, common_name=name, org="acme", hosts=hosts, now=then
            )
            (folder / f"{stem}.crt").write_bytes(certificates_pem(certificate, *authority.chain))
            (folder / f"{stem}.key").write_bytes(key_pem(key))
            return Credentials.load(
                folder / f"{stem}.crt",
                folder / f"{stem}.key",
                folder / "rootCA.pem",
                placement=b"" if role == "server" else placement,
                listening=listening,
            )

        if role == "server":
            return pair("server", LISTEN)
        return pair("client", CONNECT, pair("server", LISTEN) if role == "relay" else None)


@pytest.fixture
def issue(tmp_path: Path) -> Issue:
    return Issue(tmp_path)
