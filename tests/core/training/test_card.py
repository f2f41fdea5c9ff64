import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.checkpoint import save_checkpoint
from core.errors import InputError
from core.training import card, curves
from core.training.curves import loss_terms, read_journal, series
from core.training.failures import known_failures
from core.training.sources import (
    NO,
    SOURCES,
    UNKNOWN,
    YES,
    commercial_use,
    people_sources,
    read_sources,
    said_by,
    sources_of,
    write_sources,
)
from core.training.tables import Table, people_table
from tests.core.training.toy_people import TINY, tiny_model

SCORES = {
    "num_people": 200, "mpjpe_mm": 90.0, "pa_mpjpe_mm": 60.0, "mpvpe_mm": 95.0, "facing_error_median_deg": 9.0,
    "facing_over_60_deg": 0.05, "projection_error_px": 5.0, "facing_over_120_deg": 0.01,
}  # fmt: skip


def person_scores(**changes: float) -> dict[str, object]:
    return {**SCORES, **changes}


def report(checkpoint: str = "best", mpjpe_mm: float = 90.0) -> dict[str, object]:
    families = {
        "standing": person_scores(num_people=150, pa_mpjpe_mm=50.0),
        "lying": person_scores(num_people=40, pa_mpjpe_mm=120.0),
        "inverted": person_scores(num_people=3, pa_mpjpe_mm=400.0),
    }
    joints = {"R_Ankle": 150.0, "L_Ankle": 140.0, "R_Hip": 20.0}
    synthetic = {"overall": person_scores(mpjpe_mm=mpjpe_mm), "families": families, "joints_mm": joints, "aligned_joints_mm": joints}
    return {"checkpoint": checkpoint, "estimator": "tiny on cpu, fp32", "synthetic": synthetic}


METADATA = {
    "licence": "MIT", "origin": "trunk full.safetensors, transformer from random weights", "samples_seen": 1_234_567, "training_hours": 2.5,
    "data": {"people": "synthetic, anny", "pictures": 65_500, "pose_families": ["standing", "lying"], "sources": ["procedural", "cmu"]},
    "scores": {"synthetic": person_scores(), "keypoints": None},
    "training": {"batch": 64, "lr": 8e-4}, "loss_weights": {"edges": 1.0, "off": 0.0},
}  # fmt: skip


