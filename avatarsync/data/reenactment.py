"""Reenactment: a still portrait takes over the expression of a frame of a talking video.

Clean talking video of many people is rare, portraits are not. A portrait and a driver frame make a training picture
whose expression is known exactly: the portrait is warped by the transferred landmarks. Inside the opened mouth the
portrait's own teeth stay where they are, as upper teeth do; the rest comes from the driver, matched in colour.
"""

import torch

from ..expression_transfer import ExpressionTransfer
from ..warping import mesh_flow, soften, warp

# Cheeks and chin sides: skin whose colour tells how the two faces are lit.
SKIN_LANDMARKS = (50, 280, 205, 425, 151)
EDGE_SOFTNESS = 0.006  # of the crop's side
# The driver's mouth is filmed at few pixels and compressed; without more contrast its teeth are a grey smear.
INTERIOR_CONTRAST = 1.35


def skin_colour(image: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Mean skin colour `(B, 3)` of crops `(B, 3, S, S)` at landmarks `(B, 468, 2)` in fractions of S."""
    size = image.shape[-1]
    places = (landmarks[:, list(SKIN_LANDMARKS)] * size).round().long().clamp(0, size - 1)  # (B, 5, 2)
    batch = torch.arange(len(image), device=image.device)[:, None]
    return image[batch, :, places[..., 1], places[..., 0]].mean(1)


def reenact(
    portraits: torch.Tensor,
    portrait_landmarks: torch.Tensor,
    drivers: torch.Tensor,
    driver_landmarks: torch.Tensor,
    transfer: ExpressionTransfer,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each portrait its driver's expression.

    Args:
        portraits, drivers: crops `(B, 3, S, S)` in [0, 255].
        portrait_landmarks, driver_landmarks: `(B, 468, 2)` in fractions of S. The driver's are its expression: the
            driver is the speaker of the neutral face.

    Returns:
        Pictures `(B, 3, S, S)` in [0, 255] and their landmarks `(B, 468, 2)`.
    """
    size = portraits.shape[-1]
    neutral = transfer.neutral.expand_as(portrait_landmarks)
    target = transfer(portrait_landmarks, driver_landmarks, neutral)
    flow, mouth = mesh_flow(portrait_landmarks * size, target * size, size)
    pictures = warp(portraits, flow, mode="bicubic")
    mouth_flow, _ = mesh_flow(driver_landmarks * size, target * size, size)
    interior = warp(drivers, mouth_flow, mode="bicubic")
    own, other = skin_colour(portraits, portrait_landmarks) + 1, skin_colour(drivers, driver_landmarks) + 1
    # Brightness rather than hue: teeth take on the portrait's light, not its complexion.
    gain = 0.15 * own / other + 0.85 * own.mean(1, keepdim=True) / other.mean(1, keepdim=True)
    level = (interior * mouth).sum((2, 3), keepdim=True) / mouth.sum((2, 3), keepdim=True).clamp_min(1)
    interior = (level + INTERIOR_CONTRAST * (interior - level)) * gain[:, :, None, None]
    # Well inside the portrait's own open mouth: its rim is lip as often as tooth.
    _, own_mouth = mesh_flow(portrait_landmarks * size, portrait_landmarks * size, size)
    teeth = (2 * soften(own_mouth, EDGE_SOFTNESS * size) - 1).clamp_min(0)
    interior = interior.clamp(0, 255) * (1 - teeth) + portraits * teeth
    opacity = soften(mouth, EDGE_SOFTNESS * size)
    pictures = pictures * (1 - opacity) + interior * opacity
    return pictures.clamp(0, 255), target
