"""Draws the poses of synthetic people, with no renderer: procedural ones and those of a pose source, seen from the same views."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.joints import JOINT_NAMES
from core.training.pose_sources import open_pose_sources
from core.training.poses import CLOSE_WEIGHTS, FAMILIES, FAMILY_WEIGHTS, PoseSampler
from core.training.views import FRAMING_NAMES, Views

RECORDED = "mocap"
"""Family of poses that come from a pose source."""
FAMILY_NAMES = (*FAMILIES, RECORDED)


class Posing:
    """Draws poses of one body; recorded_share of them come from the sources of these names, see core.training.pose_sources."""

    def __init__(self, body: AnnyBody, poses: Sequence[str], recorded_share: float) -> None:
        self.recorded, self.recorded_share = open_pose_sources(poses, body), recorded_share
        self.sampler = PoseSampler(body, 0)
        self._hands = [i for i, name in enumerate(body.bone_names) if name.startswith("finger")]

    def draw(self, random: np.random.Generator, views: Views) -> tuple[Tensor, np.ndarray]:
        """(rotmats (B, J, 3, 3), family (B,) index into FAMILY_NAMES): procedural poses, and where there is a pose source its share."""
        self.sampler.random = random
        count = len(views.framing)
        close = views.framing == FRAMING_NAMES.index("webcam")
        everywhere, before_webcams = (random.choice(len(FAMILIES), count, p=shares) for shares in (FAMILY_WEIGHTS, CLOSE_WEIGHTS))
        batch = self.sampler.sample(count, np.where(close, before_webcams, everywhere), views.rotmats)
        if self.recorded is None:
            return batch.rotmats, batch.family
        chosen = random.random(count) < self.recorded_share
        poses = self.recorded.sample(random, count)
        poses[:, 0] = torch.from_numpy(views.rotmats.astype(np.float32)) @ poses[:, 0]
        poses[:, self._hands] = batch.rotmats[:, self._hands]
        rotmats = torch.where(torch.from_numpy(chosen)[:, None, None, None], poses, batch.rotmats)
        return rotmats, np.where(chosen, FAMILY_NAMES.index(RECORDED), batch.family)


def plausible(joints_m: np.ndarray) -> np.ndarray:
    """(B, 14, 3) -> (B,) bool: no wrist or elbow inside the trunk, no leg inside the other."""
    at = {name: joints_m[:, index] for index, name in enumerate(JOINT_NAMES)}
    hip, neck = (at["R_Hip"] + at["L_Hip"]) / 2, at["Neck"]
    size = np.linalg.norm(neck - hip, axis=1)
    fine = np.ones(len(joints_m), bool)
    for name in ("R_Wrist", "L_Wrist", "R_Elbow", "L_Elbow"):
        trunk = neck - hip
        along = np.clip(((at[name] - hip) * trunk).sum(1) / (trunk**2).sum(1), -0.1, 1)
        fine &= np.linalg.norm(at[name] - hip - along[:, None] * trunk, axis=1) > 0.26 * size
    for name in ("Knee", "Ankle"):
        fine &= np.linalg.norm(at[f"R_{name}"] - at[f"L_{name}"], axis=1) > 0.17 * size
    return fine
