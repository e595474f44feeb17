"""NVFlare's ``Cell`` in a contest: what its applications use, which streams each payload."""

from __future__ import annotations

from nvflare.fuel.f3.cellnet.cell import Cell

from nvflare_net import play

if __name__ == "__main__":
    play(Cell)
