import time
from dataclasses import replace

import numpy as np
import pytest

from app import tiers
from app.config import LiveConfig
from app.page.models import Networks
from app.tiers import BUDGET_MS, CALM_S, COST, CROWDED_S, QUICKER, Tier, Tiered, crop_ms, open_for_camera, tier_for
from core.checkpoint import known_checkpoints
from core.types import PersonCrop


class Timed:
    """An estimator that takes its time; the first crop takes ten times as long, as with real ones."""

    body, warning = None, ""

    def __init__(self, ms: float) -> None:
        self.ms, self.crops = ms, []

    def from_crops(self, crops: list[PersonCrop]) -> list[None]:
        self.crops += crops
        time.sleep(self.ms / 1e3 * (10 if len(self.crops) == 1 else 1))
        return [None]


def opened(config: LiveConfig, ms: float) -> tuple[str, list[str]]:
    """What a camera gets, and what was loaded, on a machine where the quicker network takes `ms`."""
    loaded: list[str] = []

    def load(wanted: LiveConfig) -> Timed:
        loaded.append(wanted.checkpoint)
        return Timed(ms)

    return open_for_camera(config, load)[0].checkpoint, loaded


def test_a_slow_machine_gets_the_quicker_network_and_a_quick_one_the_better() -> None:
    config = LiveConfig(device="cpu")
    assert opened(config, 1.5 * BUDGET_MS / COST) == ("default-live", ["default-live"])
    assert opened(config, 0.2 * BUDGET_MS / COST) == ("default", ["default-live", "default"])


@pytest.mark.parametrize(("share", "most"), [(0.9, 1), (0.45, 2), (0.3, 3)])
def test_the_better_one_is_for_as_many_people_as_there_is_time_for(share: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tiers.crop_ms", lambda estimator: share * BUDGET_MS / COST)
    tier = tier_for(LiveConfig(device="cpu"), lambda wanted: Timed(0))
    assert tier == Tier("default", most)
    assert str(tier) == f"default with {most} {'person' if most == 1 else 'people'} in the picture, default-live with more"


class Named:
    """An estimator whose estimates are its checkpoint's name."""

    body, warning = None, ""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def from_crops(self, crops: list[int]) -> list[str]:
        return [self.checkpoint] * len(crops)


def test_a_crowd_gets_the_quicker_one_and_somebody_alone_the_better_one_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    times_s = iter(np.arange(0, 1000, 0.1))
    network = Tiered(Named("default"), Named("default-live"), 1, lambda: next(times_s))
    many, few = round(CROWDED_S * 10), round(CALM_S * 10)

    def names(num_people: int, frames: int) -> list[str]:
        found = []
        for _ in range(frames):
            answers = network.from_crops([0] * num_people)
            assert answers == [network.checkpoint] * num_people
            found.append(network.checkpoint)
        return found

    assert set(names(1, 100)) == {"default"}
    for _ in range(20):  # somebody passes by
        assert set(names(2, many - 1) + names(1, 1)) == {"default"}
    assert names(3, many + 2)[-1] == "default-live"
    assert set(names(3, 100) + names(1, few - 1) + names(2, 1) + names(1, few - 1)) == {"default-live"}
    names(2, 1)
    assert names(0, few + 2)[-1] == "default", "an empty room is no crowd"
    assert [record.getMessage() for record in caplog.records] == [
        "camera: default-live from here on; people in the picture: 3", "camera: default from here on; people in the picture: 0",
    ]  # fmt: skip


def test_two_cameras_of_the_page_have_crowds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.page.models.open_estimator", lambda config: Named(config.checkpoint))
    monkeypatch.setattr("app.page.models.check_fits", lambda estimator, config: None)
    monkeypatch.setattr("app.tiers.crop_ms", lambda estimator: 0.7 * BUDGET_MS / COST)
    networks = Networks(LiveConfig(device="cpu"))
    (config, one), (_, other) = (networks.for_camera(networks.config) for _ in range(2))
    assert config.checkpoint == "default"
    assert one is not other
    assert one.from_crops([0]) == ["default"]


def test_what_somebody_names_he_gets() -> None:
    for name in ("default-live", "mine.safetensors"):
        assert opened(LiveConfig(device="cpu", checkpoint=name), 1e-3) == (name, [name])


def test_a_gpu_has_time_for_the_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.estimator.choose_device", lambda wanted: ("cuda", "as asked"))
    assert opened(LiveConfig(device="cuda"), 100.0) == ("default", ["default"])


def test_other_settings_stay() -> None:
    config = LiveConfig(device="cpu", precision="fp32", max_people=2)
    found, _ = open_for_camera(config, lambda wanted: Timed(100.0))
    assert found == replace(config, checkpoint="default-live")


def test_the_page_times_once_and_its_cameras_share_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[float] = []
    monkeypatch.setattr("app.page.models.open_estimator", lambda config: config.checkpoint)
    monkeypatch.setattr("app.page.models.SharedEstimator", lambda estimator: f"shared {estimator}")
    monkeypatch.setattr("app.page.models.check_fits", lambda estimator, config: None)
    monkeypatch.setattr("app.tiers.crop_ms", lambda estimator: timed.append(1.0) or BUDGET_MS)
    networks = Networks(LiveConfig(device="cpu"))
    for _ in range(2):
        config, shared = networks.for_camera(networks.config)
        assert (config.checkpoint, shared) == ("default-live", "shared default-live")
    assert len(timed) == 1
    assert networks.estimator(networks.config) == "default", "jobs still get the better one"


def test_the_first_crop_does_not_count() -> None:
    estimator = Timed(4.0)
    assert 4.0 <= crop_ms(estimator) < 20.0
    assert estimator.crops[0].image.shape == (224, 224, 3)
    assert estimator.crops[0].image.dtype == np.uint8


def test_every_name_in_the_table_is_shipped() -> None:
    assert {*QUICKER, *QUICKER.values()} <= set(known_checkpoints())
    assert tiers.COST > 1
