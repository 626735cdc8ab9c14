"""Which pixels move with the head: an ellipse about the face, beyond which the motion fades out."""

from dataclasses import dataclass

import numpy as np

from .face_mesh import FACE_OVAL
from .smooth_step import smooth_step

# The head that moves as one: an ellipse about the face oval, in its half width and half height to the side, up (hair)
# and down (chin); and how much larger the ellipse is in which the motion has faded out.
HEAD_SIDE, HEAD_ABOVE, HEAD_BELOW, HEAD_FADE = 1.2, 1.45, 1.05, 1.8


@dataclass
class HeadRegion:
    """The head as an ellipse, in the units of its landmarks.

    Attributes:
        centre, half: `(2,)` of the face oval.
        pivot: `(2,)`, what the head rolls about, below the chin.
    """

    centre: np.ndarray
    half: np.ndarray
    pivot: np.ndarray

    @classmethod
    def of_landmarks(cls, landmarks: np.ndarray) -> "HeadRegion":
        """The head of an upright face, landmarks `(468, 2)`."""
        oval = landmarks[list(FACE_OVAL)]
        low, high = oval.min(0), oval.max(0)
        centre, half = (low + high) / 2, (high - low) / 2
        return cls(centre, half, centre + (0, 1.3 * half[1]))

    def box(self) -> np.ndarray:
        """Corners `(4, 2)` of the box beyond which nothing moves."""
        left, right = self.centre[0] - np.array([1, -1]) * HEAD_FADE * HEAD_SIDE * self.half[0]
        top = self.centre[1] - HEAD_FADE * HEAD_ABOVE * self.half[1]
        bottom = self.centre[1] + HEAD_FADE * HEAD_BELOW * self.half[1]
        return np.array([[left, top], [right, top], [left, bottom], [right, bottom]])

    def distance(self, places: np.ndarray) -> np.ndarray:
        """Distance of places `(h, w, 2)` from the centre: 1 on the ellipse, `HEAD_FADE` where motion ends."""
        across, down = ((places - self.centre) / self.half).transpose(2, 0, 1)
        return np.hypot(across / HEAD_SIDE, np.where(down < 0, down / HEAD_ABOVE, down / HEAD_BELOW))

    def share(self, places: np.ndarray) -> np.ndarray:
        """How far places `(h, w, 2)` go along with the head: 1 on it, 0 far from it, smoothly."""
        return smooth_step((HEAD_FADE - self.distance(places)) / (HEAD_FADE - 1))


def head_shifts(places: np.ndarray, centre: np.ndarray, pivot: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Where the pixels of a head that moves a little are fetched from, for each of its four directions.

    Args:
        places: `(h, w, 2)`, where the crop is [-1, 1].
        centre: `(2,)` of the face, which keeps its height when the face becomes higher.
        pivot: `(2,)`, what the head rolls about.
        share: `(h, w)`, how far each place goes along.

    Returns:
        `(4, h, w, 2)`: times a pose's x, y (fractions of the crop's side), roll (radians) and height (all so small
        that they can be summed), and summed, they are to be added to `places`.
    """
    across, down = (places - pivot).transpose(2, 0, 1)
    below = places[..., 1] - centre[1]
    nothing = np.zeros_like(share)
    shifts = [(-2 * share, nothing), (nothing, -2 * share), (share * down, -share * across), (nothing, -share * below)]
    return np.stack([np.stack(pair, -1) for pair in shifts])
