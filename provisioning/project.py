"""Read a project.yml: from a text with lines to a frozen Project, and every error with its place.

Rules about one participant are here and in ``schema``, those that join several in ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from cellnet.fqcn import ROOT
from provisioning.builders import scheme_of
from provisioning.problems import Code, did_you_mean
from provisioning.schema import MODELS, Admin, Participant, Server, Top
from provisioning.validation import salvage, validate
from provisioning.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cellnet.kit import Security
    from provisioning.rules import Scheme
    from provisioning.source import Source, YamlPath

__all__ = ["Project", "read_project"]

_RESERVED_FOLDERS = ("authority",)
_ADMIN_ROLES = ("project_admin", "org_admin", "lead", "member")
_NOT_SUPPORTED = {
    "include": "write the content here",
    "edge": "cellnet tree writes a project with a tree of any depth and width",
}
_MAX_CA_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Project:
    """What a project.yml says, as far as each participant can be understood alone."""

    name: str
    scheme: Scheme
    security: Security | None
    """The project's connection security, if the file gives one."""
    participants: tuple[Participant, ...]
    roles: Mapping[str, str]
    """The role of every name in the file, also of participants that could not be understood."""
    positions: Mapping[str, int]
    """Where each name stands in the list of participants."""
    allow_error_sending: bool
    ingress_ca: Mapping[str, bytes]
    """Whom a participant trusts to certify the ingress that it goes through, in PEM, where the file says so."""

    def path(self, name: str, *keys: str | int) -> YamlPath:
        """Return the place of a participant, or of something in it."""
        return ("participants", self.positions[name], *keys)


def read_project(source: Source) -> Project:
    """Read what *source* says, and note in it what is wrong; the caller stops when something is.

    :raises ProjectError: if too much is wrong to go on
    """
    data = source.value
    if not isinstance(data, dict):
        message = "a mapping is wanted at the top, with 'api_version', 'name' and 'participants'"
        source.error((), Code.WRONG_KIND, message)
        source.stop_if_wrong()
    for key in _NOT_SUPPORTED.keys() & data.keys():
        source.error((key,), Code.NOT_SUPPORTED, f"{key!r} is not supported: {_NOT_SUPPORTED[key]}", key=True)
    data = {key: value for key, value in data.items() if key not in _NOT_SUPPORTED}
    top = validate(Top, data, (), source)
    if top is not None:
        _check_top(top, source)
    entries = data.get("participants")
    if isinstance(entries, list) and not entries:
        source.error(
            ("participants",), Code.NO_SERVER, "there are no participants: at least a server is wanted", key=True
        )
    participants, roles, positions = _read_participants(entries if isinstance(entries, list) else [], source)
    scheme = scheme_of(data, top, source)
    return Project(
        top.name if top else "?",
        scheme,
        top.connection_security if top else None,
        participants,
        roles,
        positions,
        top.allow_error_sending if top else False,
        _read_authorities(top, participants, positions, source),
    )


def _check_top(top: Top, source: Source) -> None:
    if top.studies is not None and top.api_version < 4:
        source.error(("studies",), Code.UNKNOWN_KEY, "'studies' needs 'api_version: 4'", key=True)
    elif top.studies is not None:
        message = "'studies' is ignored: who may see which data is not the network's to decide"
        source.warning(("studies",), Code.IGNORED_KEY, message, key=True)


def _read_participants(
    entries: list[Any], source: Source
) -> tuple[tuple[Participant, ...], dict[str, str], dict[str, int]]:
    participants: list[Participant] = []
    roles: dict[str, str] = {}
    positions: dict[str, int] = {}
    folded: dict[str, int] = {}
    for position, entry in enumerate(entries):
        path = ("participants", position)
        if not isinstance(entry, dict):
            source.error(path, Code.WRONG_KIND, "a mapping is wanted, with 'name', 'type' and 'org'")
            continue
        participant = _read_participant(entry, path, source)
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        first = folded.setdefault(name.lower(), position)
        if first != position:
            _note_twice(name, entries[first]["name"], first, position, source)
            continue
        roles[name], positions[name] = str(entry.get("type")), position
        if participant is not None and not _is_reserved(participant, path, source):
            participants.append(participant)
    _check_one_server(entries, source)
    return tuple(participants), roles, positions