def write_journal(path: Path) -> None:
    lines = []
    for step in range(1, 9):
        samples = 1000 * step
        lines.append({"samples": samples, "lr": 1e-4, "loss": 2 / step, "edges": 0.5 / step, "samples_per_s": 100})
        if step % 2 == 0:
            lines.append({"samples": samples, "synthetic": person_scores(mpjpe_mm=300 / step), "keypoints": {"pck": 0.1 * step}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run."""
    folder = tmp_path / "first"
    (folder / "pictures").mkdir(parents=True)
    save_checkpoint(folder / "best.safetensors", tiny_model(), TINY, METADATA)
    write_journal(folder / "log.jsonl")
    (folder / "evaluation.json").write_text(json.dumps(report()))
    cv2.imwrite(str(folder / "worst.png"), np.full((2000, 2016, 3), 120, np.uint8))
    for number, shade in ((1000, 0), (8000, 255)):
        cv2.imwrite(str(folder / "pictures" / f"{number:09d}.png"), np.full((484, 2016, 3), shade, np.uint8))
    return folder


def test_a_card_tells_what_the_run_left(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert card.write_card(run, out) == out / "model-card.md"
    text = (out / "model-card.md").read_text()
    parameters = sum(tensor.numel() for tensor in tiny_model().state_dict().values())
    for said in (
        "# first: model card", "`tiny`", f"{parameters / 1e6:.1f} M parameters", "1.35 times as wide", "1,234,567",
        "hours of training: 2.5",
        "65,500", "edges 1", "mocap.cs.cmu.edu", "Commercial use: yes", "| lying | 40 | 90.0 | 120.0 |",
        "| R_Ankle | 150 | 150 |",
        "lying 120 (everybody 60)", "5.0 % by more than 60 degrees, 1.0 % by more than 120 degrees", "R_Ankle 150, L_Ankle 140",
    ):  # fmt: skip
        assert said in text, said
    assert "off 0" not in text
    assert str(tmp_path) not in text
    for name in ("curves.png", "worst.jpg", "people.jpg"):
        assert f"({name})" in text
        assert 0 < (out / name).stat().st_size < 300_000
    assert cv2.imread(str(out / "worst.jpg")).shape == (round(726 * 1344 / 2016), 1344, 3)  # three rows of the sheet
    assert cv2.imread(str(out / "people.jpg")).mean() > 250  # the newest


def test_without_an_evaluation_the_trainings_own_scores_are_shown_as_such(run: Path, tmp_path: Path) -> None:
    for name in ("evaluation.json", "worst.png", "log.jsonl"):
        (run / name).unlink()
    text = card.write_card(run, tmp_path).read_text()
    assert "Measured by the training itself" in text
    assert "| overall | 200 | 90.0 | 60.0 | 95.0 |" in text
    assert "curves.png" not in text and "worst.jpg" not in text


def test_first_and_new_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    first, new = tmp_path / "first.json", tmp_path / "new.json"
    first.write_text(json.dumps(report("default", 170.0)))
    new.write_text(json.dumps(report("runs/new/best.safetensors", 90.0)))
    text = card.write_card(run, tmp_path / "out", [first, new]).read_text()
    assert "|  | default | best | change |" in text
    assert "| MPJPE mm | 170.0 | 90.0 | -80.0 |" in text
    assert "| people | 200 | 200 |  |" in text
    assert "| lying | 40 | 120.0 | 120.0 | +0.0 |" in text


def test_pictures_of_real_people_stay_out(run: Path, tmp_path: Path) -> None:
    metadata = {**METADATA, "run": {"data": {"train": {"kind": "tsv", "path": "datasets/3dpw/train.yaml"}, "validation": {"kind": "tsv"}}}}
    save_checkpoint(run / "best.safetensors", tiny_model(), TINY, metadata)
    text = card.write_card(run, tmp_path / "out").read_text()
    assert "people.jpg" not in text and not (tmp_path / "out" / "people.jpg").exists()
    assert "Commercial use: no: 3DPW" in text


def test_the_command_takes_runs_and_checkpoints(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert card.main([str(run / "best.safetensors"), "--out", str(tmp_path / "a"), "--evaluation", str(run / "evaluation.json")]) == 0
    assert card.main([str(run), "--out", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "a" / "model-card.md"), str(tmp_path / "b" / "model-card.md")]
    (run / "best.safetensors").rename(run / "last.safetensors")
    assert card.main([str(run), "--out", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    (run / "last.safetensors").write_bytes(b"junk")
    for flags, message in (
        ([run], "no checkpoint of ours"),
        ([tmp_path / "none.safetensors"], "no such file"),
        ([tmp_path], "holds no best"),
    ):
        assert card.main([*map(str, flags), "--out", str(tmp_path / "d")]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_sources_may_be_told(run: Path, tmp_path: Path) -> None:
    save_checkpoint(run / "best.safetensors", tiny_model(), TINY, {**METADATA, "data": {}})
    assert "Commercial use: not known" in card.write_card(run, tmp_path / "a").read_text()
    text = card.write_card(run, tmp_path / "a", sources=["makehuman", "hdri"]).read_text()
    assert "MakeHuman poses" in text and "light probes" in text and "Commercial use: yes" in text
    with pytest.raises(InputError, match="unknown data source 'tv'"):
        card.write_card(run, tmp_path / "a", sources=["tv"])


def test_a_resumed_and_cut_log_counts_each_sample_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"samples": n, "loss": 1.0} for n in (1, 2, 3, 4)] + [{"samples": n, "loss": 0.5} for n in (3, 4, 5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"samples": 6, "lo')
    records = read_journal(path)
    assert [(record["samples"], record["loss"]) for record in records] == [(1, 1.0), (2, 1.0), (3, 1.0), (3, 0.5), (4, 0.5), (5, 0.5)]
    assert "1 lines are damaged" in caplog.text


def test_series_and_terms(tmp_path: Path) -> None:
    write_journal(tmp_path / "log.jsonl")
    records = read_journal(tmp_path / "log.jsonl")
    assert loss_terms(records) == ["edges"]
    xs, ys = series(records, ("keypoints", "pck"), 100)
    assert xs == pytest.approx([0.002, 0.004, 0.006, 0.008])
    assert ys == pytest.approx([20, 40, 60, 80])
    assert series([{"samples": 1, "keypoints": None}], ("keypoints", "pck")) == ([], [])


def test_the_curves_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "log.jsonl")
    assert curves.main([str(tmp_path)]) == 0
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5
    (tmp_path / "log.jsonl").write_text("")
    assert curves.main([str(tmp_path)]) == 1
    assert "holds no records" in capsys.readouterr().err


def test_what_is_worst_is_told_and_small_groups_are_not() -> None:
    lines = known_failures(report())
    assert any("worst pose families by PA-MPJPE, mm: lying 120 (everybody 60)" in line for line in lines)
    assert not any("inverted" in line or "standing" in line for line in lines)
    calm = {"jitter_m_s2": 5.0, "true_jitter_m_s2": 5.0}
    motion = {"tsv": {"3dpw/test.yaml": {"overall": person_scores(), "motion": {**calm, "jitter_m_s2": 20.0}, "broken_samples": 3}}}
    assert any("trembles: acceleration 20.0 m/s2, the people's own is 5.0" in line for line in known_failures(motion))
    assert any("3 samples of the set are broken" in line for line in known_failures(motion))
    motion["tsv"]["3dpw/test.yaml"]["motion"] = calm
    assert not any("trembles" in line for line in known_failures(motion))
    assert known_failures({}) == []


@pytest.mark.parametrize(
    ("metadata", "names", "commercial"),
    [
        ({"origin": "trunk", "data": {"sources": ["cmu"]}}, {"Anny", "BlazePose (full) trunk", "CMU motion capture"}, "yes"),
        ({"origin": "trunk", "data": {}}, {"Anny", "BlazePose (full) trunk", "poses and backgrounds of the synthetic people"}, "not known"),
        ({"origin": "random", "run": {"data": {"train": {"kind": "tsv", "path": "my/a.yaml"}}}}, {"Anny", "data set my/a.yaml"}, "not"),
        ({"origin": "random", "run": {"data": {"train": {"kind": "clips"}}}}, {"Anny", "data set clips"}, "not known: data set clips"),
        ({"origin": "random", "data": {"sources": ["deepmimic", "odd"]}}, {"Anny", "DeepMimic motions", "odd"}, "not known: odd"),
        ({"origin": "random", "data": {"sources": [{"name": "mine", "commercial": "yes"}]}}, {"Anny", "mine"}, "yes"),
        ({"origin": "trunk", "data": {"sources": ["amass"]}}, {"Anny", "BlazePose (full) trunk", "AMASS"}, "no: AMASS"),
    ],
)  # fmt: skip
def test_sources_and_what_they_allow(metadata: dict[str, object], names: set[str], commercial: str) -> None:
    sources = sources_of({"body": "anny", "backbone": "blazepose"}, metadata)
    assert {source.name for source in sources} == names
    assert commercial_use(sources).startswith(commercial)


def test_shards_note_what_they_are_made_of(tmp_path: Path) -> None:
    assert read_sources(tmp_path) == []
    write_sources(tmp_path, people_sources(["fitted"], [Path("rooms")]))
    write_sources(tmp_path, people_sources(["fitted", "clips/mine.bvh"], [], ["makehuman"]))
    unknown = {"name": "backgrounds, rooms", "what": "backgrounds"}
    assert read_sources(tmp_path) == ["procedural", "fitted", unknown, "makehuman"]
    sources = sources_of({"body": "anny"}, {"origin": "random", "data": {"sources": read_sources(tmp_path)}})
    assert commercial_use(sources) == "not known: backgrounds, rooms"
    with pytest.raises(InputError, match="unknown data source 'tv'"):
        people_sources([], [], ["tv"])
    (tmp_path / "sources.json").write_text('"cmu"')
    with pytest.raises(InputError, match="expected a list"):
        read_sources(tmp_path)


@pytest.mark.parametrize(
    ("train", "commercial"),
    [
        ({"kind": "synthetic"}, "yes"),
        ({"kind": "synthetic", "poses": "fitted", "backgrounds": "data/rooms"}, "not known: backgrounds, rooms"),
        ({"kind": "synthetic", "poses": ["fitted", "amass/CMU"]}, "not known: poses, CMU"),
        ({"kind": "shards", "path": "data/train"}, "not known: poses and backgrounds"),
    ],
)
def test_a_config_of_synthetic_people_implies_its_sources(train: dict[str, object], commercial: str) -> None:
    sources = sources_of({"body": "anny", "backbone": "blazepose"}, {"origin": "trunk", "run": {"data": {"train": train}}})
    assert commercial_use(sources).startswith(commercial)


def test_metros_mix_and_official_weights_are_research_only() -> None:
    run = {"data": {"train": {"kind": "tsv", "path": "datasets/Tax-H36m-coco40k-Muco-UP-Mpii/train.yaml"}}}
    for metadata in ({"origin": "ImageNet weights", "run": run}, {"origin": "official FastMETRO release, a.bin"}):
        sources = sources_of({"body": "smpl", "backbone": "resnet50"}, metadata)
        assert {"Human3.6M", "COCO with SMPL fits", "MuCo-3DHP", "UP-3D", "MPII Human Pose", "SMPL", "ImageNet weights"} <= {
            s.name for s in sources
        }
        assert commercial_use(sources).startswith("no: ")


def test_sources_outlive_training_from_a_checkpoint() -> None:
    """Poses that may not be sold, then two trainings on our own people; official weights; and a network that began with random weights."""
    config, own = {"body": "anny", "backbone": "blazepose"}, {"origin": "checkpoint a.safetensors", "data": {"sources": ["procedural"]}}
    first = {"origin": "trunk", "data": {"sources": ["amass", {"name": "mine", "commercial": "yes"}]}}
    second = {**own, "start": said_by(config, first)}
    third = {**own, "start": said_by(config, second)}
    assert third["start"]["sources"][:3] == ["anny", "blazepose", "amass"]
    for metadata in (second, third):
        sources = sources_of(config, metadata)
        assert [source.name for source in sources[2:]] == ["AMASS", "mine", "procedural poses, clothes and rooms"]
        assert commercial_use(sources) == "no: AMASS"
    official = said_by({"body": "smpl", "backbone": "resnet50"}, {"origin": "official FastMETRO release, a.bin"})
    assert {"Human3.6M", "3DPW"} <= {source.name for source in sources_of({"body": "smpl"}, {**own, "start": official})}
    scratch = said_by(config, {"origin": "random weights", "data": {"sources": ["cmu"]}})
    assert [source.name for source in sources_of(config, {**own, "start": scratch})] == [
        "Anny", "CMU motion capture", "procedural poses, clothes and rooms",
    ]  # fmt: skip


def test_a_card_names_what_its_first_checkpoint_began_with(run: Path, tmp_path: Path) -> None:
    start = said_by(TINY.to_dict(), {"origin": "official FastMETRO release, a.bin"})
    metadata = {**METADATA, "origin": "checkpoint a.bin", "start": start}
    save_checkpoint(run / "best.safetensors", tiny_model(), TINY, metadata)
    text = card.write_card(run, tmp_path / "out").read_text()
    assert "first weights: checkpoint a.bin (official FastMETRO release, a.bin)" in text
    assert "Commercial use: no: Human3.6M" in text


def test_every_source_says_whether_it_may_be_sold() -> None:
    assert {SOURCES[name].commercial for name in SOURCES} <= {YES, NO, UNKNOWN}
    with pytest.raises(InputError, match="known: anny"):
        SOURCES["nowhere"]


def test_tables_line_up_and_escape() -> None:
    table = Table("a set", ("", "x"), (("long name", "1"), ("b|c", "22")))
    assert table.text().splitlines() == ["a set       x", "long name   1", "b|c        22"]
    assert table.markdown().splitlines()[-1] == "| b\\|c | 22 |"
    missing = people_table("set", {"overall": person_scores(mpvpe_mm=None, facing_over_120_deg=None)})
    assert missing.header == ("", "people", "MPJPE mm", "PA-MPJPE mm", "facing deg", "off > 60 deg %", "2D error px")
