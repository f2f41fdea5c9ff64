"""--bench with a network and a detector that know the answer: what is in the table, ratios, what an interrupt keeps. Never a time."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import app.engine
import launch
from app.bench import chart, commands, flows, network, run, stages
from app.bench.clips import MASTER_PX, Clip, Scenery
from app.bench.commands import Started
from app.bench.flows import NO_OVERLAY, OVERLAY, Flow
from app.bench.machine import Machine, cpu_name, instruction_sets, this_machine
from app.bench.report import Report, Row
from app.bench.sections import ORDER, SECTIONS, Bench, Effort
from app.config import LiveConfig
from core.checkpoint import Checkpoint
from core.timing import Spread
from core.ways import WAYS
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.launching import outcome
from tests.core.test_reference import toy

IDLE = Machine("Toy CPU", 1, 2, 1, ("AVX2",), 8.0, None, "Linux 6", {"torch": "2.0"}, 0.0)
MODELS = ("default", "small")


def scenery(num_frames: int = 36) -> Scenery:
    """A white rectangle that moves to the right on black."""
    width, height = MASTER_PX
    pictures = np.zeros((num_frames, height, width, 3), np.uint8)
    centers = 300.0 + 2 * np.arange(num_frames)
    for picture, center in zip(pictures, centers.astype(int), strict=True):
        picture[120:420, center - 50 : center + 50] = 255
    return Scenery(pictures, centers, np.zeros((height, width, 3), np.uint8))


def few_flows(frames: int) -> list[Flow]:
    """As flows.recorded_flows, of a small clip."""
    clip = Clip((320, 180), 1, frames)
    return [Flow(clip, NO_OVERLAY), Flow(clip, OVERLAY), Flow(clip, OVERLAY, official=True)]


@pytest.fixture
def toy_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch.py --bench --quick` in seconds: everything is real but the clip, the network, the detector and the programs started."""
    model = toy(parametric=False).eval()
    monkeypatch.setattr(Scenery, "render", classmethod(lambda cls, num_frames: scenery(num_frames)))
    monkeypatch.setattr(app.engine, "open_estimator", lambda config: TubeEstimator())
    monkeypatch.setattr("app.webcam.leave_a_core", lambda: None)
    monkeypatch.setattr(app.engine, "open_detector", lambda config: RectangleDetector())
    monkeypatch.setattr("app.bench.official.official_estimator", lambda checkpoint, device: TubeEstimator())
    monkeypatch.setattr("core.checkpoint.load_checkpoint", lambda name, folder=None: Checkpoint(model, TubeEstimator().body, {}))
    monkeypatch.setattr(network, "candidates", lambda bench: (network.Candidate(name, lambda: model) for name in MODELS))
    monkeypatch.setattr(commands, "start", lambda arguments: Started(0, 50.0, 20.0, 99.0, "clip: 9 frames in 1 s, 9.0 frames/s"))
    monkeypatch.setattr(flows, "recorded_flows", few_flows)
    monkeypatch.setattr(flows, "BURST", 3)
    monkeypatch.setattr(stages, "SIZES_PX", ((320, 240), (480, 270)))
    monkeypatch.setattr(run, "QUICK", Effort(frames=36, repeats=1, rounds=2, budget_s=1e-9))


def read(folder: Path) -> dict:
    return json.loads((folder / "bench.json").read_text())


