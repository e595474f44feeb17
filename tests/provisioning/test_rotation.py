"""The root is changed in three steps; at every moment each kit loads, and each node believes each other."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import anyio
import pytest

from cellnet.clock import wall_time
from cellnet.credentials import CONNECT, LISTEN, Credentials
from cellnet.denial import Denial
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.kit import Kit
from cellnet.renewal import _keep, renewal_request, renewed_credentials
from cellnet.roots import changed
from cellnet.roster import Roster
from provisioning import Lock, provision
from provisioning.authority import ISSUER_LIFE, ROOT_LIFE, Authority, name_of
from provisioning.files import replace_file
from provisioning.issuer import Issuer
from provisioning.registry import Registry
from provisioning.revocation import revoke
from provisioning.rotation import Step, rotate

LOCK = Lock("key file", b"k" * 64)
LIFE = datetime.timedelta(days=100)  # longer than a kit's, so what is renewed is newer
NAMES = ("server", "R1", "R2", "C1", "C11", "C12", "C2", "C21", "C22", "admin@nvidia.com")


def renew(kits: Path, *names: str) -> None:
    """Let nodes get new certificates, and keep them."""
    issuer = Issuer(kits / "authority", LOCK, LIFE)
    issuer._life = datetime.timedelta(days=next(DAYS))
    for name in names:
        kit = Kit.load(kits / name)
        _keep(kit, anyio.run(issuer.renew, renewal_request(kit.credentials)))
        assert renewed_credentials(kit.path, kit.credentials) is not None


DAYS = iter(range(100, 10_000))
"""Each renewal ends later than the one before, as it does when time goes on."""


def loaded(kits: Path, name: str) -> Credentials:
    return Kit.load(kits / name).credentials


def roots(kits: Path, name: str) -> list[str]:
    return [name_of(root) for root in loaded(kits, name).roots]


def check_all(kits: Path) -> None:
    """See that everybody believes everybody."""
    everybody = [loaded(kits, name) for name in NAMES]
    for one in everybody:
        for other in everybody:
            usage = LISTEN if other.identity.role == "server" else CONNECT
            assert one.verify_chain(other.chain_der, usage, wall_time()).identity == other.identity


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are renewed as often as the test likes."""
    monkeypatch.setattr("provisioning.issuer._SHARE", 10**15)


@pytest.mark.usefixtures("unhurried")
def test_the_root_is_changed_in_three_steps_and_nobody_is_cut_off(kits: Path, example: Path) -> None:
    revoke(["C22"], kits, LOCK)
    provision(example, kits, LOCK)
    renew(kits, *NAMES)
    check_all(kits)

    assert rotate(kits, LOCK).step is Step.MOVE
    check_all(kits)
    renew(kits, *NAMES[:-1])
    check_all(kits)
    with pytest.raises(ConfigurationError, match=r"too early to issue below the new root: admin@nvidia\.com would be"):
        rotate(kits, LOCK)
    renew(kits, NAMES[-1])
    assert [roots(kits, name) for name in NAMES] == [["root", "root 2"]] * len(NAMES)

    assert rotate(kits, LOCK).step is Step.DROP
    check_all(kits)
    for count, name in enumerate(NAMES):
        with pytest.raises(ConfigurationError, match="too early to trust the new root alone: "):
            rotate(kits, LOCK)
        renew(kits, name)
        if count == 4:
            check_all(kits)

    assert rotate(kits, LOCK).step is Step.ADD
    check_all(kits)
    renew(kits, *NAMES)
    check_all(kits)
    assert [roots(kits, name) for name in NAMES] == [["root 2"]] * len(NAMES)
    assert loaded(kits, "server").denied.version == 2


@pytest.mark.usefixtures("unhurried")
def test_who_is_below_the_old_root_is_refused_in_the_end(kits: Path) -> None:
    old = loaded(kits, "C1")
    for _ in range(3):
        rotate(kits, LOCK)
        renew(kits, *NAMES)
    with pytest.raises(HandshakeError, match="not issued by this project's authority"):
        loaded(kits, "server").verify_chain(old.chain_der, CONNECT, wall_time())
    with pytest.raises(HandshakeError):
        anyio.run(Issuer(kits / "authority", LOCK, LIFE).renew, renewal_request(old))


