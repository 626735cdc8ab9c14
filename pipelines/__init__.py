"""The high-level way in: a portrait and a text or a voice become a talking video."""

from .streaming import FrameStream
from .talking_head import AvatarSyncPipeline

__all__ = ["AvatarSyncPipeline", "FrameStream"]
