"""The number of a start is higher than that of each start before, whatever the clock says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet import epoch as epoch_module
from cellnet.epoch import clock_epoch, next_epoch
from cellnet.protocol.endpoint import MAX_LAST_EPOCH

if TYPE_CHECKING:
    from pathlib import Path


def test_it_grows_with_the_clock(tmp_path: Path) -> None:
    before = clock_epoch()
    first, second = next_epoch(tmp_path / "epoch"), next_epoch(tmp_path / "epoch")
    assert before < first < second < clock_epoch() + 4096
    assert [path.name for path in tmp_path.iterdir()] == ["epoch"]


def test_it_grows_also_when_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next_epoch(tmp_path / "epoch")
    monkeypatch.setattr(epoch_module, "clock_epoch", lambda: 1)
    assert [next_epoch(tmp_path / "epoch") for _ in range(2)] == [first + 1, first + 2]


@pytest.mark.parametrize("text", ["", "soon", "-1", "1" * 5000, str(MAX_LAST_EPOCH + 1), "ÿ"])
def test_a_damaged_file_is_told_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    file = tmp_path / "epoch"
    file.write_text(text, "utf-8")
    before = clock_epoch()
    epoch = next_epoch(file)
    assert before < epoch
    assert file.read_text("utf-8") == str(epoch)
    assert "holds no number of a start" in caplog.text


def test_a_folder_that_is_missing_is_told_and_the_clock_is_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = clock_epoch()
    assert before < next_epoch(tmp_path / "missing" / "epoch")
    assert "a clock that was set back will not be noticed: No such file or directory" in caplog.text
