"""All targets, and how the inputs are shared between them: cheap ones get more."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.fuzz import links, values

if TYPE_CHECKING:
    from tests.fuzz.campaign import Plan

__all__ = ["PLAN"]

PLAN: Plan = MappingProxyType(
    {
        "names": (60, values.names),
        "headers": (120, values.headers),
        "envelopes": (150, values.envelopes),
        "payloads": (100, values.payloads),
        "arrays": (80, values.arrays),
        "answers": (40, values.answers),
        "frames": (250, links.frames_into_endpoints),
        "handshakes": (12, links.handshakes),
    }
)
