"""Bodies posed for those who work in NumPy."""

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from core.bodies import Body


@torch.inference_mode()
def posed_meshes(body: "Body", rotmats: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What parameters (B, J, 3, 3) and (B, S) pose, the pelvis at 0: vertices (B, V, 3) and joints (B, 14, 3), metres."""
    vertices = body.vertices(*(torch.from_numpy(np.ascontiguousarray(values)) for values in (rotmats, shape)))
    vertices = vertices - body.pelvis(vertices)[:, None]
    return vertices.numpy(), body.joints(vertices).numpy()
