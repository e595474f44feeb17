"""A startup kit is believed only if it is whole, unaltered, and its keys are private."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellnet.credentials import CONNECT, Identity
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.kit import Endpoint, Kit, KitFile, sign_manifest
from cellnet.placement import Placement
from cellnet.roster import Member, Roster
from cellnet.signing import sign
from provisioning import Authority, Lock, provision
from provisioning.files import replace_file
from provisioning.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = Lock("key file", b"k" * 64)
EXAMPLE = Path(__file__).parents[1] / "project.yml.example"


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("provisioned") / "kits"
    provision(EXAMPLE, out, LOCK)
    return out


@pytest.fixture
def kits(provisioned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(provisioned, tmp_path / "kits")


@pytest.fixture
def resign(kits: Path) -> Callable[..., None]:
    """Return a function that changes files of a kit as only the project's authority can."""

    def change(name: str, **changes: bytes | None) -> None:
        startup = kits / name / "startup"
        files = {path.name: path.read_bytes() for path in startup.iterdir() if not path.name.startswith("manifest")}
        for file, content in changes.items():
            file = file.replace("_", ".")
            if content is None:
                del files[file]
                (startup / file).unlink()
            else:
                files[file] = content
        for file, content in sign_manifest(files, Registry.load(kits / "authority", LOCK).issuer.key).items():
            (startup / file).write_bytes(content)

    return change


def test_a_relays_kit_is_what_the_project_says(kits: Path) -> None:
    kit = Kit.load(kits / "R1")
    assert (kit.project, kit.name, kit.role, kit.roster) == ("mobile", "R1", "relay", ())
    assert kit.listen == Endpoint(url="grpc://localhost:18004", security="mtls")
    assert kit.connect == Endpoint(url="grpc://localhost:8002", security="mtls", parent="server")
    assert (kit.path, kit.local, kit.transfer) == (kits / "R1", kits / "R1" / "local", kits / "R1" / "transfer")
    assert kit.credentials.listening is not None
    assert kit.credentials.listening.identity == kit.credentials.identity
    assert kit.credentials.listening.key.private_numbers() != kit.credentials.key.private_numbers()
    issuer = kit.credentials.chain[1].public_key()
    assert isinstance(issuer, ec.EllipticCurvePublicKey)
    assert Placement.verify(kit.placement, issuer) == Placement("mobile", "relay", "R1", ("server",), "")


def test_only_the_servers_kit_has_the_roster_and_it_has_no_placement(kits: Path) -> None:
    kit = Kit.load(str(kits / "server"))
    assert (kit.name, kit.role, kit.connect, kit.placement) == ("server", "server", None, b"")
    assert kit.credentials.placement is None
    assert len(kit.roster) == 9
    assert kit.roster[3] == Member(name="C11", role="client", fqcn="R1.C11", fqsn="C1.C11", parent="R1")


def test_a_roster_that_a_participant_signed_is_refused(kits: Path) -> None:
    root = Authority.create("mobile")
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = root.issue(Identity("mobile", "client", "C1"), key.public_key(), CONNECT, common_name="C1", org="x")
    roster = Roster(project="mobile", version=9, members=())
    with pytest.raises(HandshakeError, match="no authority of this project's"):
        Roster.verify(roster.issue(leaf, key), [root.certificate])
    assert Roster.verify(roster.issue(root.certificate, root.key), [root.certificate]) == roster
    path = kits / "server" / "startup" / "roster.bin"
    path.write_bytes(roster.issue(root.certificate, root.key))
    with pytest.raises(ConfigurationError, match=r"roster\.bin: the issuer is no authority of this project's"):
        Kit.load(kits / "server")


def test_a_kit_does_not_show_its_secrets(kits: Path) -> None:
    shown = repr(Kit.load(kits / "R1"))
    assert "PRIVATE" not in shown
    assert "ECPrivateKey" not in shown
    assert "b'" not in shown


def test_a_kit_is_frozen(kits: Path) -> None:
    kit = Kit.load(kits / "C1")
    with pytest.raises(AttributeError):
        kit.name = "C2"  # type: ignore[misc]  # that is what is tested
    with pytest.raises(ValidationError):
        kit.connect.url = "tcp://evil:1"  # type: ignore[misc,union-attr]  # as above


PAIRS = ["client.crt", "client.key", "server.crt", "server.key"]
FILES = [*PAIRS, "kit.json", "rootCA.pem", "issuer.crt", "placement.bin", "start.sh"]


