"""Adapters: what fine-tuning on one person leaves on disk, and how a model and a pipeline wear it.

    ADAPTER/adapter_config.json          peft's LoraConfig
    ADAPTER/adapter_model.safetensors    LoRA weights of painter, expression decoder, keyframe generator, interpolator
    ADAPTER/references.safetensors       pictures of the person and the resting face; the base's digest as metadata
    ADAPTER/README.md, comparison.png    card and before/after sheet, for people

The folder is a Hub repository as it stands. `training/finetune_lora.py` makes it; docs/fine_tuning.md explains it.

LoRA layers stay beside the base's weights and are never merged into them unless `merge_and_unload` is asked for, so
that taking an adapter off brings the base back bit for bit.
"""

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.integrations import peft as integration
from transformers.utils.peft_utils import check_peft_version

from .data.expressions import to_neutral
from .errors import AdapterError, MissingDependencyError
from .modeling_visual_tokenizer import Reference, VisualTokenizerModel

CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "references.safetensors",
)
REFERENCES_VERSION = "1"
# What landmarks, and not the encoder, say of a known person's portrait: share of its expression.
LANDMARKS_SAY = 1 / 3
# What an adapter may change; the face aligner serves everybody.
STAGES = ("visual_tokenizer", "keyframe_generator", "interpolation")
HUB_ID = r"[\w.-]+/[\w.-]+"
# peft writes names into the keys of its layers, where a dot would part them.
ADAPTER_NAME = r"[A-Za-z0-9_-]+"
MAKE_ONE = "give a folder or Hub id that training/finetune_lora.py made"


def require_peft() -> None:
    """Raises MissingDependencyError where peft is not installed, or is older than transformers asks for."""
    advice = 'pip install "avatarsync[adapter]" (or -e ".[adapter]" in a checkout)'
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(f"adapters need peft: {advice}") from error
    try:
        check_peft_version(min_version=integration.MIN_PEFT_VERSION)
    except ValueError as error:
        raise MissingDependencyError(
            f"transformers {transformers.__version__} asks for peft {integration.MIN_PEFT_VERSION} or newer, this is "
            f"{peft.__version__}: {advice}, which installs versions that fit each other"
        ) from error


