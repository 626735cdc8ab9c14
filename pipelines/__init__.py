"""The high-level way in: a portrait and a text or a voice become a talking video."""

from avatarsync.pipelines.streaming import FrameStream
from avatarsync.pipelines.talking_head import AvatarSyncPipeline

__all__ = ["AvatarSyncPipeline", "FrameStream"]
