"""Scores of invented estimates on TSV sets, checked against figures worked out by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from core.config import PAPER_CROP_SCALE
from core.errors import InputError
from core.geometry import rotmats_from_rotvecs
from core.joints import JOINT_NAMES
from core.training.metrics import hip_centred
from core.training.samples import FROM_24, Sample
from core.training.scored_sets import PeopleSet, SetScores, official_crop, our_crop
from core.training.tsv_sets import TsvSet
from core.types import CROP_SIZE_PX, MeshEstimate, PersonCrop
from tests.core.training.tsv_files import label, write_set, write_yaml
from tests.toy import ToyBody

KNEE, WRIST = JOINT_NAMES.index("R_Knee"), JOINT_NAMES.index("L_Wrist")
ROTVEC, BETAS = [0.0, 0.3, 0.0, *[0.0] * 69], [0.2, *[0.0] * 9]


@dataclass(frozen=True)
class ToySmpl(ToyBody):
    """The toy body with SMPL's parameters, of which it heeds the first."""

    name: str = "smpl"

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        return super().vertices(pose[:, :1], shape[:, :1])


@dataclass
class Oracle:
    """An estimator that knows the truth of all people in order, and adds what `disturb` makes of (joints, vertices, index)."""

    data: TsvSet
    disturb: object = None
    parametric: bool = False
    body: ToyBody = field(default_factory=ToySmpl)
    config: object = field(default_factory=lambda: SimpleNamespace(crop_scale=PAPER_CROP_SCALE))
    metadata: dict = field(default_factory=dict)
    seen: list[PersonCrop] = field(default_factory=list)

    def from_crops(self, crops: Sequence[PersonCrop]) -> list[MeshEstimate]:
        estimates = [self.estimate(crop, len(self.seen) + number) for number, crop in enumerate(crops)]
        self.seen += crops
        return estimates

    def estimate(self, crop: PersonCrop, index: int) -> MeshEstimate:
        sample = self.data[index]
        joints_m = hip_centred(sample.joints_3d[:, :3])
        vertices_m = true_vertices(self.body, sample)
        if self.disturb:
            joints_m, vertices_m = self.disturb(joints_m.copy(), vertices_m.copy(), index)
        rotmats = rotmats_from_rotvecs(torch.tensor(ROTVEC).view(24, 3)).numpy() if self.parametric else None
        return MeshEstimate(
            vertices_m.astype(np.float32), joints_m.astype(np.float32), sample.joints_2d[:, :2].copy(), np.ones(3, np.float32),
            crop.frame_from_crop, rotmats, np.array(BETAS, np.float32) if self.parametric else None,
        )  # fmt: skip


def true_vertices(body: ToyBody, sample: Sample) -> np.ndarray:
    vertices = body.vertices(rotmats_from_rotvecs(torch.tensor(ROTVEC).view(1, 24, 3)), torch.tensor([BETAS]))
    return (vertices - body.pelvis(vertices)[:, None])[0].numpy()


def person_label(number: int, **changes: object) -> str:
    """Somebody whose joints lie anywhere, with a known pose and shape."""
    joints = np.random.default_rng(number).normal(0, 0.3, (24, 3))
    return json.dumps([label(number, **{"3d_joints": np.c_[joints, np.ones(24)].tolist(), "pose": ROTVEC, "betas": BETAS, **changes})])


def people(folder: Path, labels: list[str], keys: list[str] | None = None) -> Path:
    write_set(folder, len(labels), keys=keys, labels=labels)
    return write_yaml(folder / "train.yaml")


def scored(path: Path, disturb: object = None, limit: int = 0, **options: object) -> tuple[SetScores, Oracle]:
    oracle = Oracle(TsvSet(None, path), disturb, **options)
    chosen = PeopleSet("tsv", path, limit)
    return chosen.score(oracle, chosen.open(oracle), 5), oracle


def test_the_truth_itself_scores_nothing_but_zeros(tmp_path: Path) -> None:
    scores, _ = scored(people(tmp_path, [person_label(n) for n in range(20)]))
    overall = scores.report["overall"]
    assert overall["num_people"] == 20
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "facing_error_median_deg", "facing_over_60_deg", "facing_over_120_deg"):
        assert overall[name] == pytest.approx(0, abs=1e-3), name
    assert scores.report["pck"]["pck"] == 1.0
    assert "motion" not in scores.report
    assert "broken_samples" not in scores.report