def base_digest(model: nn.Module) -> str:
    """Sixteen digits that say which base weights an `AvatarSyncModel` has, whatever adapters it wears."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.split(".")[0] in STAGES and ".lora_" not in name:
            digest.update(name.replace(".base_layer.", ".").encode())
            digest.update(value.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()[:16]


@dataclass
class PersonReferences:
    """Pictures of a person that go with the LoRA weights; N references, crops of S pixels.

    - The resting face tells what expression a portrait of this person has by its landmarks, where a model without
      adapter has to guess it.
    - The keyframe generator may be told the codes of one of them in the place of the portrait's, where its lips were
      better so on frames that were not learned from.

    Args:
        pixels: `(N, 3, S, S)` uint8; the first is the resting face.
        landmarks: `(N, 468, 2)` in fractions of S.
        resting_landmarks: `(468, 2)`, mean of the frames with closed lips and open eyes.
        digest: `base_digest` of the model that the adapter was made for.
        base: that model's name, for messages.
        speaking: index of the reference whose codes the keyframe generator is told; None: the portrait's own.
    """

    pixels: torch.Tensor
    landmarks: torch.Tensor
    resting_landmarks: torch.Tensor
    digest: str
    base: str
    speaking: int | None = None

    def save(self, folder: Path) -> None:
        tensors = {name: getattr(self, name).contiguous() for name in ("pixels", "landmarks", "resting_landmarks")}
        metadata = {"format": "pt", "version": REFERENCES_VERSION, "base_digest": self.digest, "base": self.base}
        if self.speaking is not None:
            metadata["speaking_reference"] = str(self.speaking)
        save_file(tensors, folder / REFERENCES_FILE, metadata)

    @classmethod
    def load(cls, folder: Path) -> "PersonReferences":
        """Raises AdapterError where the file is missing, damaged, or of another version."""
        file = folder / REFERENCES_FILE
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if metadata.get("version") != REFERENCES_VERSION:
                raise AdapterError(
                    f"{file} has version {metadata.get('version')}, this code reads {REFERENCES_VERSION}: fine-tune "
                    "again with training/finetune_lora.py"
                )
            speaking = metadata.get("speaking_reference")
            speaking = None if speaking is None else range(len(tensors["pixels"]))[int(speaking)]
            return cls(digest=metadata["base_digest"], base=metadata["base"], speaking=speaking, **tensors)
        except AdapterError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise AdapterError(f"{folder} is no adapter of a person ({error!r}): {MAKE_ONE}") from error

    @torch.no_grad()
    def expressions(self, tokenizer: VisualTokenizerModel, landmarks: torch.Tensor) -> torch.Tensor:
        """What faces `(B, 468, 2)` of this person show, on the neutral face `(B, 468, 2)`."""
        resting = self.resting_landmarks.to(landmarks)
        return to_neutral(landmarks, resting.expand(len(landmarks), -1, -1)).to(tokenizer.dtype)

    @torch.no_grad()
    def codes(self, tokenizer: VisualTokenizerModel) -> torch.Tensor:
        """Continuous codes `(N, K, D)` of the references."""
        pixels = self.pixels.to(tokenizer.device, tokenizer.dtype) / 127.5 - 1
        return tokenizer.encode(pixels)

    @torch.no_grad()
    def personalise(self, tokenizer: VisualTokenizerModel, reference: Reference) -> Reference:
        """One reference `(1, …)`, a portrait of this person, as this person's.

        Its expression lies between the guess that it comes with and what its landmarks say: they tremble, and a head
        that is turned a little looks like an expression. By the landmarks alone, what is drawn is less like the person
        (docs/fine_tuning.md).
        """
        known = self.expressions(tokenizer, reference.landmarks)
        personal = replace(reference, expression=torch.lerp(reference.expression.to(known), known, LANDMARKS_SAY))
        if self.speaking is None:
            return personal
        return replace(personal, codes=self.codes(tokenizer)[self.speaking][None])


def find_adapter(source: str | os.PathLike, **hub) -> Path:
    """The folder of an adapter: itself, or what is downloaded of a Hub id.

    Args:
        hub: `revision`, `token`, `cache_dir`, `local_files_only` of a Hub id.

    Raises:
        AdapterError: there is none, or it cannot be downloaded.
    """
    folder = Path(source)
    if not folder.is_dir():
        if folder.exists() or not re.fullmatch(HUB_ID, str(source)):
            raise AdapterError(f"there is no folder {source}: {MAKE_ONE}")
        files = [CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE]
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=files, **hub))
        except (OSError, ValueError, HFValidationError) as error:
            reason = str(error).splitlines()[0]
            raise AdapterError(f"{source} cannot be had from the Hub ({reason}): {MAKE_ONE}") from error
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{source} holds no {name}: {MAKE_ONE}")
    return folder


def check_fits(folder: Path, model: nn.Module) -> None:
    """Make sure that an adapter is LoRA for this base.

    Raises:
        AdapterError: another kind of adapter, other shapes, or other weights than those it was made for.
    """
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("peft_type")
        with safe_open(folder / WEIGHTS_FILE, "pt") as opened:
            shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise AdapterError(f"{folder} cannot be read ({error}): copy it again, or fine-tune again") from error
    if kind != "LORA":
        raise AdapterError(f"{folder} holds a {kind} adapter, only LORA is known: {MAKE_ONE}")
    advice = (
        "load the base that it was made for, or fine-tune again with training/finetune_lora.py --base and this model"
    )
    modules = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    for key, shape in shapes.items():
        path, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        weight = getattr(modules.get(path), "weight", None)
        axis = 1 if side.startswith("A") else 0  # A reads the layer's inputs, B writes its outputs
        if weight is None or weight.shape[axis] != shape[axis]:
            found = "no such layer" if weight is None else f"the layer there has the shape {tuple(weight.shape)}"
            raise AdapterError(f"{folder} was made for another base ({path}: {found}): {advice}")
    if (folder / REFERENCES_FILE).is_file():
        references, digest = PersonReferences.load(folder), base_digest(model)
        if references.digest != digest:
            raise AdapterError(
                f"{folder} was made for the base {references.base} with the digest {references.digest}, this one has "
                f"{digest}: {advice}"
            )


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Hides the table in which transformers calls the weights of all other loaded adapters missing: they stay."""
    logger = logging.getLogger("transformers.integrations.peft")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _base_saved_as_it_is(model: nn.Module) -> Iterator[None]:
    """Keeps transformers from taking an adapter's keys for the whole model's: `load_adapter` leaves with the model how
    they were renamed, and `save_pretrained` would undo that in every key of the base."""
    before = vars(model).get("_weight_conversions")
    try:
        yield
    finally:
        if before is not None:
            model._weight_conversions = before
        else:
            vars(model).pop("_weight_conversions", None)


