"""The benchmarks measure what they say, and say so in the promised form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench import BENCHES
from benchmarks.contestants import CONTESTANTS, Contestant, Way
from benchmarks.race import RaceFailed, Run, run
from benchmarks.report import Line, interval, markdown

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "benchmarks"]


@pytest.mark.long
def test_contestants_run_in_turn_and_what_they_did_is_written_down(tmp_path: Path) -> None:
    only = ["--who", "cellnet,sockets", "--driver", "tcp", "--security", "clear", "--quick"]
    files = ["--json", str(tmp_path / "lines"), "--markdown", str(tmp_path / "tables.md")]
    ran = subprocess.run(
        [*COMMAND, "requests", "bulk", *only, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(line["bench"], line["who"]) for line in lines] == [
        ("requests", "cellnet"),
        ("requests", "sockets"),
        ("bulk", "cellnet"),
        ("bulk", "sockets"),
    ]
    for line in lines:
        assert (line["driver"], line["security"], line["hops"]) == ("tcp", "clear", 2)
        assert line["value"] > 0
        assert line["cpu_s_per_unit"] >= line["relay_cpu_s_per_unit"]
        assert 5 < line["peak_rss_mb"] < 1000
        assert len(line["runs"]) == 2
    tables = (tmp_path / "tables.md").read_text()
    assert tables.count("| cellnet tcp clear | sockets tcp clear |") == 2
    assert tables.strip() in ran.stdout


@pytest.mark.long
def test_a_thousand_clients_and_a_broadcast_can_be_measured_too(tmp_path: Path) -> None:
    only = ["--who", "cellnet", "--driver", "tcp", "--quick", "--rounds", "1", "--json", str(tmp_path / "lines")]
    ran = subprocess.run([*COMMAND, "broadcast", "scale", *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["unit"] for line in (tmp_path / "lines").read_text().splitlines()] == ["s", "s"]


@pytest.mark.long
@pytest.mark.parametrize("security", ["mtls", "mtls+sealed"])
def test_links_are_protected_where_that_is_asked_for(security: str, tmp_path: Path) -> None:
    only = ["--who", "cellnet", "--driver", "tcp", "--security", security, "--quick", "--json", str(tmp_path / "lines")]
    ran = subprocess.run([*COMMAND, "rtt", *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "lines").read_text())["security"] == security


def test_who_is_unknown_is_named() -> None:
    ran = subprocess.run([*COMMAND, "--who", "nobody"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "'nobody' is none of cellnet, " in ran.stderr


def test_a_process_that_ends_too_early_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(Contestant, "program", program)
    with pytest.raises(RaceFailed, match=r"cellnet tcp clear: rtt: server 1 said '', .*no such thing"):
        run(Way(CONTESTANTS["cellnet"], "tcp", "clear"), BENCHES["rtt"], 2, tmp_path)


def test_an_interval_is_as_wide_as_the_number_of_rounds_demands() -> None:
    assert interval([3, 1, 2]) == (2, 1, 3)
    assert interval(range(1, 6)) == (3, 1, 5)
    assert interval(range(1, 10)) == (5, 2, 8)
    assert interval(range(1, 101)) == (50.5, 40, 61)


def test_a_ratio_says_how_many_times_better_ours_is_whichever_way_the_unit_goes() -> None:
    for bench, mine, theirs in (("rtt", 100.0, 300.0), ("requests", 300.0, 100.0)):
        lines = [Line(BENCHES[bench], Way(CONTESTANTS[who], "tcp", "clear"), 2) for who in ("cellnet", "sockets")]
        for line, value in zip(lines, (mine, theirs), strict=True):
            line.runs += [Run(value, 0.5, 0.1, {"server": 1.0}, {"server": 1.0})] * 3
        assert "| cellnet tcp clear | sockets tcp clear | 3.00 (3.00 to 3.00) | 1.00" in markdown(BENCHES[bench], lines)
