"""NVFlare's ``CoreCell`` in a contest: each message is one frame, as the messages of CellNet itself are."""

from __future__ import annotations

from nvflare.fuel.f3.cellnet.core_cell import CoreCell

from nvflare_net import play

if __name__ == "__main__":
    play(CoreCell)
