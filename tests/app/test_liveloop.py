"""The loop with a fake camera and fake sinks."""

import threading
import time

import numpy as np
import pytest

from app.governor import Governor
from app.hud import HudMeter
from app.live import LivePipeline
from app.liveloop import LiveLoop, Moment
from tests.app.fakes import TubeEstimator
from tests.app.live_fakes import Kept, begun, fake_camera, open_fake, somebody, until


def test_scenes_reach_the_sinks_in_order_and_all_ends() -> None:
    kept = Kept()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("kept", kept)
        until(lambda: len(kept.scenes) > 20)
        start_s = time.perf_counter()
    assert time.perf_counter() - start_s < 1
    assert kept.closed
    times = [scene.frame.time_s for scene in kept.scenes]
    assert times == sorted(times)
    assert kept.scenes[-1].meshes[0].track_id == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("live-", "camera-"))]


def test_a_failing_sink_is_told_once_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, kept = Kept(breaks_at=3), Kept()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("broken", broken)
        loop.attach("kept", kept)
        until(lambda: len(kept.scenes) > 20)
        assert loop.hud().warnings == ("broken failed: disk full",)
        loop.check()
    assert broken.closed
    assert sum("disk full" in record.message for record in caplog.records) == 1


def test_a_sink_that_takes_long_to_close_does_not_stop_the_loop() -> None:
    class Slow(Kept):
        def close(self) -> None:
            self.closed = may_end.wait(60)

    slow, kept, may_end = Slow(), Kept(), threading.Event()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("slow", slow)
        loop.attach("kept", kept)
        until(lambda: slow.scenes)
        detaching = threading.Thread(target=loop.detach, args=("slow",), daemon=True)
        detaching.start()
        try:
            until(lambda: len(kept.scenes) > len(slow.scenes) + 5, 20)
        finally:
            may_end.set()
        detaching.join(10)
    assert slow.closed


def test_a_failed_sink_that_takes_long_to_close_keeps_nobody_else_waiting() -> None:
    class Stuck(Kept):
        def close(self) -> None:
            closing.set()
            self.closed = may_end.wait(60)

    stuck, kept, closing, may_end = Stuck(breaks_at=0), Kept(), threading.Event(), threading.Event()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("stuck", stuck)
        assert closing.wait(60)
        attaching = threading.Thread(target=loop.attach, args=("kept", kept), daemon=True)
        attaching.start()
        attaching.join(5)
        waited = attaching.is_alive()
        may_end.set()
        assert not waited
        until(lambda: kept.scenes)
    assert stuck.closed


def test_a_failing_model_ends_the_loop_and_reaches_the_main_thread() -> None:
    class Breaks(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            raise RuntimeError("a bug in the model")

    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(Breaks())), Governor(), HudMeter()) as loop:
        until(lambda: loop.finished)
        with pytest.raises(RuntimeError, match="a bug in the model"):
            loop.check()


def test_the_picture_is_shown_while_the_network_loads() -> None:
    loaded = threading.Event()

    def slowly() -> LivePipeline:
        assert loaded.wait(10)
        return open_fake()

    with fake_camera() as camera, LiveLoop(camera, begun(slowly), Governor(), HudMeter()) as loop:
        until(lambda: loop.newest is not None)
        assert not loop.newest.estimated
        assert loop.hud().governor == "loading the network"
        loaded.set()
        until(lambda: loop.newest.estimated and somebody(loop))
        assert loop.hud().governor.startswith("default  |  target"), "and which network it is"


def test_a_slow_network_drops_frames_instead_of_falling_behind() -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.08)
            return super().from_crops(crops)

    ages = []
    with fake_camera(fps=100) as camera, LiveLoop(camera, begun(lambda: open_fake(Slow())), Governor(), HudMeter()) as loop:
        shown: Moment | None = None
        end_s = time.perf_counter() + 2
        while time.perf_counter() < end_s:
            moment = loop.wait_newer(shown, 0.1)
            if moment is not None and moment.estimated:
                ages.append(time.perf_counter() - moment.taken_s)
                shown = moment
        indices = [shown.scene.frame.index]
    assert np.median(ages[len(ages) // 2 :]) < 0.35, "the age of what is shown stays that of one frame's work"
    assert indices[0] > 2 * len(ages), "most frames were skipped"


def test_the_governor_slows_inference_down() -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.015)
            return super().from_crops(crops)

    governor = Governor(target_ms=8.0)
    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(Slow())), governor, HudMeter()) as loop:
        until(lambda: governor.plan.infer_interval_ms > 0, 20)
        assert "inference" in loop.hud().governor


def test_a_slower_way_to_run_the_network_is_shown() -> None:
    slow = TubeEstimator(warning="the network runs in PyTorch, which is slower")
    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(slow)), Governor(), HudMeter()) as loop:
        until(lambda: loop.pipeline is not None and loop.hud().warnings)
        assert loop.hud().lines()[-1] == f"! {slow.warning}"