@pytest.mark.usefixtures("unhurried")
def test_new_kits_are_right_at_every_step(kits: Path, example: Path) -> None:
    for wanted in (["root", "root 2"], ["root", "root 2"], ["root 2"], ["root 2", "root 3"]):
        rotate(kits, LOCK)
        revoke(["C1", "server"], kits, LOCK)
        provision(example, kits, LOCK)
        assert roots(kits, "C1") == wanted
        renew(kits, *NAMES)
        assert roots(kits, "C1") == wanted
        check_all(kits)


@pytest.mark.usefixtures("unhurried")
def test_a_second_change_is_followed_by_a_kit_of_the_first_day(kits: Path) -> None:
    for _ in range(6):
        rotate(kits, LOCK)
        renew(kits, *NAMES)
    assert roots(kits, "C11") == ["root 3"]
    check_all(kits)


@pytest.mark.usefixtures("unhurried")
def test_roster_and_list_of_revoked_are_signed_below_the_new_root_before_it_is_alone(kits: Path) -> None:
    startup, authority = kits / "server" / "startup", kits / "authority"
    before = Roster.verify((startup / "roster.bin").read_bytes(), Registry.roots_in(authority))
    rotate(kits, LOCK)
    renew(kits, *NAMES)
    rotate(kits, LOCK)
    newest = Registry.roots_in(authority)[-1:]
    for folder in (startup, authority):
        roster = Roster.verify((folder / "roster.bin").read_bytes(), newest)
        assert (roster.members, roster.version) == (before.members, before.version + 1)
        assert Denial.verify((folder / "denied.bin").read_bytes(), newest).version == 1
    unchanged = (startup / "denied.bin").read_bytes()
    renew(kits, *NAMES)
    rotate(kits, LOCK)
    assert (startup / "denied.bin").read_bytes() == unchanged


