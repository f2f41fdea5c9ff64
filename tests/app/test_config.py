"""Flags and defaults."""

from dataclasses import fields

import pytest

from app.config import (
    MODE_FLAGS,
    DetectConfig,
    LiveConfig,
    PageConfig,
    SmoothConfig,
    TrackConfig,
    default_of,
    flag_fields,
    idle_flags,
)  # fmt: skip


def test_every_setting_has_help() -> None:
    for config in (LiveConfig, PageConfig, DetectConfig, TrackConfig, SmoothConfig):
        for item in fields(config):
            if item.default_factory in (DetectConfig, TrackConfig, SmoothConfig):
                continue
            assert item.metadata["help"].strip(), item.name


def test_flags_are_those_of_the_contract() -> None:
    names = {item.name for item in flag_fields()}
    assert names == {
        "checkpoint", "body", "mesh_dir", "parametric", "mesh", "device", "precision", "detector", "max_people", "smoothing", "focal_px",
        "overwrite", "vmc", "motion",
        "record", "record_pictures", "show_hidden", "overlay", "glb", "headless", "mirror", "loop", "duration_s", "target_ms",
    }  # fmt: skip
    assert LiveConfig(**{item.name: default_of(item) for item in flag_fields()}) == LiveConfig()
    of_page = flag_fields(PageConfig)
    assert {item.name for item in of_page} == {"host", "port", "https", "auth", "max_upload_mb", "max_video_s"}
    assert PageConfig(**{item.name: default_of(item) for item in of_page}) == PageConfig()


@pytest.mark.parametrize("bad", [
    {"max_people": 0}, {"focal_px": 0.0}, {"focal_px": -5.0}, {"focal_px": float("nan")}, {"record_pictures": True},
    {"duration_s": 0.0}, {"duration_s": float("nan")}, {"target_ms": 0.0}, {"target_ms": float("nan")},
])  # fmt: skip
def test_bad_values_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        LiveConfig(**bad)


def test_every_flag_has_an_effect_somewhere() -> None:
    named = {name for names in MODE_FLAGS.values() for name in names}
    assert named == {item.name for item in flag_fields()}


def test_flags_without_effect_are_named_as_they_are_typed() -> None:
    config = LiveConfig(overlay=False, glb=True, duration_s=3.0)
    assert idle_flags("video", config) == ["--duration-s"]
    assert idle_flags("webcam", config) == ["--no-overlay", "--glb"]
    assert idle_flags("check", LiveConfig()) == []
