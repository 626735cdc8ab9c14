"""Expressions: what a speaker's landmarks would be on the neutral face (`ExpressionTransfer` explains the term).

Every speaker's own resting face is estimated from the frames with closed lips and open eyes. What a frame does beyond
it is then put on the neutral face: lips keep their shape about the mouth's centre, as wide as the neutral mouth for
the speaker's own width; lip thickness and everything else change as they do; lids close by the same share.

What a head does is taken out first, since `head_motion` puts it in: heads tip back while they speak, and faces are
then foreshortened. A pose-driven crop keeps its scale by the nose, so that everything in it grows wider, lips too.
Widths are therefore taken against the distance of the eyes, and heights against forehead, eyes and nose.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .. import face_mesh
from ..face_mesh import INNER_LIPS, LIP_RINGS, OUTER_LIPS
from ..image_processing_face import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

CLOSED_QUANTILE, OPEN_EYES_QUANTILE = 0.15, 0.5
# Points whose heights tell how a head is tipped: corners of the eyes, nose, forehead. No ears: landmarkers slide them
# along with the jaw.
RIGID_POINTS = (
    *(*RIGHT_EYE_CORNERS, *LEFT_EYE_CORNERS),
    *(6, 168, 197, 195, 5, 4, 1, 98, 327),
    *(10, 109, 338, 67, 297, 54, 284),
)
MAX_FRAMES = 6000  # of one speaker, evenly spread, that the resting face is estimated from
LIDS = (
    (face_mesh.RIGHT_UPPER_LID, face_mesh.RIGHT_LOWER_LID),
    (face_mesh.LEFT_UPPER_LID, face_mesh.LEFT_LOWER_LID),
)


def resting_face(landmarks: np.ndarray) -> torch.Tensor:
    """Mean `(468, 2)` of the frames `(T, 468, 2)` with the most closed lips and open eyes."""
    landmarks = landmarks[:: max(1, len(landmarks) // MAX_FRAMES)]
    lips = np.linalg.norm(landmarks[:, 13] - landmarks[:, 14], axis=-1)
    pairs = ((159, 145), (386, 374))
    eyes = np.minimum(*(np.linalg.norm(landmarks[:, top] - landmarks[:, bottom], axis=-1) for top, bottom in pairs))
    closed = lips <= np.quantile(lips, CLOSED_QUANTILE)
    closed &= eyes >= np.quantile(eyes[closed], OPEN_EYES_QUANTILE)
    return torch.from_numpy(landmarks[closed].mean(0)).float()


def to_neutral(landmarks: torch.Tensor, resting: torch.Tensor) -> torch.Tensor:
    """Landmarks `(B, 468, 2)` of speakers with resting faces `(B, 468, 2)` → expressions `(B, 468, 2)`."""
    neutral = face_mesh.neutral_landmarks().to(landmarks)
    landmarks = _hold_head(resting, landmarks)
    expression = landmarks + neutral - resting
    inner, outer = list(INNER_LIPS), list(OUTER_LIPS)

    def mouth_width(face):
        return (face[..., outer[10], :] - face[..., outer[0], :]).norm(dim=-1).clamp_min(1e-3)

    width = mouth_width(neutral) / mouth_width(resting)  # (B,)
    size = torch.stack([width, torch.ones_like(width)], -1)[:, None]
    lips = (landmarks[:, inner] - resting[:, outer].mean(1, keepdim=True)) * size + neutral[outer].mean(0)
    for ring in LIP_RINGS[:-1]:
        ring = list(ring)
        change = (landmarks[:, ring] - landmarks[:, inner]) - (resting[:, ring] - resting[:, inner])
        expression[:, ring] = lips + (neutral[ring] - neutral[inner]) + change
    expression[:, inner] = lips
    for upper, lower in LIDS:
        upper, lower = list(upper), list(lower)
        own = (resting[:, lower, 1] - resting[:, upper, 1]).clamp_min(1e-3)
        share = (landmarks[:, lower, 1] - landmarks[:, upper, 1]) / own
        opening = (neutral[lower, 1] - neutral[upper, 1]) * share
        expression[:, upper, 1] = expression[:, lower, 1] - opening
    return expression


def _hold_head(resting: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """`landmarks` `(B, 468, 2)` stretched and shifted so that what no muscle moves lies as in `resting`: across by the
    two eyes, and down by least squares."""

    def eyes(face: torch.Tensor) -> torch.Tensor:  # (B, 2): x of each eye's middle
        return torch.stack([face[:, corners, 0].mean(1) for corners in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS)], 1)

    def line(values: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (B, P) each
        mean, wanted_mean = values.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
        slope = ((values - mean) * (wanted - wanted_mean)).sum(1, keepdim=True)
        slope = slope / (values - mean).square().sum(1, keepdim=True).clamp_min(1e-6)
        return slope, wanted_mean - slope * mean

    rigid = list(RIGID_POINTS)
    held = []
    for axis, points, own in ((0, eyes(landmarks), eyes(resting)), (1, landmarks[:, rigid, 1], resting[:, rigid, 1])):
        slope, offset = line(points, own)
        held.append(landmarks[..., axis] * slope + offset)
    return torch.stack(held, -1)


class Expressions:
    """Expressions of many speakers' frames.

    Args:
        resting: the resting face `(468, 2)` of each speaker, in fractions of the crop's side.
    """

    def __init__(self, resting: dict[str, torch.Tensor]):
        self.resting = resting

    @classmethod
    def of_rows(cls, rows) -> "Expressions":
        """From all frames of a dataset's clips (`avatarsync.data.dataset.Rows`)."""
        of_speaker: dict[str, list[np.ndarray]] = {}
        for index, speaker in enumerate(rows.speakers):
            of_speaker.setdefault(speaker, []).append(rows.landmarks(index))
        return cls({speaker: resting_face(np.concatenate(faces)) for speaker, faces in of_speaker.items()})

    def __call__(self, landmarks: torch.Tensor, speakers: Sequence[str]) -> torch.Tensor:
        """Landmarks `(B, 468, 2)` of frames of `speakers` (B names) → expressions `(B, 468, 2)`."""
        return to_neutral(landmarks, torch.stack([self.resting[speaker] for speaker in speakers]))


__all__ = ["Expressions", "resting_face", "to_neutral"]