def test_errors_by_hand(tmp_path: Path) -> None:
    def knee_off(joints: np.ndarray, vertices: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        joints[KNEE] += (0.03, 0, 0.04)
        vertices[:3] += (0, 0.02, 0)
        return joints, vertices

    report = scored(people(tmp_path, [person_label(n) for n in range(17)]), knee_off)[0].report
    assert report["overall"]["mpjpe_mm"] == pytest.approx(50 / 14, rel=1e-4)
    assert report["overall"]["mpvpe_mm"] == pytest.approx(20 * 3 / 30, rel=1e-4)
    assert report["overall"]["mpvpe_intermediate_mm"] == pytest.approx(20 * 2 / 12, rel=1e-4)  # vertices 0 and 2 are of that level
    assert report["joints_mm"]["R_Knee"] == 50.0
    assert sum(report["joints_mm"].values()) == 50.0
    assert 0 < report["overall"]["pa_mpjpe_mm"] < 10  # least squares spreads one outlier over all joints


def test_scale_and_turn_count_in_mpjpe_not_in_pa(tmp_path: Path) -> None:
    turn = cv2.Rodrigues(np.array([0.0, np.radians(150), 0.0]))[0]

    def turned(joints: np.ndarray, vertices: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        return (1.3 * joints @ turn.T, vertices) if index % 2 else (joints, vertices)

    overall = scored(people(tmp_path, [person_label(n) for n in range(8)]), turned)[0].report["overall"]
    assert overall["mpjpe_mm"] > 100
    assert overall["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-2)
    assert (overall["facing_over_60_deg"], overall["facing_over_120_deg"]) == (0.5, 0.5)


def test_people_without_3d_truth_count_in_2d_only(tmp_path: Path) -> None:
    labels = [person_label(0), person_label(1, has_3d_joints=0), person_label(2, has_smpl=0), person_label(3, has_2d_joints=0)]
    report = scored(people(tmp_path, labels), lambda j, v, i: (j, v + 0.1))[0].report
    assert report["overall"]["num_people"] == 3
    assert report["overall"]["mpvpe_mm"] == pytest.approx(100 * np.sqrt(3), rel=1e-4)  # of the two whose mesh is known
    assert report["pck"]["num_people"] == 3


def test_a_set_without_meshes_has_no_vertex_error(tmp_path: Path) -> None:
    report = scored(people(tmp_path, [person_label(n, has_smpl=0) for n in range(3)]))[0].report
    assert report["overall"]["mpvpe_mm"] is None


def test_without_a_body_to_pose_it_says_so_once(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class CannotPose(ToySmpl):
        def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
            raise InputError("SMPL body: posing needs an SMPL model")

    path = people(tmp_path, [person_label(n) for n in range(40)])
    oracle = Oracle(TsvSet(None, path))
    estimates = oracle.from_crops([our_crop(oracle.data[n]) for n in range(40)])
    blind = SimpleNamespace(body=CannotPose(), config=oracle.config, metadata={})
    blind.from_crops = lambda crops: [estimates.pop(0) for _ in crops]
    chosen = PeopleSet("tsv", path)
    report = chosen.score(blind, chosen.open(blind), 0).report
    assert report["notes"] == ["MPVPE is not measured: SMPL body: posing needs an SMPL model"]
    assert report["overall"]["mpvpe_mm"] is None
    assert report["overall"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_the_parametric_mesh_is_scored_beside_the_free_one(tmp_path: Path) -> None:
    path = people(tmp_path, [person_label(n) for n in range(3)])
    report = scored(path, lambda j, v, i: (j, v + np.float32(0.05)), parametric=True)[0].report
    assert report["overall"]["mpvpe_mm"] == pytest.approx(50 * np.sqrt(3), rel=1e-4)
    assert report["parametric"]["mpvpe_mm"] == pytest.approx(0, abs=1e-3)  # the oracle's parameters are the true ones


def test_trembling_over_a_3dpw_sequence(tmp_path: Path) -> None:
    """A wrist that jumps 10 mm to and fro every frame has second differences of 40 mm in one of 14 joints."""
    steps = [n // 2 for n in range(20)]  # two people, ten frames each
    keys = [f"downtown_bar_00/image_{frame:05d}.jpg" for frame in steps]
    labels = [person_label(n % 2, betas=[0.1 * (n % 2)] * 10) for n in range(20)]

    def trembling(joints: np.ndarray, vertices: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        joints[WRIST, 1] += 0.01 * (-1) ** steps[index]
        return joints + 0.2 * (-1) ** steps[index], vertices  # the whole body's place does not count

    report = scored(people(tmp_path, labels, keys), trembling)[0].report
    motion = report["motion"]
    assert (motion["num_tracks"], motion["num_frames"]) == (2, 20)
    assert motion["acceleration_error_mm_frame2"] == pytest.approx(40 / 14, rel=1e-3)
    assert motion["acceleration_error_m_s2"] == pytest.approx(0.04 * 900 / 14, rel=1e-3)
    assert motion["jitter_m_s2"] == pytest.approx(0.04 * 900 / 14, rel=1e-3)
    assert motion["true_jitter_m_s2"] == pytest.approx(0, abs=1e-6)
    assert report["families"]["downtown_bar"]["num_people"] == 20
    assert "motion" not in scored(tmp_path / "train.yaml", limit=20)[0].report  # what is spread over a set is no motion


def test_broken_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = [person_label(n) for n in range(40)]
    for row in (0, 16, 17, 39):
        labels[row] = "{"
    path = people(tmp_path, labels)
    good = [row for row in range(40) if labels[row] != "{"]
    oracle = Oracle(TsvSet(None, path))
    oracle.data = [oracle.data[row] for row in good]
    chosen = PeopleSet("tsv", path)
    report = chosen.score(oracle, chosen.open(oracle), 3).report
    assert report["broken_samples"] == 4
    assert report["overall"]["num_people"] == 36
    assert report["overall"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)  # nobody was mistaken for a neighbour


def test_nobody_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nobody in it can be used \(3 broken"):
        scored(people(tmp_path, ["{"] * 3))


def test_the_worst_come_first_with_their_picture(tmp_path: Path) -> None:
    def off_by_index(joints: np.ndarray, vertices: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        joints[KNEE, 0] += 0.014 * ((7 * index) % 20)
        return joints, vertices

    scores, oracle = scored(people(tmp_path, [person_label(n) for n in range(20)]), off_by_index)
    assert [round(panel.error) for panel in scores.panels] == [19, 18, 17, 16, 15]
    worst = next(index for index in range(20) if (7 * index) % 20 == 19)
    np.testing.assert_array_equal(scores.panels[0].image, oracle.seen[worst].image)
    np.testing.assert_allclose(scores.panels[0].true_m, hip_centred(oracle.data[worst].joints_3d[:, :3]), atol=1e-6)


def test_a_limit_spreads_over_the_set(tmp_path: Path) -> None:
    path = people(tmp_path, [person_label(n) for n in range(9)])
    oracle = Oracle(TsvSet(None, path))
    oracle.data = [oracle.data[row] for row in (0, 4, 8)]
    chosen = PeopleSet("tsv", path, 3)
    report = chosen.score(oracle, chosen.open(oracle), 0).report
    assert report["overall"]["num_people"] == 3
    assert report["overall"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("crop_scale", "side_px"), [(1.2, 100.0), (1.35, 112.5)])
def test_the_crop_is_as_wide_as_the_network_asks(tmp_path: Path, crop_scale: float, side_px: float) -> None:
    path = people(tmp_path, [person_label(0)])
    _, oracle = scored(path, config=SimpleNamespace(crop_scale=crop_scale))
    assert oracle.seen[0].side_px == pytest.approx(side_px)
    np.testing.assert_allclose(oracle.seen[0].center_px, [80, 60])


@pytest.mark.parametrize(("origin", "kind"), [("official FastMETRO release, a.bin", "official"), ("random weights", "ours")])
def test_official_weights_see_the_official_crop(tmp_path: Path, origin: str, kind: str) -> None:
    path = people(tmp_path, [person_label(0)])
    scores, _ = scored(path, metadata={"origin": origin})
    assert scores.report["crop"] == kind


def noisy_sample(centre_px: tuple[float, float], side_px: float) -> Sample:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8).astype(np.uint8), (0, 0), 4)
    return Sample(image, np.array(centre_px), side_px / 200, np.zeros((24, 3)), np.zeros((24, 4)))


def test_the_official_crop_is_the_releases_arithmetic() -> None:
    sample = noisy_sample((100.2, 71.4), 61.0)
    crop = official_crop(sample)
    part = sample.image[40:101, 69:130]  # 71.4 - 30.5 = 40.9 -> 40, + 61 = 101.9 -> 101
    np.testing.assert_array_equal(crop.image, cv2.resize(part, (CROP_SIZE_PX, CROP_SIZE_PX), interpolation=cv2.INTER_LINEAR))
    np.testing.assert_allclose(crop.frame_from_crop @ [0, 0, 1], [69, 40])
    np.testing.assert_allclose(crop.frame_from_crop @ [224, 224, 1], [130, 101])


@pytest.mark.parametrize("centre_px", [(100.0, 75.0), (10.0, 8.0), (195.0, 140.0), (400.0, 75.0)])
def test_both_crops_show_the_same_place(centre_px: tuple[float, float]) -> None:
    sample = noisy_sample(centre_px, 90.0)
    ours, official = our_crop(sample), official_crop(sample)
    difference = np.abs(ours.image.astype(int) - official.image.astype(int))[8:-8, 8:-8]
    assert np.percentile(difference, 97) < 8
    np.testing.assert_allclose(ours.frame_from_crop, official.frame_from_crop, atol=0.02)


def test_from_24_joints_the_release_takes_these_14() -> None:
    assert [*range(13), 18] == FROM_24
    assert replace(noisy_sample((1, 1), 5), has_2d=True).joints_2d.shape == (14, 3)
