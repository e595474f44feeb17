"""Targets: what the project's authority and its sites hand out, as files and as signed words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cellnet.credentials import CONNECT, Credentials, Identity
from cellnet.errors import ConfigurationError, HandshakeError, JournalError
from cellnet.fqcn import FQCN
from cellnet.kit import Endpoint, Kit, KitFile, sign_manifest
from cellnet.ledger import Ledger
from cellnet.placement import Delegation, Placement
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message
from cellnet.roots import changed, extends, follow
from cellnet.roster import Member, Roster
from cellnet.signing import sign
from provisioning.authority import Authority, key_pem
from provisioning.lock import Lock
from provisioning.plan import draw
from provisioning.registry import Registry
from provisioning.source import Source
from tests.fuzz.mutation import vary_packed
from tests.fuzz.signed import recertified, resigned
from tests.fuzz.target import Target
from tests.protocol.conftest import DAY, WALL, Project
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.fuzz.target import Lab

__all__ = [
    "authorities",
    "certificates",
    "histories",
    "job_credentials",
    "journals",
    "kits",
    "project_files",
    "signed_words",
]


def signed_words(_lab: Lab) -> Target:
    """Change a placement or delegation, and sign it anew."""
    project = Project()
    authority, site = project.authority.key, project.cell("C")
    placement = Placement("mobile", "client", "C", ("server", "R"), "C").issue(authority).signed
    delegation = site.delegate("j", "job", WALL + DAY).delegation
    assert delegation is not None

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return b"P" + resigned(rng, placement, Placement._CONTEXT, authority)
        return b"D" + resigned(rng, delegation.signed, Delegation._CONTEXT, site.key)

    def take(data: bytes) -> None:
        if data[:1] == b"P":
            Placement.verify(data[1:], authority.public_key())
        else:
            Delegation.verify(data[1:], site.key.public_key(), WALL)

    return Target(make, take, (HandshakeError,), is_signed=True)


def _odd_certificates(authority: Authority) -> list[bytes]:
    """Return certificates that the authority signed, but that no cell should have."""
    identity, now = Identity("mobile", "client", "C"), WALL - DAY
    keys = (ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), ec.derive_private_key(7, ec.SECP384R1()))
    odd = [
        authority.issue(identity, key.public_key(), CONNECT, common_name="C", org="x", now=now)  # type: ignore[arg-type]
        for key in keys
    ]
    own = ec.generate_private_key(ec.SECP256R1()).public_key()
    for name in ("[", "a/b", "\u00e9", "x" * 3000):
        identity = Identity("mobile", "client", name)
        odd.append(authority.issue(identity, own, CONNECT, common_name="C", org="x", hosts=["h", "::1"], now=now))
    return [one.public_bytes(serialization.Encoding.DER) for one in (*odd, authority.certificate)]


def certificates(_lab: Lab) -> Target:
    """Change what a certificate says, and let the authority sign it anew; or change any of its bytes."""
    project = Project()
    mine = project.server()
    good = [credentials.chain_der[0] for credentials in (mine, project.cell("C"), project.relay("R"))]
    certificates = [*good * 4, *_odd_certificates(project.authority)]

    def make(rng: random.Random) -> bytes:
        chain = [rng.choice(certificates) for _ in range(rng.choice((1, 1, 1, 2)))]
        change = mutate if rng.random() < 0.2 else lambda rng, one: recertified(rng, one, project.authority.key)
        chain[0] = change(rng, chain[0])
        packed: bytes = msgpack.packb(chain)
        return packed

    def take(data: bytes) -> None:
        mine.verify_chain(msgpack.unpackb(data), CONNECT, WALL)

    return Target(make, take, (HandshakeError,), is_signed=True)


def histories(_lab: Lab) -> Target:
    """Change one document of how roots changed, and sign it anew; or change any byte of all."""
    first, second = (Authority.create("mobile", WALL - DAY, name=name) for name in ("root", "root 2"))
    valid = changed(b"", "mobile", [first.certificate, second.certificate], first.key)
    valid = changed(valid, "mobile", [second.certificate], second.key)
    documents = msgpack.unpackb(valid)

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return vary_packed(rng, valid)
        document = resigned(rng, documents[0], b"cellnet roots 1", first.key)
        packed: bytes = msgpack.packb([document, documents[1]])
        return packed

    def take(data: bytes) -> None:
        follow(data, "mobile", [first.certificate])
        extends(data, valid)

    return Target(make, take, (HandshakeError,), is_signed=True)


def job_credentials(_lab: Lab) -> Target:
    """Change what a job process is given to join its site with; whoever can read it can also use it."""
    site = Project().cell("C")
    valid = site.delegate("j", "job", WALL + DAY).pack()
    other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fields = msgpack.unpackb(valid)
    wrong_key = msgpack.packb([other, *fields[1:]])

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            delegation = resigned(rng, fields[3], Delegation._CONTEXT, site.key)
            packed: bytes = msgpack.packb([*fields[:3], delegation])
            return packed
        return vary_packed(rng, valid if rng.random() < 0.9 else wrong_key)

    def take(data: bytes) -> None:
        sign(Credentials.unpack(data, WALL).key, b"context", b"what it is for")

    return Target(make, take, (HandshakeError,))


class Kits:
    """Kits on disk, one of whose files is changed; mostly, the authority then signs the manifest anew."""

    def __init__(self, folder: Path) -> None:
        project = Project()
        self._authority = project.authority
        self._folder = folder
        self._files = {"server": self._server(project), "relay": self._relay(project)}
        self._written: dict[str, dict[str, bytes]] = {}
        self._names = {kit: sorted({**files, "manifest.json": b""}) for kit, files in self._files.items()}
        for kit, files in self._files.items():
            for name in ("startup", "local", "transfer"):
                (folder / kit / name).mkdir(parents=True)
            self._write(kit, sign_manifest(files, self._authority.key))

    def make(self, rng: random.Random) -> bytes:
        """Return a change: the kit, one of its files, and what is in it now."""
        kit = rng.choice(list(self._files))
        name = rng.choice((*self._names[kit], "kit.json", "manifest.json", "roster.bin"))
        whole = sign_manifest(self._files[kit], self._authority.key)
        content = mutate(rng, whole.get(name, b"[]"))
        packed: bytes = msgpack.packb([kit, name, content, rng.random() < 0.1])
        return packed

    def take(self, data: bytes) -> None:
        """Load the changed kit."""
        kit, name, content, is_unsigned = msgpack.unpackb(data)
        whole = sign_manifest({**self._files[kit], name: content}, self._authority.key)
        if name == "manifest.json":
            whole = sign_manifest(self._files[kit], self._authority.key)
            whole |= {name: content, "manifest.sig": sign(self._authority.key, b"cellnet kit 1", content)}
        if is_unsigned:
            whole = {**sign_manifest(self._files[kit], self._authority.key), name: content}
        self._write(kit, whole)
        Kit.load(self._folder / kit)

    def _write(self, kit: str, files: dict[str, bytes]) -> None:
        startup, written = self._folder / kit / "startup", self._written.setdefault(kit, {})
        for name in written.keys() - files.keys():
            (startup / name).unlink()
            del written[name]
        for name, content in files.items():
            if written.get(name) != content:
                (startup / name).write_bytes(content)
                (startup / name).chmod(0o600)
                written[name] = content

    def _server(self, project: Project) -> dict[str, bytes]:
        credentials = project.server()
        listen = Endpoint(url="tcp://0.0.0.0:8002", security="mtls")
        config = KitFile(project="mobile", name="fl.example.com", role="server", listen=listen)
        member = Member(name="C1", role="client", fqcn="R1.C1", fqsn="C1", parent="R1")
        roster = Roster(project="mobile", version=1, members=(member,))
        return {
            **self._pair("server", credentials, config),
            "roster.bin": roster.issue(self._authority.certificate, self._authority.key),
        }

    def _relay(self, project: Project) -> dict[str, bytes]:
        credentials = project.relay("R1")
        assert credentials.listening is not None
        assert credentials.placement is not None
        listen = Endpoint(url="tcp://0.0.0.0:8002", security="mtls")
        connect = Endpoint(url="tcp://localhost:8004", security="mtls", parent="server")
        config = KitFile(project="mobile", name="R1", role="relay", listen=listen, connect=connect)
        return {
            **self._pair("client", credentials, config),
            **self._pair("server", credentials.listening, config),
            "placement.bin": credentials.placement.signed,
        }

    def _pair(self, stem: str, credentials: Credentials, config: KitFile) -> dict[str, bytes]:
        return {
            "kit.json": config.model_dump_json(indent=1).encode(),
            "rootCA.pem": self._authority.certificate_pem,
            "issuer.crt": self._authority.certificate_pem,
            f"{stem}.key": key_pem(credentials.key),
            f"{stem}.crt": credentials.chain[0].public_bytes(serialization.Encoding.PEM),
        }


def kits(lab: Lab) -> Target:
    files = Kits(lab.folder / "kits")
    return Target(files.make, files.take, (ConfigurationError,), is_signed=True)


def authorities(lab: Lab) -> Target:
    """Mutate the files of the authority itself, as they lie where kits are made."""
    folder, lock = lab.folder / "authority", Lock("key file", b"k" * 64)
    Registry.create("mobile", lock, WALL).save(folder)
    valid = {path.name: path.read_bytes() for path in folder.iterdir()}

    def make(rng: random.Random) -> bytes:
        name = rng.choice(sorted(valid))
        packed: bytes = msgpack.packb([name, mutate(rng, valid[name])])
        return packed

    def take(data: bytes) -> None:
        name, content = msgpack.unpackb(data)
        for other, was in valid.items():
            (folder / other).write_bytes(content if other == name else was)
        Registry.load(folder, lock, WALL)

    return Target(make, take, (ConfigurationError,))


PROJECT_FILE = b"""\
api_version: 3
name: jobs
scheme: tcp
connection_security: mtls
participants:
  - {name: server, type: server, org: x, fed_learn_port: 8002, default_host: localhost}
  - name: R1
    type: relay
    org: &org x
    listening_host: {default_host: localhost, port: 8004}
  - {name: C1, type: client, org: *org, connect_to: {name: R1}}
  - {name: C11, type: client, org: "x", parent: C1, connect_to: {name: R1}}