@pytest.mark.parametrize("file", [*FILES, "manifest.json", "manifest.sig"])
def test_a_missing_file_is_named(file: str, kits: Path) -> None:
    path = kits / "R1" / "startup" / file
    path.unlink()
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "R1")
    assert str(caught.value).startswith(f"{path}: the file is missing: take the kit from its origin again")


@pytest.mark.parametrize("file", FILES)
def test_an_edited_file_is_named_before_it_is_believed(file: str, kits: Path) -> None:
    path = kits / "R1" / "startup" / file
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "R1")
    assert str(caught.value).startswith(f"{path}: was altered after it was provisioned")


@pytest.mark.parametrize("file", ["manifest.json", "manifest.sig"])
def test_an_edited_manifest_is_refused(file: str, kits: Path) -> None:
    path = kits / "R1" / "startup" / file
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigurationError, match=r"manifest\.json: was altered, or is not from the authority"):
        Kit.load(kits / "R1")


def test_another_kits_file_in_place_of_ones_own_is_refused(kits: Path) -> None:
    for file in ("client.crt", "client.key", "placement.bin", "kit.json"):
        path = kits / "C1" / "startup" / file
        own = path.read_bytes()
        path.write_bytes((kits / "C2" / "startup" / file).read_bytes())
        with pytest.raises(ConfigurationError, match=f"{file}: was altered"):
            Kit.load(kits / "C1")
        path.write_bytes(own)
    assert Kit.load(kits / "C1").name == "C1"


def test_a_manifest_that_another_authority_signed_is_refused(kits: Path) -> None:
    startup = kits / "C1" / "startup"
    files = {path.name: path.read_bytes() for path in startup.iterdir() if not path.name.startswith("manifest")}
    for file, content in sign_manifest(files, Authority.create("mobile").key).items():
        (startup / file).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"manifest\.json: was altered, or is not from the authority"):
        Kit.load(kits / "C1")


def test_a_signature_of_the_authority_over_something_else_is_no_manifests(kits: Path) -> None:
    startup = kits / "C1" / "startup"
    key = Registry.load(kits / "authority", LOCK).issuer.key
    (startup / "manifest.sig").write_bytes(sign(key, b"cellnet placement 1", (startup / "manifest.json").read_bytes()))
    with pytest.raises(ConfigurationError, match="was altered, or is not from the authority"):
        Kit.load(kits / "C1")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "client.crt.bak", ".notes.txt-a1b2c3d4", ".client.crt-a1"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_file_too_many_is_named_and_told_where_it_may_go(name: str, kind: str, kits: Path) -> None:
    path = kits / "C1" / "startup" / name
    match kind:
        case "file":
            path.write_text("x")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/nowhere")
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "C1")
    assert str(caught.value).startswith(f"{path}: is no part of the kit: move it away (local/ and transfer/ are free")


def test_a_kit_can_be_read_while_one_of_its_files_is_replaced(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, loaded, replace = kits / "C1" / "startup" / "rootCA.pem", list[Kit](), Path.replace

    def read_first(new: Path, target: Path) -> Path:
        loaded.append(Kit.load(kits / "C1"))
        return replace(new, target)

    monkeypatch.setattr(Path, "replace", read_first)
    replace_file(path, path.read_bytes(), 0o600)
    assert len(loaded) == 1


def test_local_and_transfer_are_free_to_use(kits: Path) -> None:
    (kits / "C1" / "local" / "x").write_text("x")
    (kits / "C1" / "transfer" / "y").mkdir()
    (kits / "C1" / "more").write_text("z")
    assert Kit.load(kits / "C1").name == "C1"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o610])
@pytest.mark.parametrize("file", ["client.key", "server.key"])
def test_a_key_that_others_may_touch_is_refused(file: str, mode: int, kits: Path) -> None:
    path = kits / "R1" / "startup" / file
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "R1")
    assert str(caught.value).startswith(f"{path}: is readable by others (mode {mode:04o})")
    assert "chmod 600" in str(caught.value)


def test_a_key_that_not_even_its_owner_may_write_is_fine(kits: Path) -> None:
    (kits / "R1" / "startup" / "client.key").chmod(0o400)
    assert Kit.load(kits / "R1").name == "R1"


@pytest.mark.parametrize("folder", ["local", "transfer"])
def test_a_missing_folder_is_named(folder: str, kits: Path) -> None:
    (kits / "C1" / folder).rmdir()
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "C1")
    assert str(caught.value) == f"{kits / 'C1' / folder}: the folder is missing: make it, empty"