@pytest.mark.usefixtures("unhurried")
def test_lists_that_a_broken_step_left_behind_are_signed_by_the_next(
    kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(kits, LOCK)
    renew(kits, *NAMES)
    with monkeypatch.context() as broken:
        broken.setattr("provisioning.rotation.publish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(ConfigurationError, match="No space"):
            rotate(kits, LOCK)
    renew(kits, *NAMES)
    rotate(kits, LOCK)
    newest = Registry.roots_in(kits / "authority")
    assert Denial.verify((kits / "server" / "startup" / "denied.bin").read_bytes(), newest).version == 1
    Kit.load(kits / "server")


def saved(kits: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((kits / "authority").iterdir())}


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("writes", range(4))
def test_a_step_that_breaks_off_anywhere_can_be_done_again(
    writes: int, kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, mode: int) -> None:
        if not left:
            raise OSError(28, "No space left on device", str(path))
        left.pop()
        replace_file(path, content, mode)

    for _ in range(3):
        left = [None] * writes
        with monkeypatch.context() as broken:
            broken.setattr("provisioning.registry.replace_file", full)
            with pytest.raises(ConfigurationError, match="No space left on device"):
                rotate(kits, LOCK)
        check_all(kits)
        renew(kits, *NAMES)
        check_all(kits)
        rotate(kits, LOCK)
        renew(kits, *NAMES)
        check_all(kits)
    assert "root 2" in roots(kits, "C1") or "root 3" in roots(kits, "C1")
    assert roots(kits, "C1")[-1:] == roots(kits, "server")[-1:]


def test_nothing_changes_when_a_step_is_refused(kits: Path) -> None:
    rotate(kits, LOCK)
    before = saved(kits)
    with pytest.raises(ConfigurationError, match=r"server, R1, R2, C1, C11, C12, C2, C21, C22, .* would be cut off"):
        rotate(kits, LOCK)
    assert saved(kits) == before


def test_the_roots_key_is_needed_and_only_the_right_one_will_do(kits: Path) -> None:
    key = kits / "authority" / "root.key"
    content = key.read_bytes()
    key.unlink()
    with pytest.raises(ConfigurationError, match=r"root\.key: cannot be read"):
        rotate(kits, LOCK)
    key.touch(mode=0o600)
    key.write_bytes(LOCK.encrypt(Authority.create("mobile").key, b"s" * 16))
    with pytest.raises(ConfigurationError, match=r"root\.key: is not that of the root in rootCA\.pem"):
        rotate(kits, LOCK)
    key.write_bytes(content)
    assert rotate(kits, LOCK).step is Step.MOVE


def test_who_has_expired_holds_nothing_up(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate(kits, LOCK)
    real, later = Registry.load, wall_time() + datetime.timedelta(days=91)
    monkeypatch.setattr(Registry, "load", lambda folder, lock: real(folder, lock, later))
    assert rotate(kits, LOCK).step is Step.DROP


def test_an_issuer_that_forgot_how_the_roots_changed_is_told_so(kits: Path, unhurried: None) -> None:
    before = saved(kits)
    rotate(kits, LOCK)
    renew(kits, "C1")
    for name in ("roots.bin", "next.key"):
        (kits / "authority" / name).unlink()
    for name, content in before.items():
        (kits / "authority" / name).write_bytes(content)
    for step in ("forgotten", "another"):
        if step == "another":
            rotate(kits, LOCK)
        with pytest.raises(ConfigurationError, match="its registry is an old copy"):
            renew(kits, "C1")
        assert roots(kits, "C1") == ["root", "root 2"]


def test_a_disk_that_gives_nothing_is_a_reason_and_not_the_end(
    kits: Path, unhurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(kits, LOCK)
    renew(kits, "C1")
    real = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.name == "roots.bin" and path.parent.name == "renewed":
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    kit = Kit.load(kits / "C1")
    answer = anyio.run(Issuer(kits / "authority", LOCK, LIFE).renew, renewal_request(kit.credentials))
    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(ConfigurationError, match=r"roots\.bin: cannot be read, or written: Input/output error"):
        _keep(kit, answer)


STRANGER = Authority.create("mobile")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("roots.bin", b"x"),
        ("roots.bin", changed(b"", "mobile", [STRANGER.certificate], STRANGER.key)),
        ("roots.pem", b"x"),
        ("roots.pem", STRANGER.certificate_pem),
    ],
)
def test_roots_at_a_node_that_somebody_changed_are_not_used(
    name: str, content: bytes, kits: Path, unhurried: None, caplog: pytest.LogCaptureFixture
) -> None:
    rotate(kits, LOCK)
    renew(kits, "C1")
    (kits / "C1" / "local" / "renewed" / name).write_bytes(content)
    assert roots(kits, "C1") == ["root"]
    assert "what was renewed cannot be used" in caplog.text


@pytest.mark.usefixtures("unhurried")
def test_a_server_whose_roster_nobody_brought_still_starts(kits: Path) -> None:
    startup, local = kits / "server" / "startup", kits / "server" / "local"
    old = {name: (startup / name).read_bytes() for name in ("roster.bin", "denied.bin")}
    for _ in range(3):
        rotate(kits, LOCK)
        renew(kits, *NAMES)
    for name, content in old.items():
        (startup / name).write_bytes(content)
    (local / "denied.bin").write_bytes(old["denied.bin"])
    assert len(Kit.load(kits / "server").roster) == 9


@pytest.mark.usefixtures("unhurried")
def test_a_new_roots_key_takes_the_place_of_the_old_one_when_it_issues(kits: Path) -> None:
    authority = kits / "authority"
    old = (authority / "root.key").read_bytes()
    rotate(kits, LOCK)
    assert (authority / "next.key").exists()
    assert (authority / "root.key").read_bytes() == old
    renew(kits, *NAMES)
    rotate(kits, LOCK)
    assert not (authority / "next.key").exists()
    assert (authority / "root.key").read_bytes() != old


def test_an_issuer_near_its_end_is_followed_by_one_below_the_root_that_issues(kits: Path) -> None:
    rotate(kits, LOCK)
    later = Registry.load(kits / "authority", LOCK, wall_time() + ISSUER_LIFE * 0.8)
    assert later.issuer.certificate != Registry.issuer_in(kits / "authority")
    assert name_of(later.issuer.anchor) == "root"


def test_a_root_near_its_end_is_a_reason_to_change_it(kits: Path, caplog: pytest.LogCaptureFixture) -> None:
    Registry.load(kits / "authority", LOCK, wall_time() + ROOT_LIFE - ISSUER_LIFE / 2)
    assert "change it" not in caplog.text
    Registry.load(kits / "authority", LOCK, wall_time() + ROOT_LIFE - ISSUER_LIFE / 4)
    assert re.search(r"the root expires on 20\d\d-\d\d-\d\d: change it, with cellnet ca rotate", caplog.text)
