"""Keypoint feedback: where the backbone sees keypoints near the projected mesh, mesh and camera are moved towards them.

A network on 7x7 features knows roughly where an elbow is; a backbone with heat maps (MoveNet's) knows it to a pixel, but not whose
elbow it is, nor how deep. So the keypoints are read near where the mesh would have them, as evidence that a decoder layer weighs.
Source of the idea: mesh alignment feedback, PyMAF, Zhang et al. 2021, which samples feature maps at the projected vertices.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from core.geometry import hip_centred, project
from core.joints import JOINT_NAMES, KEYPOINT_NAMES, LIMB_JOINT_NAMES, indices
from core.tokens import rest_places_m
from core.transformer import DecoderLayer

if TYPE_CHECKING:
    from core.backbones import KeypointChannels
    from core.bodies import Body

REACHES = (0.07, 0.14, 0.28, 0.56)
"""Crop units (half the crop is 1): how near is near, as standard deviations."""
NUM_MEASURED = 3 * len(REACHES) + 2
UNSURE = 0.02
"""Of a squared heat: evidence of a heat of 0.14 counts half."""
SPREAD_M = 0.15
"""How far along the rest mesh a joint's evidence counts at first, a standard deviation."""
CAMERA_WIDTH, CAMERA_REACH = 64, 2
SMALLEST_SCALE = 0.1
OFFSET_SCALE = 10.0
"""Offsets are mostly below a tenth of the crop; features are best about 1."""