def _read_participant(entry: dict[str, Any], path: YamlPath, source: Source) -> Participant | None:
    kind = entry.get("type")
    if "type" not in entry:
        source.error(path, Code.MISSING_KEY, f"'type' is missing: one of {listed(MODELS)} is wanted")
        return None
    if not isinstance(kind, str) or kind not in MODELS:
        message = f"{kind!r} is no type: {listed(MODELS)} are"
        source.error((*path, "type"), Code.NOT_AN_OPTION, message, did_you_mean(kind, MODELS))
        return None
    if kind == "server" and "listening_host" in entry:
        message = "'listening_host' is ignored: a server has 'default_host', 'host_names' and 'fed_learn_port'"
        source.warning((*path, "listening_host"), Code.IGNORED_KEY, message, key=True)
        entry = {key: value for key, value in entry.items() if key != "listening_host"}
    for key in ("connect_to", "parent"):
        if key in entry and entry[key] is None:
            message = f"{key!r} is empty, as if it were not there"
            source.warning((*path, key), Code.EMPTY_KEY, message, key=True)
    participant = validate(MODELS[kind], entry, path, source) or salvage(entry, MODELS[kind])
    if isinstance(participant, Admin) and participant.role not in _ADMIN_ROLES:
        message = f"{participant.role!r} is no known role: {listed(_ADMIN_ROLES)} are"
        hint = did_you_mean(participant.role, _ADMIN_ROLES)
        source.warning((*path, "role"), Code.UNKNOWN_ROLE, message, hint)
    return participant


def _note_twice(name: str, other: str, first: int, position: int, source: Source) -> None:
    line = source.place(("participants", first, "name"))[0]
    if name == other:
        code, message = Code.DUPLICATE_NAME, f"the name {name!r} is given twice (first at line {line})"
    else:
        code = Code.NAMES_DIFFER_IN_CASE
        message = f"the names {name!r} and {other!r} (line {line}) differ in case only: kits are folders, so they clash"
    source.error(("participants", position, "name"), code, message)


def _is_reserved(participant: Participant, path: YamlPath, source: Source) -> bool:
    name = participant.name
    if name == ROOT and not isinstance(participant, Server):
        message = f"the name {name!r} is the root's: no other participant may have it"
    elif name.lower() in _RESERVED_FOLDERS:
        message = f"the name {name!r} is reserved: the folder {name.lower()!r} is not a kit"
    else:
        return False
    source.error((*path, "name"), Code.RESERVED_NAME, message)
    return True


def _check_one_server(entries: list[Any], source: Source) -> None:
    kinds = [entry.get("type") if isinstance(entry, dict) else None for entry in entries]
    servers = [position for position, kind in enumerate(kinds) if kind == "server"]
    if not servers and all(kind in MODELS for kind in map(str, kinds)) and entries:  # else one of those may be it
        message = "there is no server: exactly one participant has 'type: server'"
        source.error(("participants",), Code.NO_SERVER, message, key=True)
    for position in servers[1:]:
        line = source.place(("participants", servers[0]))[0]
        message = f"this is a second server (the first is at line {line})"
        source.error(("participants", position, "type"), Code.SECOND_SERVER, message)


def _read_authorities(
    top: Top | None, participants: Iterable[Participant], positions: Mapping[str, int], source: Source
) -> dict[str, bytes]:
    """Read the certificates of ingresses' authorities, which the file names by paths beside itself."""
    own = {p.name: p.custom_ca_cert for p in participants if not isinstance(p, Server)}
    general = _read_authority(top.custom_ca_cert, ("custom_ca_cert",), source) if top and top.custom_ca_cert else None
    authorities = {}
    for name, file in own.items():
        path = ("participants", positions[name], "custom_ca_cert")
        content = _read_authority(file, path, source) if file else general
        if content is not None:
            authorities[name] = content
    return authorities


def _read_authority(file: str, path: YamlPath, source: Source) -> bytes | None:
    place = Path(source.file).parent / file
    try:
        with place.open("rb") as opened:
            content = opened.read(_MAX_CA_BYTES)
        x509.load_pem_x509_certificates(content)
    except OSError as error:
        source.error(path, Code.CA_FILE, f"{place} cannot be read: {error.strerror}")
    except ValueError:
        source.error(path, Code.CA_FILE, f"{place} holds no certificates in PEM")
    else:
        return content
    return None
