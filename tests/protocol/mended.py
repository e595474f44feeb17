"""What ``test_machine_findings.py`` proposes, so that the machine can look behind it. To go when it is mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellnet.errors import HandshakeError
from cellnet.protocol.answering import Answering
from cellnet.protocol.askers import Askers
from cellnet.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    import pytest

    from cellnet.fqcn import FQCN
    from cellnet.protocol.introduction import Introducer

__all__ = ["mend"]


class _ByBothNames(dict[Any, Any]):
    """Askers by their own name, and by the one that this cell had when they asked."""

    def __init__(self, introducer: Introducer) -> None:
        super().__init__()
        self._introducer = introducer

    def _key(self, origin: FQCN) -> Any:
        me = self._introducer._me()
        return me and me.fqcn, origin

    def get(self, origin: FQCN, default: Any = None) -> Any:
        return super().get(self._key(origin), default)

    def __setitem__(self, origin: FQCN, asker: Any) -> None:
        super().__setitem__(self._key(origin), asker)

    def __delitem__(self, origin: FQCN) -> None:
        super().__delitem__(self._key(origin))


def mend(patch: pytest.MonkeyPatch) -> None:
    """Do what is proposed, for as long as *patch* holds."""
    attach, begin = Endpoint._attach, Askers.__init__

    def begin_by_both_names(self: Askers, introducer: Introducer, *more: Any) -> None:
        begin(self, introducer, *more)
        self._askers = _ByBothNames(introducer)

    def attach_without_newcomers(self: Endpoint, connection: Any, fqcn: FQCN, parent: Any, now: float) -> None:
        if self.fqcn != fqcn and self.router.parent is None:
            error = HandshakeError(f"{self.name} is now {fqcn}", "not-joined", temporary=True)
            for newcomer in list(self._fencing._waiting.values()):
                self._refuse(newcomer.connection, error, now)
        attach(self, connection, fqcn, parent, now)

    patch.setattr(Askers, "__init__", begin_by_both_names)
    patch.setattr(Answering, "renamed", lambda _self: None)
    patch.setattr(Endpoint, "_attach", attach_without_newcomers)