def offsets_near(evidence: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """How far keypoints are from where they were expected.

    evidence: (B, 3K, h, w) of core.backbones.movenet.evidence        places: (B, K, 2) crop units
    returns: offsets (B, R, K, 2) in crop units, of the evidence within each of the R REACHES, and how sure it is (B, R, K) in 0..1
    """
    height, width = evidence.shape[-2:]
    peak, across, down = (part.flatten(2) for part in evidence.float().chunk(3, 1))  # (B, K, cells)
    x = _centres(width, evidence.device).repeat(height) + across / (peak + 1e-6) / width
    y = _centres(height, evidence.device).repeat_interleave(width) + down / (peak + 1e-6) / height
    dx, dy = x - places[..., :1], y - places[..., 1:]
    squared = dx * dx + dy * dy
    offsets, sure = [], []
    for reach in REACHES:
        weight = peak * peak * torch.exp(squared * (-0.5 / reach**2))
        total = weight.sum(-1)
        offsets.append(torch.stack([(weight * dx).sum(-1), (weight * dy).sum(-1)], -1) / (total + UNSURE)[..., None])
        sure.append(total / (total + UNSURE))
    return torch.stack(offsets, 1), torch.stack(sure, 1)


def fitted_camera(places: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Zoom and shift of the picture plane that move places (B, K, 2) by offsets (B, K, 2) best: (B, 3), least squares, drawn to 0.

    weights: (B, K). A place p goes to p + zoom * p + shift.
    """
    total = weights.sum(1, keepdim=True) + 1.0
    middle, shift = ((weights[..., None] * value).sum(1) / total for value in (places, offsets))
    centred = places - middle[:, None]
    zoom = (weights[..., None] * centred * offsets).sum((1, 2)) / ((weights[..., None] * centred * centred).sum((1, 2)) + 0.5)
    return torch.cat([zoom[:, None], shift - zoom[:, None] * middle], 1)


def _centres(count: int, device: torch.device) -> Tensor:
    """(count,) middles of cells in crop units."""
    return (torch.arange(count, device=device, dtype=torch.float32) * 2 + 1) / count - 1


class KeypointFeedback(nn.Module):
    """Some rounds of the same correction. At first it corrects nothing: what it adds begins at 0.

    Places and corrections are float32 whatever the tokens are: half a pixel is a thousandth of the crop, finer than bfloat16's steps.
    """

    def __init__(self, rounds: int, width: int, layer: tuple[int, int, float, float], source: "KeypointChannels", body: "Body") -> None:
        """layer: heads, ratio of the feed-forward net, dropout, dropout of attention; source: where the evidence is."""
        super().__init__()
        self.rounds, self.source = rounds, source
        self.register_buffer("keypoints", torch.tensor(indices(LIMB_JOINT_NAMES, KEYPOINT_NAMES)), persistent=False)
        self.joints = indices(LIMB_JOINT_NAMES)
        joints_m, vertices_m = rest_places_m(body)
        distance = torch.cdist(torch.cat([joints_m, vertices_m]), joints_m[self.joints])
        self.spread = nn.Parameter(torch.softmax(-0.5 * (distance / SPREAD_M) ** 2, 1))
        self.entry = nn.Sequential(nn.Linear(NUM_MEASURED, width), nn.ReLU(), nn.Linear(width, width))
        self.layer = DecoderLayer(width, *layer)
        for parameter in self.layer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(width)
        self.move, self.follow = nn.Linear(width, 3), nn.Linear(NUM_MEASURED, 3, bias=False)
        self.camera = nn.Sequential(nn.Linear(len(self.joints) * NUM_MEASURED + 3, CAMERA_WIDTH), nn.ReLU(), nn.Linear(CAMERA_WIDTH, 3))
        self.refit = nn.Parameter(torch.zeros(3))
        for last in (self.move, self.follow, self.camera[-1]):
            nn.init.zeros_(last.weight)
        nn.init.zeros_(self.move.bias)
        nn.init.zeros_(self.camera[-1].bias)

    def forward(
        self,
        features: Tensor,
        image: Tensor,
        position: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        camera: Tensor,
        joints: Tensor,
        coarse: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Camera (B, 3), joints (B, 14, 3) and coarse mesh (B, C, 3) corrected.

        features: (B, C, 7, 7); image: (B, 49, D) with its position (49, D); tokens: (B, 14 + C, D) behind the decoder
        """
        evidence = features[:, self.source.first : self.source.first + 3 * len(KEYPOINT_NAMES)].float() / self.source.scale
        evidence = evidence.unflatten(1, (3, -1)).index_select(2, self.keypoints).flatten(1, 2)
        points = torch.cat([joints, coarse], 1)
        for _ in range(self.rounds):
            scale = camera[:, :1].detach().clamp(min=SMALLEST_SCALE)
            measured, refit = self._measure(evidence, camera.detach(), points.detach())
            tokens = self.layer(tokens + self.spread @ self.entry(measured.to(self.spread.dtype)), image, position, mask)
            said = self.norm(tokens).to(self.move.weight.dtype)
            with torch.autocast(said.device.type, enabled=False):
                moved = self.move(said).float()
                followed = self.spread.float() @ self.follow(measured).float()
                # As rows of one: OpenVINO 2026.4 dies while it compiles two dense layers on a single vector for one thread.
                change = self.camera(torch.cat([measured.flatten(1), refit], 1)[:, None])[:, 0].float() + self.refit * refit
            points = points + moved + followed / (OFFSET_SCALE * scale[..., None])
            camera = torch.cat([camera[:, :1] * (1 + change[:, :1]), camera[:, 1:] + change[:, 1:] / scale], 1)
        return camera, points[:, : joints.shape[1]], points[:, joints.shape[1] :]

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What must stay in float32 where the rest is not."""
        return self.move, self.follow, self.camera

    def _measure(self, evidence: Tensor, camera: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each joint's evidence (B, K, NUM_MEASURED), and the refitted camera (B, 3)."""
        places = project(hip_centred(points[:, : len(JOINT_NAMES)])[:, : len(self.joints)], camera)
        offsets, sure = offsets_near(evidence, places)
        refit = fitted_camera(places, offsets[:, CAMERA_REACH], sure[:, CAMERA_REACH])
        scaled = (OFFSET_SCALE * offsets).transpose(1, 2).flatten(2)
        return torch.cat([scaled, sure.transpose(1, 2), places], 2), refit
