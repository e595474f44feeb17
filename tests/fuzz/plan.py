"""All targets, and how the inputs are shared between them: cheap ones get more."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.fuzz import contents, documents, jobs, links, sessions, values

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
        "introductions": (30, sessions.introductions),
        "signed introductions": (12, sessions.signed_introductions),
        "sealed frames": (60, sessions.sealed_frames),
        "references": (20, contents.references),
        "objects": (10, contents.objects),
        "chunk lists": (10, contents.lists),
        "records": (20, contents.records),
        "sealed records": (20, contents.sealed_records),
        "signed words": (15, documents.signed_words),
        "certificates": (10, documents.certificates),
        "histories of roots": (10, documents.histories),
        "job credentials": (10, documents.job_credentials),
        "authorities": (2, documents.authorities),
        "kits": (3, documents.kits),
        "project files": (4, documents.project_files),
        "journals": (1, documents.journals),
        "bundles": (15, jobs.bundles),
        "job starts": (15, jobs.starts),
        "job rounds": (20, jobs.partials),
        "job messages": (20, jobs.job_messages),
    }
)
