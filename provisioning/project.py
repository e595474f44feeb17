"""Read a project.yml: from a text with lines to a frozen Project, and every error with its place.

Nothing that the file names is imported or run: builders are known by the last part of their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from provisioning.schema import (
    LEGACY_KEYS,
    MODELS,
    SYNONYMS,
    Admin,
    Builder,
    Listening,
    Participant,
    Scheme,
    Server,
    Top,
)
from provisioning.source import Source, YamlPath, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cellnet.kit import Security

__all__ = ["Project", "read_project"]

_Model = TypeVar("_Model", bound=BaseModel)

_BUILDERS: dict[str, tuple[str, ...]] = {
    "WorkspaceBuilder": ("template_file",),
    "TemplateBuilder": (),
    "StaticFileBuilder": ("config_folder", "scheme", "app_validator", "docker_image", "download_job_url"),
    "CertBuilder": (),
    "SignatureBuilder": (),
}
_RESERVED_FOLDERS = ("authority",)
_PLACEHOLDERS: dict[str, Any] = {
    "org": "unknown",
    "role": "member",
    "listening_host": {"default_host": "unknown.invalid", "port": 1},
}
_ADMIN_ROLES = ("project_admin", "org_admin", "lead", "member")


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

    def path(self, name: str, *keys: str) -> YamlPath:
        """Return the place of a participant, or of something in it."""
        return ("participants", self.positions[name], *keys)


def read_project(source: Source) -> Project:
    """Read what *source* says, and note in it what is wrong; the caller stops when something is.

    :raises ProjectError: if too much is wrong to go on
    """
    data = source.value
    if not isinstance(data, dict):
        source.error((), "a mapping is wanted at the top, with 'api_version', 'name' and 'participants'")
        source.stop_if_wrong()
    if "include" in data:
        source.error(("include",), "'include' is not supported: write the content here", key=True)
    data = {key: value for key, value in data.items() if key != "include"}
    top = _validate(Top, data, (), source)
    if top is not None and top.allow_error_sending:
        source.warning(("allow_error_sending",), "sites do not send error logs yet: it is taken as false", key=True)
    listed = data.get("participants")
    entries = listed if isinstance(listed, list) else []
    if isinstance(listed, list) and not listed:
        source.error(("participants",), "there are no participants: at least a server is wanted")
    participants, roles, positions = _read_participants(entries, source)
    scheme = _scheme(data, top, source)
    return Project(
        top.name if top else "?", scheme, top.connection_security if top else None, participants, roles, positions
    )


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
            source.error(path, "a mapping is wanted, with 'name', 'type' and 'org'")
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
        if participant is not None:
            _check_reserved(participant, path, source)
            participants.append(participant)
    _check_one_server(entries, source)
    return tuple(participants), roles, positions


def _read_participant(entry: dict[str, Any], path: YamlPath, source: Source) -> Participant | None:
    kind = entry.get("type")
    if "type" not in entry:
        source.error(path, f"'type' is missing: one of {_listed(MODELS)} is wanted")
        return None
    if not isinstance(kind, str) or kind not in MODELS:
        source.error((*path, "type"), f"{kind!r} is no type: {_listed(MODELS)} are{did_you_mean(kind, MODELS)}")
        return None
    misplaced = {"server": ("listening_host",), "client": ("listening_host",)}.get(kind, ())
    for key in misplaced:
        if key in entry:
            source.warning((*path, key), f"{key!r} is ignored: only a relay has one", key=True)
    for key in ("connect_to", "parent"):
        if key in entry and entry[key] is None:
            source.warning((*path, key), f"{key!r} is empty, as if it were not there", key=True)
    kept = {key: value for key, value in entry.items() if key not in misplaced}
    participant = _validate(MODELS[kind], kept, path, source) or _salvage(kept, MODELS[kind])
    if isinstance(participant, Admin) and participant.role not in _ADMIN_ROLES:
        hint = did_you_mean(participant.role, _ADMIN_ROLES)
        source.warning((*path, "role"), f"{participant.role!r} is no known role: {_listed(_ADMIN_ROLES)} are{hint}")
    return participant


def _salvage(entry: dict[str, Any], model: type[_Model]) -> _Model | None:
    """Replace what is wrong in a participant, so that the rest of it can still be checked against the others."""
    known = {key: value for key, value in entry.items() if key in model.model_fields}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        wrong = {found["loc"][0] for found in error.errors(include_url=False) if found["loc"]}
    kept = {key: value for key, value in known.items() if key not in wrong}
    placeholders = {key: value for key, value in _PLACEHOLDERS.items() if key in model.model_fields}
    try:
        return model.model_validate({**placeholders, **kept})
    except ValidationError:
        return None


def _note_twice(name: str, other: str, first: int, position: int, source: Source) -> None:
    line = source.place(("participants", first, "name"))[0]
    if name == other:
        message = f"the name {name!r} is given twice (first at line {line})"
    else:
        message = f"the names {name!r} and {other!r} (line {line}) differ in case only: kits are folders, so they clash"
    source.error(("participants", position, "name"), message)


def _check_reserved(participant: Participant, path: YamlPath, source: Source) -> None:
    name = participant.name
    if name == "server" and not isinstance(participant, Server):
        source.error((*path, "name"), "the name 'server' is the root's: no other participant may have it")
    if name.lower() in _RESERVED_FOLDERS:
        source.error((*path, "name"), f"the name {name!r} is reserved: the folder {name.lower()!r} is not a kit")


def _check_one_server(entries: list[Any], source: Source) -> None:
    kinds = [entry.get("type") if isinstance(entry, dict) else None for entry in entries]
    servers = [position for position, kind in enumerate(kinds) if kind == "server"]
    if not servers and all(kind in MODELS for kind in map(str, kinds)) and entries:  # else one of those may be it
        source.error(("participants",), "there is no server: exactly one participant has 'type: server'")
    for position in servers[1:]:
        line = source.place(("participants", servers[0]))[0]
        source.error(("participants", position, "type"), f"this is a second server (the first is at line {line})")


def _scheme(data: Mapping[str, Any], top: Top | None, source: Source) -> Scheme:
    scheme = top.scheme if top else None
    builders = data.get("builders")
    for position, entry in enumerate(builders if isinstance(builders, list) else []):
        path: YamlPath = ("builders", position)
        builder = _validate(Builder, entry, path, source)
        if builder is None:
            continue
        short = builder.path.rpartition(".")[2]
        if short not in _BUILDERS:
            hint = did_you_mean(short, _BUILDERS)
            source.error((*path, "path"), f"{builder.path!r} is no known builder{hint}")
            continue
        found = _builder_scheme(builder, short, (*path, "args"), source)
        if found and scheme and found != scheme:
            source.error((*path, "args", "scheme"), f"the scheme {found!r} contradicts {scheme!r}: give it once")
        scheme = scheme or found
    return scheme or "grpc"


def _builder_scheme(builder: Builder, short: str, path: YamlPath, source: Source) -> Scheme | None:
    for key in builder.args or {}:
        if key in LEGACY_KEYS:
            source.warning((*path, key), f"{key!r} is ignored", key=True)
        elif key not in _BUILDERS[short]:
            hint = did_you_mean(key, _BUILDERS[short])
            source.error((*path, key), f"unknown setting {key!r} of the {short}{hint}", key=True)
    value = (builder.args or {}).get("scheme")
    if short != "StaticFileBuilder" or value is None:
        return None
    for scheme in get_args(Scheme):
        if isinstance(value, str) and value.lower() == scheme:
            return scheme  # type: ignore[no-any-return]  # get_args does not know what a Literal holds
    options = get_args(Scheme)
    source.error((*path, "scheme"), f"{value!r} is no scheme: {_listed(options)} are{did_you_mean(value, options)}")
    return None


def _validate(model: type[_Model], data: Any, path: YamlPath, source: Source) -> _Model | None:
    """Turn *data* into a model, and note every error with its place."""
    if isinstance(data, dict):
        for key in sorted(LEGACY_KEYS.intersection(data)):
            source.warning((*path, key), f"{key!r} is ignored", key=True)
        data = {key: value for key, value in data.items() if key not in LEGACY_KEYS}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            _note(found, model, path, source)
        return None


def _note(found: Any, model: type[BaseModel], path: YamlPath, source: Source) -> None:
    place, key = (*path, *found["loc"]), str(found["loc"][-1]) if found["loc"] else ""
    match found["type"]:
        case "missing":
            source.error(place, f"{key!r} is missing")
        case "extra_forbidden":
            source.error(
                place, f"unknown key {key!r}{_suggest(key, _keys_at(model, found['loc'][:-1]), model)}", key=True
            )
        case "literal_error":
            options = found["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            hint = did_you_mean(found["input"], options)
            source.error(place, f"{found['input']!r} is not allowed for {key!r}: {_listed(options)} are{hint}")
        case "value_error":
            source.error(place, f"{found['ctx']['error']}")
        case "model_type" | "dict_type":
            source.error(place, "a mapping is wanted")
        case "tuple_type" | "list_type":
            source.error(place, "a list is wanted")
        case _:
            source.error(place, found["msg"])


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the model that *loc* leads to."""
    for step in loc:
        inner = model.model_fields.get(str(step))
        options = [inner.annotation, *get_args(inner.annotation)] if inner else []
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def _suggest(key: str, keys: list[str], model: type[BaseModel]) -> str:
    for meant in SYNONYMS.get(key, ()):
        if meant in keys:
            return f" (did you mean {meant!r}?)"
    if "listening_host" in keys and key in Listening.model_fields:
        return f" (did you mean 'listening_host: {key}'?)"
    if key == "parent":
        return ": only a client has a parent; 'connect_to' says where a node connects"
    if key == "connect_to" and model is Server:
        return ": the server connects nowhere"
    return did_you_mean(key, keys)


def _listed(options: Iterable[str]) -> str:
    return ", ".join(options)
