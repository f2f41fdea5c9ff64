"""Where the weak-perspective camera comes from: a token in the encoder (the paper), one in the decoder, or the mesh (Table B1)."""

import torch
from torch import Tensor, nn

from core.bodies import Body
from core.registry import Registry

START_CAMERA = (0.9, 0.0, 0.0)
"""A person that fills a crop as ours are cut: saves training the first thousand steps of finding that out."""
MESH_CAMERA_WIDTH = 250
"""Hidden width of METRO's camera head."""

CAMERAS: Registry[type["Camera"]] = Registry("kind of camera")
"""Name -> module(wide, narrow, body)."""


class Camera(nn.Module):
    """The contract.

    num_encoder_tokens, num_decoder_tokens: how many tokens it has there, 0 or 1, before all others
    encoder_tokens, decoder_tokens: these, (1, 0 or 1, wide) and (0 or 1, wide)
    forward(encoded, decoded, coarse): its tokens (B, 0 or 1, narrow) after encoder and decoder, and the coarse mesh (B, C, 3) -> (B, 3)
    """

    num_encoder_tokens = 0
    num_decoder_tokens = 0

    def __init__(self, wide: int, narrow: int, body: Body) -> None:
        super().__init__()
        del narrow, body
        self.token = nn.Parameter(torch.randn(1, wide)) if self.num_encoder_tokens + self.num_decoder_tokens else None
        self.register_buffer("no_token", torch.empty(1, 0, wide), persistent=False)

    @property
    def encoder_tokens(self) -> Tensor:
        """(1, num_encoder_tokens, wide)."""
        return self.token[None] if self.num_encoder_tokens else self.no_token

    @property
    def decoder_tokens(self) -> Tensor:
        """(num_decoder_tokens, wide)."""
        return self.token if self.num_decoder_tokens else self.no_token[0]


def begin_at_start_camera(predictor: nn.Linear) -> nn.Linear:
    """The same layer, whose bias says START_CAMERA."""
    with torch.no_grad():
        predictor.bias.copy_(torch.tensor(START_CAMERA))
    return predictor


class TokenCamera(Camera):
    """A linear layer on the camera's own token, wherever that is."""

    def __init__(self, wide: int, narrow: int, body: Body) -> None:
        super().__init__(wide, narrow, body)
        self.predictor = begin_at_start_camera(nn.Linear(narrow, 3))

    def forward(self, encoded: Tensor, decoded: Tensor, coarse: Tensor) -> Tensor:  # noqa: ARG002  the contract
        """(B, 3) scale, tx, ty."""
        return self.predictor((encoded if self.num_encoder_tokens else decoded)[:, 0])


@CAMERAS.register("encoder")
class EncoderCamera(TokenCamera):
    """A token beside the image's in the encoder, as the paper draws it."""

    num_encoder_tokens = 1


@CAMERAS.register("decoder")
class DecoderCamera(TokenCamera):
    """A token beside those of joints and vertices in the decoder; all see it and it sees all."""

    num_decoder_tokens = 1


@CAMERAS.register("mesh")
class MeshCamera(Camera):
    """No token: three linear layers on the coarse mesh. Source: METRO's camera head, Lin et al. 2021 (microsoft/MeshTransformer)"""

    def __init__(self, wide: int, narrow: int, body: Body) -> None:
        super().__init__(wide, narrow, body)
        self.mix = nn.Linear(3, 1)
        self.hidden = nn.Linear(body.levels.sizes[0], MESH_CAMERA_WIDTH)
        self.predictor = begin_at_start_camera(nn.Linear(MESH_CAMERA_WIDTH, 3))

    def forward(self, encoded: Tensor, decoded: Tensor, coarse: Tensor) -> Tensor:  # noqa: ARG002  the contract
        """(B, 3) scale, tx, ty."""
        return self.predictor(self.hidden(self.mix(coarse)[..., 0]))
