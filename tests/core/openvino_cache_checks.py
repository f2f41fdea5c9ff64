import hashlib
import logging
import os
from pathlib import Path

import pytest
import torch

import core.answers
import core.openvino_compiled
import core.openvino_files
import core.openvino_network
import core.person_finder
from core.cpu import has_fast_bf16_cpu
from core.errors import InputError
from core.model import FastMETRO
from core.openvino_compiled import SUFFIX, Compilation
from core.openvino_files import DRAFT_LIFE_S, cached_file, tidy, write
from core.openvino_network import OpenVinoNetwork, quantised_file
from core.sealed import DRAFT
from tests.core.openvino_toys import CROPS, assert_near, damaged, not_again, original, toy, without_compiled

pytest.importorskip("openvino", reason="OpenVINO is optional: `pip install openvino`")


@pytest.fixture
def model() -> FastMETRO:
    return toy()


def test_the_cache_is_used_and_a_broken_one_made_again(model: FastMETRO, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    OpenVinoNetwork(model, "fp32", tmp_path)
    (path,) = tmp_path.glob("*.xml")
    without_compiled(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.openvino_network, "convert", not_again)
        OpenVinoNetwork(model, "fp32", tmp_path)
    weights, digest = path.with_suffix(".bin"), path.with_suffix(".json")
    for broken, content in ((path, b"<net"), (weights, damaged(weights.read_bytes())), (weights, None), (digest, b"\xff")):
        without_compiled(tmp_path)
        if content is None:
            broken.unlink()
        else:
            broken.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            network = OpenVinoNetwork(model, "fp32", tmp_path)
        assert "is made again" in caplog.text
        caplog.clear()
        assert network(CROPS).joints.shape == (2, 14, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.openvino_network, "convert", not_again)
        OpenVinoNetwork(model, "fp32", tmp_path)


def test_what_was_compiled_is_used_and_compiled_again_where_it_is_broken(
    model: FastMETRO, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = OpenVinoNetwork(model, "fp32", tmp_path)
    files = sorted(tmp_path.glob(f"*{SUFFIX}"))
    assert len(files) == 2, "for any number of crops, and for one"
    expected = made(CROPS)

    def assert_used(threads: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(core.openvino_compiled, "compile_network", not_again)
            patch.setattr(torch, "get_num_threads", lambda: threads)
            assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), expected, 1e-6)
        assert not caplog.records

    assert_used(1)
    assert_used(2)
    monkeypatch.setattr(core.openvino_network, "convert", not_again)
    whole = files[0].read_bytes()
    for content in (damaged(whole), whole[: len(whole) // 2], b"", None):
        if content is None:
            files[0].unlink()
        else:
            files[0].write_bytes(content)
        assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), expected, 1e-6)
        assert ("the compiled network" in caplog.text and "is damaged); it is made again" in caplog.text) == (content is not None)
        caplog.clear()
        assert_used(1)
    (tmp_path / files[0].name).write_bytes(hashlib.sha256(b"nonsense").digest() + b"nonsense")
    assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), expected, 1e-6)
    assert "RuntimeError" in caplog.text


def test_the_original_is_asked_once_for_its_weights_and_code(model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def num_asked() -> int:
        asked = []
        with monkeypatch.context() as patch:
            forward = core.openvino_network.Exported.forward
            patch.setattr(core.openvino_network.Exported, "forward", lambda *inputs: asked.append(1) or forward(*inputs))
            assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), original(model, CROPS), 1e-5)
        return len(asked)

    assert num_asked() > 0
    assert num_asked() == 0
    (kept,) = tmp_path.glob(f"*{core.answers.SUFFIX}")
    for content in (damaged(kept.read_bytes()), b"", None):
        if content is None:
            kept.unlink()
        else:
            kept.write_bytes(content)
        assert num_asked() == 1
        assert num_asked() == 0
    monkeypatch.setattr(core.answers, "code_digest", lambda: "other code")
    assert num_asked() > 0
    assert num_asked() == 0


