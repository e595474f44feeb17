"""Turn plain values into a model, and note everything that is wrong with them, each with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from provisioning.problems import Code, Wrong, did_you_mean
from provisioning.schema import LEGACY_KEYS, SYNONYMS, Listening, Server
from provisioning.wording import listed

if TYPE_CHECKING:
    from provisioning.source import Source, YamlPath

__all__ = ["salvage", "validate"]

_Model = TypeVar("_Model", bound=BaseModel)

_PLACEHOLDERS: dict[str, Any] = {
    "org": "unknown",
    "role": "member",
    "listening_host": {"default_host": "unknown.invalid", "port": 1},
}


def validate(model: type[_Model], data: Any, path: YamlPath, source: Source) -> _Model | None:
    """Turn *data* into a model, and note every error with its place."""
    if isinstance(data, dict):
        for key in sorted(LEGACY_KEYS.intersection(data)):
            source.warning((*path, key), Code.IGNORED_KEY, f"{key!r} is ignored", key=True)
        data = {key: value for key, value in data.items() if key not in LEGACY_KEYS}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            _note(found, model, path, source)
        return None


def salvage(entry: dict[str, Any], model: type[_Model]) -> _Model | None:
    """Replace what is wrong in a participant, so that the rest of it can still be checked against the others."""
    known = {key: value for key, value in entry.items() if key in model.model_fields}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        wrong = {found["loc"][0] for found in error.errors(include_url=False) if found["loc"]}
    kept = {key: value for key, value in known.items() if key not in wrong}
    missing = {key for key, field in model.model_fields.items() if field.is_required()} - kept.keys()
    placeholders = {key: value for key, value in _PLACEHOLDERS.items() if key in missing}
    try:
        return model.model_validate({**placeholders, **kept})
    except ValidationError:
        return None


def _note(found: Any, model: type[BaseModel], path: YamlPath, source: Source) -> None:
    place, key = (*path, *found["loc"]), str(found["loc"][-1]) if found["loc"] else ""
    match found["type"]:
        case "missing":
            source.error(place, Code.MISSING_KEY, f"{key!r} is missing")
        case "extra_forbidden":
            why, hint = _suggest(key, _keys_at(model, found["loc"][:-1]), model)
            source.error(place, Code.UNKNOWN_KEY, f"unknown key {key!r}{why}", hint, key=True)
        case "literal_error":
            options = found["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            message = f"{found['input']!r} is not allowed for {key!r}: {listed(options)} are"
            source.error(place, Code.NOT_AN_OPTION, message, did_you_mean(found["input"], options))
        case "value_error":
            wrong: Wrong = found["ctx"]["error"]
            source.error(place, wrong.code, str(wrong), wrong.hint)
        case "model_type" | "dict_type":
            source.error(place, Code.WRONG_KIND, "a mapping is wanted")
        case "tuple_type" | "list_type":
            source.error(place, Code.WRONG_KIND, "a list is wanted")
        case "bool_type":
            source.error(place, Code.WRONG_KIND, "true or false is wanted")
        case _:
            source.error(place, Code.WRONG_KIND, found["msg"])


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the model that *loc* leads to."""
    for step in loc:
        inner = model.model_fields.get(str(step))
        options = _parts_of(inner.annotation) if inner else []
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def _parts_of(annotation: Any) -> list[Any]:
    return [annotation, *(part for inner in get_args(annotation) for part in _parts_of(inner))]


def _suggest(key: str, keys: list[str], model: type[BaseModel]) -> tuple[str, str]:
    """Return why an unknown key does not belong there, and what may have been meant."""
    for meant in SYNONYMS.get(key, ()):
        if meant in keys:
            return "", f"did you mean {meant!r}?"
    if "listening_host" in keys and key in Listening.model_fields:
        return "", f"did you mean 'listening_host: {key}'?"
    if key == "parent":
        return ": only a client has a parent; 'connect_to' says where a node connects", ""
    if key == "connect_to" and model is Server:
        return ": the server connects nowhere", ""
    return "", did_you_mean(key, keys)