def test_a_folder_that_is_no_kit_is_told_apart_from_one_that_is_not_there(kits: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing: there is no such folder"):
        Kit.load(kits / "nothing")
    with pytest.raises(ConfigurationError, match="is no startup kit: it has no folder 'startup'"):
        Kit.load(kits)
    with pytest.raises(ConfigurationError, match="is only part of a kit: give the folder above it"):
        Kit.load(kits / "C1" / "startup")
    with pytest.raises(ConfigurationError, match=r"kit\.json: there is no such folder"):
        Kit.load(kits / "C1" / "startup" / "kit.json")


def test_what_the_authority_signed_by_mistake_is_named_too(kits: Path, resign: Callable[..., None]) -> None:
    startup = kits / "C1" / "startup"
    config = json.loads((startup / "kit.json").read_text())
    for key, value, message in (
        ("name", "C2", "client.crt: is the certificate of cellnet://mobile/client/C1, the kit is that of"),
        ("role", "relay", "a relay has not the endpoints that it should have"),
        ("role", "boss", "role: Input should be"),
        ("format", 3, "format: Input should be 2"),
        ("extra", 1, "extra: Extra inputs are not permitted"),
        ("connect", {"url": "tcp://host", "security": "mtls"}, "connect.url: .* is no address"),
        ("connect", {"url": "tcp://host:1/x", "security": "mtls"}, "connect.url: .* is no address"),
        ("connect", {"url": "tcp://host:1", "security": "none"}, "connect.security: "),
    ):
        resign("C1", kit_json=json.dumps({**config, key: value}).encode())
        with pytest.raises(ConfigurationError, match=message):
            Kit.load(kits / "C1")
    resign("C1", kit_json=b"{")
    with pytest.raises(ConfigurationError, match=r"kit\.json: Invalid JSON"):
        Kit.load(kits / "C1")
    resign("C1", kit_json=None)
    with pytest.raises(ConfigurationError, match=r"kit\.json: the file is missing, from the manifest too"):
        Kit.load(kits / "C1")


def test_a_placement_of_another_cell_is_refused_even_if_it_is_signed(kits: Path, resign: Callable[..., None]) -> None:
    resign("C1", placement_bin=(kits / "C2" / "startup" / "placement.bin").read_bytes())
    with pytest.raises(ConfigurationError, match=r"placement\.bin: is the placement of another cell"):
        Kit.load(kits / "C1")


def test_a_key_of_another_certificate_is_refused_even_if_it_is_signed(kits: Path, resign: Callable[..., None]) -> None:
    resign("C1", client_key=(kits / "C2" / "startup" / "client.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"client\.key: the key does not belong to the certificate"):
        Kit.load(kits / "C1")


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_root_that_is_none_is_named(content: bytes, kits: Path) -> None:
    (kits / "C1" / "startup" / "rootCA.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"rootCA\.pem: is no certificate"):
        Kit.load(kits / "C1")


@pytest.mark.parametrize("bit", [1, 2, 4, 8, 16, 32, 64])
def test_a_damaged_root_is_an_error_that_names_it_whichever_byte_it_is(bit: int, kits: Path) -> None:
    path = kits / "C1" / "startup" / "rootCA.pem"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        with pytest.raises(ConfigurationError, match=r"rootCA\.pem|/manifest\.json: "):
            Kit.load(kits / "C1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_change_of_a_single_byte_goes_unnoticed(data: st.DataObject, provisioned: Path, kits: Path) -> None:
    names = sorted(path.name for path in (provisioned / "R1" / "startup").iterdir())
    path = kits / "R1" / "startup" / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255)) ^ whole[position]
    path.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
    try:
        with pytest.raises(ConfigurationError):
            Kit.load(kits / "R1")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("role", ["server", "relay", "client", "admin"])
@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("connects", [False, True])
def test_each_role_has_exactly_its_endpoints(role: str, listens: bool, connects: bool) -> None:
    end = {"url": "tcp://[::1]:1", "security": "tls"}
    config = {"project": "p", "name": "n", "role": role}
    config |= {"listen": end} if listens else {}
    config |= {"connect": end} if connects else {}
    wanted = {"server": (True, False), "relay": (True, True)}.get(role, (False, True))
    if (listens, connects) == wanted:
        assert KitFile.model_validate(config).role == role
    else:
        with pytest.raises(ValidationError, match="has not the endpoints"):
            KitFile.model_validate(config)