def test_everything_is_measured(toy_bench: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = outcome(capsys, "--bench", "--quick", "--out", tmp_path)
    assert code == 0
    report = read(tmp_path)
    assert report["state"] == "complete"
    rows = report["rows"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == [name for name in ORDER if name != "smoothing"]
    parts = {(row["model"], row["what"].split(",")[0], row["setting"]) for row in rows if row["section"] == "network"}
    cpu_ways = [way.name for way in WAYS if not way.unavailable("cpu")]
    assert parts >= {(model, "whole", way) for model in MODELS for way in cpu_ways[:3]}
    assert {row["what"] for row in rows if row["section"] == "stages"} == set(stages.STAGES) - {"body fit"}, "a toy body is not fitted"
    recorded = {(row["what"], row["setting"]) for row in rows if row["section"] == "recorded"}
    assert recorded == {(flow.variant, flow.setting) for flow in few_flows(36)}
    with_overlay = next(row for row in rows if (row["section"], row["what"], row["setting"]) == ("recorded", OVERLAY, "320x180, 1 person"))
    assert with_overlay["ratio"] > 0
    assert all(row["median_ms"] > 0 and row["num_runs"] >= 1 for row in rows)
    assert report["facts"]["smoothing"]["pose"].keys() >= {"before_m_s3", "after_m_s3", "lag_frames"}
    assert report["machine"]["cpu"] in out
    for name in ("bench.json", "bench.md", "bench.png"):
        assert (tmp_path / name).stat().st_size > 100
        assert str(tmp_path / name) in out
    markdown = (tmp_path / "bench.md").read_text()
    assert all(f"**{name[0].upper()}{name[1:]}**" in markdown for name in ORDER)


def test_one_section(toy_bench: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert outcome(capsys, "--bench", "stages", "--quick", "--out", tmp_path)[0] == 0
    assert {row["section"] for row in read(tmp_path)["rows"]} == {"stages"}
    code, out, err = outcome(capsys, "--bench", "everything", "--out", tmp_path / "none")
    assert (code, out) == (2, "")
    assert "no section 'everything'" in err and "scaling" in err
    assert not (tmp_path / "none").exists()


def test_the_help_names_all_sections_and_how_long_they_take(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    text = " ".join(outcome(capsys, "--help")[1].split()).replace("- ", "-")
    minutes = re.search(r"--bench` measures your machine in (\w+ to \w+ minutes)", (repository / "README.md").read_text())
    assert minutes and minutes[1] in text
    assert all(name in text for name in SECTIONS)
    assert set(launch.BENCH_SECTIONS) == set(SECTIONS)
    assert launch.BENCH_SECTIONS[:-1] == ORDER


@pytest.mark.parametrize("arguments", [("--quick",), ("--demo", "--quick"), ("--bench", "--demo"), ("--bench", "--port", "7000")])
def test_flags_that_do_not_fit(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert outcome(capsys, *arguments)[0] == 2


def test_an_interrupt_keeps_what_was_measured(
    toy_bench: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(work: stages.Work):
        runs = iter([None, None, None, None])  # three to warm up, one that counts

        def interrupted() -> None:
            if next(runs, KeyboardInterrupt):
                raise KeyboardInterrupt

        return interrupted

    monkeypatch.setattr(run, "QUICK", Effort(frames=36, repeats=9, rounds=2, budget_s=1e9))
    monkeypatch.setattr(network, "candidates", lambda bench: iter(()))
    monkeypatch.setitem(stages.STAGES._entries, "encode", stages.Stage(encode, sized=True))
    code, out, err = outcome(capsys, "--bench", "smoothing", "stages", "recorded", "--quick", "--out", tmp_path)
    assert code == 1
    assert "interrupted" in err and "Traceback" not in err
    assert "interrupted after" in out
    report = read(tmp_path)
    assert report["state"] == "interrupted"
    kinds = {(row["section"], row["what"]) for row in report["rows"]}
    assert ("stages", "decode") in kinds
    assert not any(section == "recorded" for section, _ in kinds)
    assert "smoothing" not in report["facts"], "it comes after what was interrupted"


def test_a_polite_kill_keeps_what_was_measured_and_then_kills_as_before(toy_bench: None, tmp_path: Path) -> None:
    def killed(bench: Bench) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SECTIONS._entries, "smoothing", killed)
        text, complete = run.run_bench(["smoothing"], tmp_path, LiveConfig(), quick=True)
    assert not complete
    assert "interrupted after" in text
    assert signal.getsignal(signal.SIGTERM) == before


def test_ratios_are_against_the_same_network_in_the_official_layout() -> None:
    times_ms = {
        ("big", "whole", WAYS[0].name, 1): [80.0, 80.0, 90.0], ("big", "whole", "quick", 1): [10.0, 10.0, 10.0],
        ("big", "whole", "quick", 8): [40.0], ("default", "whole", WAYS[0].name, 1): [30.0], ("default", "whole", "quick", 1): [5.0],
    }  # fmt: skip
    rows = {(row.model, row.setting, row.what): row for row in network.rows_of(times_ms)}
    assert rows["big", "quick", "whole, 1 crop"].ratio == pytest.approx(8)
    assert rows["default", "quick", "whole, 1 crop"].ratio == pytest.approx(6)
    assert rows["big", "quick", "whole, 8 crops"].ratio is None, "the official layout did not run with 8"
    assert rows["big", "quick", "whole, 8 crops"].people_per_s == pytest.approx(200)


def test_the_best_way_is_compared_with_the_paper() -> None:
    times_ms = {
        (f"{network.PAPER} on anny", "whole", WAYS[0].name, 1): [80.0], ("default", "whole", WAYS[0].name, 1): [30.0],
        ("default", "whole", "quick", 1): [5.0],
    }  # fmt: skip
    said = list(network.beside_paper(network.rows_of(times_ms)))
    assert len(said) == 2
    assert said[0].startswith("default, quick: 16.0 times as fast")


def test_flows_are_compared_by_means() -> None:
    """The frames in which the detector looks count: most take 10 ms, one in four 50."""
    ours = Flow(Clip((640, 480), 2, 4), "")
    rows = {
        row.setting: row for row in flows.flow_rows("live", {ours: [10.0, 10.0, 10.0, 50.0], replace(ours, official=True): [100.0] * 4})
    }
    row = rows["640x480, 2 people"]
    assert (row.spread.median_ms, row.frames_per_s, row.people_per_s, row.ratio) == pytest.approx((10, 50, 100, 5))
    assert rows["640x480, 2 people, official layout"].ratio == pytest.approx(1)


@pytest.mark.parametrize(("people", "grid"), [(1, None), (2, None), (4, None), (8, None), (3, (4, 2))])
def test_a_clip_shows_as_many_people_as_it_says(people: int, grid: tuple[int, int] | None) -> None:
    clip = Clip((1280, 720), people, 3, grid)
    for frame in clip.frames(scenery()):
        assert frame.size_px == (1280, 720)
        found = RectangleDetector()
        half = frame.image.copy()
        rows = [half] if clip.cells[1] == 1 else [half[:360], half[360:]]
        assert sum(len(found.detect(np.ascontiguousarray(row))) for row in rows) == people


def test_a_clip_goes_forth_and_back() -> None:
    few, clip = scenery(4), Clip((854, 480), 1, 1)
    firsts = [few.picture(index, clip) for index in range(8)]
    for index, same in ((4, 2), (5, 1), (6, 0), (7, 1)):
        np.testing.assert_array_equal(firsts[index], firsts[same])
    assert (firsts[1] != firsts[2]).any()


def test_the_header(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Toy 9000\nflags\t\t: fpu avx2 avx512f amx_bf16\nmodel name\t: other\n")
    assert cpu_name(cpuinfo) == "Toy 9000"
    assert instruction_sets(cpuinfo) == ("AVX2", "AVX-512", "AMX-BF16")
    assert IDLE.warning is None
    busy = replace(IDLE, busy_share=0.5)
    assert "busy" in busy.lines()[-1] and "50%" in busy.lines()[-1]
    here = this_machine()
    assert here.usable >= 1 and here.memory_gib > 0 and "torch" in here.versions and here.cpu


def test_columns_that_nobody_fills_are_left_out_of_markdown() -> None:
    report = Report(IDLE, {}, [Row("stages", "decode", "", Spread(1.0, 2.0, 3))], state="complete")
    assert "| what | median ms | p90 ms |\n|---|---|---|\n| decode | 1.00 | 2.00 |" in report.markdown()
    assert "official" not in report.markdown()
    report.rows.append(Row("stages", "half a step", "", Spread(1.0, 2.0, 3), detail=True))
    assert "half a step" in report.text() and "half a step" not in report.markdown()
    report.rows.pop()
    assert "stages  median ms  p90 ms\ndecode       1.00    2.00\n" in report.text()


def test_a_program_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nprint('first mesh 0.1 s', file=sys.stderr, flush=True)\ntime.sleep(0.4)\nprint('12.5 frames/s')\n"
    )
    monkeypatch.setattr(commands, "LAUNCH", program)
    started = commands.start([])
    assert started.code == 0 and started.output == "12.5 frames/s\n"
    assert 0 < started.first_mesh_ms < started.total_ms
    assert started.memory_mb > 1
    program.write_text("import sys\nsys.exit('broken')\n")
    broken = commands.start([])
    assert (broken.code, broken.first_mesh_ms, broken.errors) == (1, None, ["broken"])


def test_a_session_without_a_mesh_is_told_as_that() -> None:
    bench = SimpleNamespace(report=Report(IDLE, {}))
    slow = Started(0, 12_000.0, None, 99.0, "clip: 0 frames, nobody", ["the network's status line"])
    commands.add_row(bench, "--webcam, first mesh", [slow])
    assert bench.report.skipped["start-up, --webcam, first mesh"] == "exit code 0, no mesh within 12 s"
    commands.add_row(bench, "--help", [Started(1, 5.0, None, 9.0, "", ["launch.py: broken"])])
    assert bench.report.skipped["start-up, --help"] == "launch.py: broken"
    assert not bench.report.rows


def test_the_scaling_pictures(tmp_path: Path) -> None:
    from app.bench.scaling import CROWD_PX, PEOPLE, SIZES_PX, draw_scaling, growth

    clips = [Clip(CROWD_PX, people, 3) for people in PEOPLE] + [Clip(size_px, 1, 3) for size_px in SIZES_PX.values()]
    times_ms = {Flow(clip, variant): [10.0 * clip.num_people] for clip in clips for variant in ("live", NO_OVERLAY, OVERLAY)}
    rows = flows.flow_rows("scaling", times_ms)
    picture = draw_scaling(tmp_path / "scaling.png", rows)
    assert 5_000 < picture.stat().st_size < 200_000
    assert next(iter(growth(rows))) == "live: 10.0 ms a frame with one person, and 10.0 ms for each further one"


def test_the_chart_is_small(tmp_path: Path) -> None:
    rows = [Row(section, f"row {index}", "", Spread(1.0 + index, 2.0 + index, 3)) for section in "abcd" for index in range(12)]
    assert 5_000 < chart.draw_chart(Report(IDLE, {}, rows), tmp_path / "bench.png").stat().st_size < 200_000
