"""Progressive dimensionality reduction: from the first transformer's width to the second's."""

from torch import Tensor, nn

from core.registry import Registry

REDUCTIONS: Registry[type[nn.Module]] = Registry("kind of reduction")
"""Name -> module(wide, narrow): (camera, image, tokens), each (B, L, wide) -> the same three, (B, L, narrow)."""


@REDUCTIONS.register("shared")
class SharedReduction(nn.Module):
    """One layer for all that comes from the encoder, one for what comes from the decoder: the paper's architecture."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.encoded, self.decoded = nn.Linear(wide, narrow), nn.Linear(wide, narrow)

    def forward(self, camera: Tensor, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera, image and decoder tokens, narrow."""
        return self.encoded(camera), self.encoded(image), self.decoded(tokens)


@REDUCTIONS.register("separate")
class SeparateReduction(nn.Module):
    """A layer for each: the released weights' architecture."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.camera, self.image, self.tokens = (nn.Linear(wide, narrow) for _ in range(3))

    def forward(self, camera: Tensor, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera, image and decoder tokens, narrow."""
        return self.camera(camera), self.image(image), self.tokens(tokens)


@REDUCTIONS.register("none")
class NoReduction(nn.Module):
    """For transformers of one width, as in the baseline of the supplement's Table B1."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        del wide, narrow

    def forward(self, camera: Tensor, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All as they are."""
        return camera, image, tokens
