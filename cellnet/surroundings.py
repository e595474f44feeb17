"""What a site says of the network around its node: ``local/network.yml`` in the kit, free to edit, and to leave out.

::

    proxy: http://user:password@proxy.example.org:3128    # the way out; empty: none, whatever the environment says
    ingress_ca: ingress.pem                               # who issued the certificate of what ends TLS in front of us
    issuer: /run/cellnet/issuer.sock                      # of the server only: who renews certificates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Surroundings"]

_KEYS = ("proxy", "ingress_ca", "issuer")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is there said."""

    proxy: str | None = None
    """The forward proxy to go through; empty for none; None if the environment says."""
    ingress_ca: Path | None = None
    """The authorities of an ingress's certificate, in PEM."""
    issuer: Path | None = None
    """The local socket of the issuer."""

    @classmethod
    def load(cls, path: Path) -> Surroundings:
        """Read what is said, if anything is.

        :raises ConfigurationError: if it cannot be read, says what cannot be, or shows a password to others
        """
        try:
            text = path.read_text(encoding="utf-8")
            others = path.stat().st_mode & 0o077
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot be read: {error}", str(path)) from None
        said = _read(text, path)
        proxy, authorities = said.get("proxy"), said.get("ingress_ca")
        if proxy and "@" in proxy and others:
            raise ConfigurationError("names a password and is readable by others: run chmod 600", str(path))
        issuer = said.get("issuer")
        return cls(proxy, path.parent / authorities if authorities else None, path.parent / issuer if issuer else None)


def _read(text: str, path: Path) -> dict[str, str]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        where = f"{path}:{place.line + 1}:{place.column + 1}" if place else str(path)
        raise ConfigurationError(f"is no YAML: {error.problem}", where) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"is no YAML: {error}", str(path)) from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(
            "says nothing that is known: one of 'proxy', 'ingress_ca' and 'issuer' is wanted", str(path)
        )
    said: dict[str, str] = {}
    for key, value in root.value:
        where = f"{path}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if key.value not in _KEYS:
            raise ConfigurationError(f"{key.value!r} is not known: there are {', '.join(_KEYS)}", where)
        if key.value in said:
            raise ConfigurationError(f"{key.value} is there twice", where)
        if not isinstance(value, yaml.ScalarNode):
            raise ConfigurationError(f"{key.value} is to be one text", where)
        said[key.value] = "" if value.tag == "tag:yaml.org,2002:null" else value.value
    return said
