"""The losses of FKG's second phase, in decoded pixel space (section Facial training strategy, Eq. 7–10).

N is the number of pictures, all losses are means over them. Networks are frozen and real pictures are constants, so
that gradients reach the generated pictures alone.
"""

from dataclasses import dataclass

import torch
from torch import nn

from .errors import InvalidArgumentError
from .identity import FaceEmbedding
from .perceptual import PerceptualDistance


def lpips_loss(perceptual: PerceptualDistance, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Eq. 7, scalar: the perceptual distance of pictures `(N, 3, H, W)` in [-1, 1], averaged over N."""
    return perceptual(generated, real.detach()).mean()


def embedding_cosine(
    embedding: FaceEmbedding,
    generated: torch.Tensor,
    real: torch.Tensor,
    landmarks: torch.Tensor | None = None,
    real_landmarks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cosine `(N,)` of the embeddings of generated and real crops.

    Args:
        generated, real: `(N, 3, H, W)` in [-1, 1].
        landmarks: `(N, 468, 2)` of the generated crops, in fractions of their sides; None: the usual place.
        real_landmarks: of the real ones; None: the same as `landmarks`.
    """
    with torch.no_grad():
        target = embedding(real, landmarks if real_landmarks is None else real_landmarks)
    return (embedding(generated, landmarks) * target).sum(-1)


def identity_loss(cosine: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Eq. 8, scalar: `1/N Σ (1 - cos) · w_id` of the cosines `(N,)` in the identity embedding."""
    return (1 - cosine).mean() * weight


def facial_similarity_loss(cosine: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Eq. 9, scalar: `1/N Σ 0.5 · d_cos · w_fs` of the cosines `(N,)` in FaceNet512's (or another) embedding, with the
    cosine distance `d_cos = 1 - cos`."""
    return (0.5 * (1 - cosine)).mean() * weight


@dataclass(frozen=True)
class LossWeights:
    """λ1 … λ4 of Eq. 10 and the weights inside Eq. 8 and 9. The paper gives no values; these are plain sums.

    How far apart strangers are differs between embeddings, which is what the inner weights are for: their cosine
    distance is about 0.16 by dlib's embedding and about 1 by ArcFace (docs/feature_networks.md). A λ of 0 leaves its
    term out, network and all.
    """

    reconstruction: float = 1.0  # λ1
    lpips: float = 1.0  # λ2
    identity: float = 1.0  # λ3
    facial_similarity: float = 1.0  # λ4
    identity_weight: float = 1.0  # w_id
    facial_similarity_weight: float = 1.0  # w_fs

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise InvalidArgumentError(f"The loss weight {name} must be a number from 0 up, not {value}.")


@dataclass
class CompositeLossOutput:
    """Eq. 10 and its terms.

    Args:
        total: scalar, to be differentiated.
        terms: scalar of each term before its λ, detached, by a name that says which network measured it, such as
            "identity/dlib ResNet-29 (face_recognition_resnet_model_v1)".
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]


class CompositeLoss(nn.Module):
    """Eq. 10: `λ1 · reconstruction + λ2 · lpips + λ3 · identity + λ4 · facial similarity`.

    Args:
        weights: the λ's and w's.
        perceptual, identity, facial_similarity: networks of the terms whose λ is not 0. The same embedding may serve
            both last terms; it then runs once.

    Raises:
        InvalidArgumentError: a term has a weight but no network.
    """

    def __init__(
        self,
        weights: LossWeights,
        perceptual: PerceptualDistance | None = None,
        identity: FaceEmbedding | None = None,
        facial_similarity: FaceEmbedding | None = None,
    ):
        super().__init__()
        for name, weight, network in (
            ("lpips", weights.lpips, perceptual),
            ("identity", weights.identity, identity),
            ("facial_similarity", weights.facial_similarity, facial_similarity),
        ):
            if weight and network is None:
                raise InvalidArgumentError(f"The {name} loss has weight {weight} but no network; or use weight 0.")
        self.weights = weights
        self.perceptual = perceptual if weights.lpips else None
        self.identity = identity if weights.identity else None
        self.facial_similarity = facial_similarity if weights.facial_similarity else None

    def forward(
        self,
        reconstruction: torch.Tensor,
        generated: torch.Tensor,
        real: torch.Tensor,
        landmarks: torch.Tensor | None = None,
        real_landmarks: torch.Tensor | None = None,
    ) -> CompositeLossOutput:
        """
        Args:
            reconstruction: scalar, Eq. 6 (`KeyframeOutput.loss`).
            generated, real: crops `(N, 3, H, W)` in [-1, 1].
            landmarks, real_landmarks: `(N, 468, 2)`, as in `embedding_cosine`.
        """
        weights, real = self.weights, real.detach()
        total = weights.reconstruction * reconstruction
        terms = {"reconstruction": reconstruction.detach()}
        if self.perceptual is not None:
            loss = lpips_loss(self.perceptual, generated, real)
            total = total + weights.lpips * loss
            terms[f"lpips/{self.perceptual.name}"] = loss.detach()
        cosine = None
        if self.identity is not None:
            cosine = embedding_cosine(self.identity, generated, real, landmarks, real_landmarks)
            loss = identity_loss(cosine, weights.identity_weight)
            total = total + weights.identity * loss
            terms[f"identity/{self.identity.name}"] = loss.detach()
        if self.facial_similarity is not None:
            if self.facial_similarity is not self.identity:
                cosine = embedding_cosine(self.facial_similarity, generated, real, landmarks, real_landmarks)
            loss = facial_similarity_loss(cosine, weights.facial_similarity_weight)
            total = total + weights.facial_similarity * loss
            terms[f"facial_similarity/{self.facial_similarity.name}"] = loss.detach()
        return CompositeLossOutput(total, terms)