"""


def project_files(_lab: Lab) -> Target:
    return Target(
        lambda rng: mutate(rng, PROJECT_FILE),
        lambda data: draw(Source.parse(data, "project.yml")),
        (ConfigurationError,),
    )


def journals(lab: Lab) -> Target:
    """Mutate the file in which a cell keeps what it answered."""
    path = lab.folder / "journal.db"
    message = Message(1, FQCN("C1"), 5, 7, False, "", "work", 2, b"\x90", 1e9)
    ledger = Ledger(path)
    ledger.open(["work"])
    for sequence in range(1, 20):
        ledger.begin(FQCN("server"), message._replace(sequence=sequence))
        ledger.finish(FQCN("server"), message._replace(sequence=sequence), (Status.OK, 2, b"\x90"), 60.0)
    ledger.close()
    valid = path.read_bytes()

    def make(rng: random.Random) -> bytes:
        page = rng.randrange(0, len(valid), 4096)
        return valid[:page] + mutate(rng, valid[page : page + 4096]) + valid[page + 4096 :]

    def take(data: bytes) -> None:
        for old in path.parent.glob("journal.db*"):
            old.unlink()
        path.write_bytes(data)
        path.chmod(0o600)
        one = Ledger(path)
        one.open(["work"])
        try:
            if one.begin(FQCN("server"), message) is None:
                one.finish(FQCN("server"), message, (Status.OK, 2, b""), 60.0)
        finally:
            one.close()

    return Target(make, take, (ConfigurationError, JournalError))
