"""The list of builders: another tool's steps, known by the last part of their names; nothing is imported or run.

They say one thing that matters here: the scheme of all links that have none of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from provisioning.problems import Code, did_you_mean
from provisioning.rules import Scheme
from provisioning.schema import LEGACY_KEYS, Builder
from provisioning.validation import validate
from provisioning.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioning.schema import Top
    from provisioning.source import Source, YamlPath

__all__ = ["BUILDERS", "scheme_of"]

_BUILDERS: dict[str, tuple[str, ...]] = {
    "WorkspaceBuilder": ("template_file",),
    "TemplateBuilder": (),
    "StaticFileBuilder": ("config_folder", "scheme", "app_validator", "docker_image", "download_job_url"),
    "CertBuilder": ("root_valid_days",),
    "SignatureBuilder": (),
}
_DEFAULT: Scheme = "grpc"

BUILDERS = """
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args:
      config_folder: config
      scheme: {scheme}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""
"""What other tools want to find at the end of a project file; to be given a scheme."""


def scheme_of(data: Mapping[str, Any], top: Top | None, source: Source) -> Scheme:
    """Read the builders of *data*, and return the scheme that they or the *top* of the file give."""
    scheme = top.scheme if top else None
    builders = data.get("builders")
    if not builders:
        source.warning((), Code.NO_BUILDERS, f"there are no builders: the scheme is {scheme or _DEFAULT}")
    for position, entry in enumerate(builders if isinstance(builders, list) else []):
        path: YamlPath = ("builders", position)
        builder = validate(Builder, entry, path, source)
        if builder is None:
            continue
        short = builder.path.rpartition(".")[2]
        if short not in _BUILDERS:
            hint = did_you_mean(short, _BUILDERS)
            source.error((*path, "path"), Code.UNKNOWN_BUILDER, f"{builder.path!r} is no known builder", hint)
            continue
        _check_settings(builder, short, (*path, "args"), source)
        found = _scheme(builder, short, (*path, "args", "scheme"), source)
        if found and scheme and found != scheme:
            message = f"the scheme {found!r} contradicts {scheme!r}: give it once"
            source.error((*path, "args", "scheme"), Code.TWO_SCHEMES, message)
        scheme = scheme or found
    return scheme or _DEFAULT


def _check_settings(builder: Builder, short: str, path: YamlPath, source: Source) -> None:
    for key in builder.args or {}:
        if key in LEGACY_KEYS:
            source.warning((*path, key), Code.IGNORED_KEY, f"{key!r} is ignored", key=True)
        elif key not in _BUILDERS[short]:
            hint = did_you_mean(key, _BUILDERS[short])
            message = f"unknown setting {key!r} of the {short}"
            source.error((*path, key), Code.UNKNOWN_SETTING, message, hint, key=True)


def _scheme(builder: Builder, short: str, path: YamlPath, source: Source) -> Scheme | None:
    value = (builder.args or {}).get("scheme")
    if short != "StaticFileBuilder" or value is None:
        return None
    schemes: dict[str, Scheme] = {scheme: scheme for scheme in get_args(Scheme)}
    found = schemes.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        message = f"{value!r} is no scheme: {listed(schemes)} are"
        source.error(path, Code.NOT_AN_OPTION, message, did_you_mean(value, schemes))
    return found