class AdapterModel:
    """What `AvatarSyncModel` adds to transformers' own `load_adapter`, `set_adapter`, `disable_adapters`."""

    def load_adapter(self, peft_model_id: str | os.PathLike | None = None, *args, **kwargs):
        """transformers' `load_adapter`, after making sure that the adapter was made for these weights.

        Raises:
            AdapterError: there is none, it cannot be read, or it was made for another base.
            MissingDependencyError: peft is not installed.
        """
        require_peft()
        if peft_model_id is not None:
            hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
            folder = find_adapter(peft_model_id, **hub)
            check_fits(folder, self)
            peft_model_id = str(folder)
        with _without_load_report(), _base_saved_as_it_is(self):
            return super().load_adapter(peft_model_id, *args, **kwargs)

    def merge_and_unload(self) -> "AdapterModel":
        """Work the active adapters into the weights for good, and take their layers out; returns the model.

        The merged model draws the same within rounding, a little faster, and is saved like any other.

        Raises:
            AdapterError: no adapter is loaded.
        """
        self._take_layers_out(merge=True)
        return self

    def remove_adapters(self) -> None:
        """Take all adapters out; the base is as it was, bit for bit.

        Raises:
            AdapterError: no adapter is loaded.
        """
        self._take_layers_out(merge=False)

    def _take_layers_out(self, merge: bool) -> None:
        if not self._hf_peft_config_loaded:
            raise AdapterError("no adapter is loaded: load one with load_adapter or load_identity")
        from peft.tuners.tuners_utils import BaseTunerLayer

        for path, layer in list(self.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                if merge:
                    layer.merge(safe_merge=True)
                parent, _, name = path.rpartition(".")
                setattr(self.get_submodule(parent), name, layer.get_base_layer())
        del self.peft_config
        self._hf_peft_config_loaded = False


class Identities:
    """Speakers that an `AvatarSyncPipeline` can wear, one at a time.

    Loading one takes a tenth of a second, changing between loaded ones a few hundredths; the base stays where it is.
    """

    @property
    def identity(self) -> str | None:
        """Who speaks; None is the base."""
        return vars(self).get("_identity")

    @property
    def identities(self) -> dict[str, PersonReferences]:
        """All that are loaded, by name."""
        return vars(self).setdefault("_identities", {})

    def load_identity(self, source: str | os.PathLike, name: str = "default", **hub) -> None:
        """Load an adapter and speak with it from now on.

        Args:
            source: folder, or Hub id, that `training/finetune_lora.py` made.
            name: what `set_identity` calls it: letters, digits, `_` and `-`.
            hub: `revision`, `token`, `cache_dir`, `local_files_only` of a Hub id.

        Raises:
            AdapterError: no adapter, one for another base, or a name that is taken or cannot be used.
            MissingDependencyError: peft is not installed.
        """
        if not isinstance(name, str) or not re.fullmatch(ADAPTER_NAME, name):
            raise AdapterError(f"an identity cannot be called {name!r}: use letters, digits, _ and -")
        if name in self.identities:
            raise AdapterError(f"an identity {name} is loaded already: unload_identity({name!r}), or use another name")
        folder = find_adapter(source, **hub)
        references = PersonReferences.load(folder)
        with warnings.catch_warnings():
            # peft thinks that a second adapter is a mistake.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            self.model.load_adapter(folder, adapter_name=name)
        self.identities[name] = references
        self.set_identity(name)

    def set_identity(self, name: str | None) -> None:
        """Speak as a loaded identity, or, with None, as the base. Finish a stream before changing: it is drawn on
        demand.

        Raises:
            AdapterError: no such identity is loaded.
        """
        if name is not None and name not in self.identities:
            loaded = ", ".join(self.identities) or "none"
            raise AdapterError(f"no identity {name!r} is loaded (loaded: {loaded}): load_identity(PATH, {name!r})")
        if name is not None:
            self.model.enable_adapters()
            self.model.set_adapter(name)
        elif self.identities:
            self.model.disable_adapters()
        self._identity = name

    def unload_identity(self, name: str | None = None) -> None:
        """Take one identity out, or all of them; without any, frames are again the base's own, bit for bit.

        Raises:
            AdapterError: none is loaded, or none of this name.
        """
        if not self.identities or (name is not None and name not in self.identities):
            loaded = ", ".join(self.identities) or "none"
            raise AdapterError(f"there is no identity {name or ''} to unload (loaded: {loaded})".replace("  ", " "))
        if name is None or len(self.identities) == 1:
            self.model.remove_adapters()
            self.identities.clear()
            self._identity = None
            return
        if self.identity == name:
            self.set_identity(None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Adapter .* was active", UserWarning)
            self.model.delete_adapter(name)
        del self.identities[name]
        self.set_identity(self.identity)  # whoever spoke goes on

    def refuse_to_save_identities(self) -> None:
        """Raises AdapterError where saving the model would write its adapter alone, as transformers does."""
        if self.model._hf_peft_config_loaded:
            raise AdapterError(
                "the model wears an identity, which has its own folder: unload_identity() before saving, or "
                "model.merge_and_unload() to save a model of that person"
            )

    def personalise(self, reference: Reference) -> Reference:
        """A portrait `(1, …)` as the present identity's; unchanged where the base speaks."""
        if self.identity is None:
            return reference
        return self.identities[self.identity].personalise(self.model.visual_tokenizer, reference)


__all__ = ["AdapterModel", "Identities", "PersonReferences", "base_digest", "check_fits", "find_adapter"]
