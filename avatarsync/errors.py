"""Errors that a user can act on. Each message names the fix; the command line prints it in one line and exits 2."""


class AvatarSyncError(Exception):
    """Base of every error that bad input causes."""


class AvatarSyncWarning(UserWarning):
    """What is done as asked, and is probably not what was meant."""


class InvalidArgumentError(AvatarSyncError, ValueError):
    """Arguments that contradict each other, or an option out of its range."""


class InvalidImageError(AvatarSyncError, ValueError):
    """The portrait is not a picture that can be read, or is too small or too large."""


class FaceNotFoundError(AvatarSyncError, ValueError):
    """No face in the portrait."""


class FaceTooSmallError(AvatarSyncError, ValueError):
    """A face too small to be animated."""


class FaceTurnedError(AvatarSyncError, ValueError):
    """A face turned so far aside that half of its mouth is not seen."""


class MouthCoveredError(AvatarSyncError, ValueError):
    """Something lies over the mouth."""


class MultipleFacesError(AvatarSyncError, ValueError):
    """Several faces of about the same size: which one speaks is the user's choice."""


class InvalidAudioError(AvatarSyncError, ValueError):
    """The recording cannot be read, is truncated, or is too short or too long."""


class SilentAudioError(InvalidAudioError):
    """The recording holds no speech."""


class EmptyTextError(AvatarSyncError, ValueError):
    """No text to speak, or nothing in it that the voice can say."""


class UnknownLanguageError(AvatarSyncError, ValueError):
    """A language or voice that the speech synthesiser does not have."""


class AlignmentError(AvatarSyncError, RuntimeError):
    """The transcript could not be aligned with the recording."""


class InvalidTrackError(AvatarSyncError, ValueError):
    """A phoneme track that overlaps itself, runs backwards or cannot be read."""


class InvalidMappingError(AvatarSyncError, ValueError):
    """A Phoneme-to-Visual Mapping table that is incomplete or malformed."""


class InvalidFrameRateError(AvatarSyncError, ValueError):
    """A frame rate outside 10 to 60 frames per second."""


class OutputError(AvatarSyncError, OSError):
    """The output exists already or cannot be written."""


class ModelLoadError(AvatarSyncError):
    """A model folder that is missing, incomplete or of another type.

    No OSError: `transformers.pipeline` would catch it, and raise a ValueError with the trace of two attempts instead.
    """


class MissingDependencyError(AvatarSyncError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class DatasetError(AvatarSyncError, ValueError):
    """Training data that is missing, empty, unreadable or of another schema version."""


class CheckpointError(AvatarSyncError, RuntimeError):
    """A training checkpoint that is missing, incomplete or belongs to another configuration."""


class AdapterError(AvatarSyncError, ValueError):
    """An adapter that is missing, damaged or made for another base, or an identity that is not loaded."""