@pytest.mark.parametrize("factor", [2, 1.0005], ids=["other", "nearly the same"])
def test_what_other_code_made_is_not_used(
    factor: float, model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However near its answers are: they would be off for as long as the cache lasts."""
    OpenVinoNetwork(model, "fp32", tmp_path)
    points = FastMETRO.points
    monkeypatch.setattr(core.answers, "code_digest", lambda: "other code")
    monkeypatch.setattr(FastMETRO, "points", lambda *inputs: tuple(factor * values for values in points(*inputs)))
    assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), original(model, CROPS), 1e-5)
    assert not caplog.records


def test_an_8_bit_network_of_other_code_is_refused(model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = core.openvino_network.convert(core.openvino_network.Exported(model))
    write(core.openvino_files.silent_openvino(), network, quantised_file(model, tmp_path), "not of 8 bits, but kept as such")
    assert OpenVinoNetwork(model, "int8", tmp_path).words.endswith("kept as such")
    monkeypatch.setattr(core.answers, "code_digest", lambda: "other code")
    with pytest.raises(InputError, match=r"was made by other code than this; make it with `python -m core\.quantize"):
        OpenVinoNetwork(model, "int8", tmp_path)


def test_other_precisions_and_processors_have_other_compiled_files(
    model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> set[str]:
        return {path.name for path in tmp_path.glob(f"*{SUFFIX}")}

    OpenVinoNetwork(model, "fp32", tmp_path)
    exact = names()
    OpenVinoNetwork(model, "bf16", tmp_path)
    assert len(names()) == (4 if has_fast_bf16_cpu() else 2)
    openvino = core.openvino_files.silent_openvino()
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: "another processor")
    before = names()
    OpenVinoNetwork(model, "fp32", tmp_path)
    assert len(names() - before) == 2
    assert exact <= names()


@pytest.mark.parametrize("compiled", [False, True], ids=["converted", "compiled"])
def test_a_file_of_another_network_is_found_out(compiled: bool, model: FastMETRO, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = toy(masked=False, tokens="template")
    for network in (model, other):
        OpenVinoNetwork(network, "fp32", tmp_path / network.config.tokens)
    (ours,), (theirs,) = ((tmp_path / kind).glob("*.xml") for kind in ("learned", "template"))
    if not compiled:
        without_compiled(tmp_path / "learned")
        without_compiled(tmp_path / "template")
    for file in theirs.parent.glob(f"{theirs.stem}.*"):
        (ours.parent / file.name.replace(theirs.stem, ours.stem)).write_bytes(file.read_bytes())
    assert_near(OpenVinoNetwork(model, "fp32", ours.parent)(CROPS), original(model, CROPS), 1e-5)
    assert "it does not say what the network says" in caplog.text


def test_other_weights_have_another_file(model: FastMETRO, tmp_path: Path) -> None:
    before = cached_file(model, "1", tmp_path)
    assert cached_file(model, "2", tmp_path) != before
    model.mask[0, 0] += 1
    other_mask = cached_file(model, "1", tmp_path)
    with torch.no_grad():
        model.backbone.mix.bias += 1e-3
    assert len({before, other_mask, cached_file(model, "1", tmp_path)}) == 3


def test_no_cache_folder_is_no_obstacle(model: FastMETRO, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        network = OpenVinoNetwork(model, "fp32", tmp_path / "file" / "folder")
    assert network(CROPS).joints.shape == (2, 14, 3)
    assert "cannot be kept" in caplog.text


def test_a_cache_folder_that_may_not_be_looked_at_is_no_obstacle(model: FastMETRO, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long"):
        (folder / "file").is_file()
    assert OpenVinoNetwork(model, "fp32", folder)(CROPS).joints.shape == (2, 14, 3)


def test_the_network_of_a_quicker_process_stays(model: FastMETRO, tmp_path: Path) -> None:
    openvino = core.openvino_files.silent_openvino()
    network = core.openvino_network.convert(core.openvino_network.Exported(model))
    path = tmp_path / "network.xml"
    path.write_text("theirs")
    nothing = Compilation("fp32", (), CROPS, list)
    core.openvino_files.keep(openvino, path, (), nothing, network, replaces=False)
    assert path.read_text() == "theirs"
    core.openvino_files.keep(openvino, path, (), nothing, network, replaces=True)
    assert path.read_text() != "theirs"
    core.openvino_files.read(openvino, path)


def test_what_was_used_longest_ago_leaves_the_cache(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "used", "old", "int8-made")):
        for suffix in (".xml", ".bin", ".json", f".0123{SUFFIX}"):
            (tmp_path / name).with_suffix(suffix).write_bytes(bytes(75))
        os.utime((tmp_path / name).with_suffix(".xml"), (1000 - age, 1000 - age))
    unfinished, left = tmp_path / f"{DRAFT}now", tmp_path / f"{DRAFT}then"
    for folder in (unfinished, left):
        folder.mkdir()
    past_s = left.stat().st_mtime - DRAFT_LIFE_S - 60
    os.utime(left, (past_s, past_s))
    tidy(tmp_path, 600)
    assert {path.name.split(".")[0] for path in tmp_path.glob("*.*")} == {"newest", "used", "int8-made"}
    tidy(tmp_path, 10)
    assert {path.name.split(".")[0] for path in tmp_path.glob("*.*")} == {"newest", "int8-made"}
    assert unfinished.is_dir()
    assert not left.exists()


def test_compiled_files_that_nobody_uses_go_as_well(tmp_path: Path) -> None:
    names = ("net.xml", f"net.01{SUFFIX}", f"orphan.01{SUFFIX}", "int8-made.xml", "int8-made.bin", f"int8-made.01{SUFFIX}")
    for age, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    tidy(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {*names[:2], "int8-made.xml", "int8-made.bin"}


def test_the_network_that_runs_stays_however_old_it_is(model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OpenVinoNetwork(model, "fp32", tmp_path)
    (ours,) = tmp_path.glob("*.xml")
    without_compiled(tmp_path)
    os.utime(ours, (1000, 1000))
    other = tmp_path / "other.xml"
    other.write_bytes(bytes(10**6))
    monkeypatch.setattr(core.openvino_files, "MAX_KEPT_BYTES", 10**6)
    OpenVinoNetwork(model, "fp32", tmp_path)
    assert ours.exists() and not other.exists()


def test_what_cannot_be_exported_is_no_obstacle(
    model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("not this one")

    monkeypatch.setattr(core.openvino_compiled.Compilation, "keep", fails)
    with caplog.at_level(logging.INFO):
        assert OpenVinoNetwork(model, "fp32", tmp_path)(CROPS).joints.shape == (2, 14, 3)
    assert "cannot be kept" in caplog.text and "not this one" in caplog.text
