"""Adapters: what fine-tuning on one person leaves on disk, and how a model and a pipeline wear it.

    ADAPTER/adapter_config.json          peft's LoraConfig
    ADAPTER/adapter_model.safetensors    LoRA weights of painter, expression decoder, keyframe generator, interpolator
    ADAPTER/references.safetensors       pictures of the person and the resting face; the base's digest as metadata
    ADAPTER/README.md, comparison.png    card and before/after sheet, for people

The folder is a Hub repository as it stands. `training/finetune_lora.py` makes it; docs/fine_tuning.md explains it.

LoRA layers stay beside the base's weights and are never merged into them unless `merge_and_unload` is asked for, so
that taking an adapter off brings the base back bit for bit. What the references say is used by pipelines alone
(`Identities`); models keep them for these, and a merged model what it takes to draw that person without an adapter.
"""

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

from .errors import AdapterError, MissingDependencyError
from .known_person import LANDMARKS_SAY, KnownPerson
from .modeling_visual_tokenizer import Reference, VisualTokenizerModel

CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "references.safetensors",
)
REFERENCES_VERSION = "1"
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
    def codes(self, tokenizer: VisualTokenizerModel) -> torch.Tensor:
        """Continuous codes `(N, K, D)` of the references."""
        pixels = self.pixels.to(tokenizer.device, tokenizer.dtype) / 127.5 - 1
        return tokenizer.encode(pixels)

    def known(self, tokenizer: VisualTokenizerModel) -> KnownPerson:
        """What they say of any portrait of this person."""
        resting = self.resting_landmarks.to(tokenizer.device, tokenizer.dtype)
        return KnownPerson(resting, None if self.speaking is None else self.codes(tokenizer)[self.speaking])

    def personalise(self, tokenizer: VisualTokenizerModel, reference: Reference) -> Reference:
        """One reference `(1, …)`, a portrait of this person, as this person's: see `KnownPerson.personalise`."""
        return self.known(tokenizer).personalise(reference)


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


def check_fits(folder: Path, model: nn.Module) -> PersonReferences | None:
    """Make sure that an adapter is LoRA for this base; returns its references, where it has some.

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
    if not (folder / REFERENCES_FILE).is_file():
        return None
    references, digest = PersonReferences.load(folder), base_digest(model)
    if references.digest != digest:
        raise AdapterError(
            f"{folder} was made for the base {references.base} with the digest {references.digest}, this one has "
            f"{digest}: {advice}"
        )
    return references


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
    """What `AvatarSyncModel` adds to transformers' own `load_adapter`, `set_adapter`, `disable_adapters`.

    Attributes:
        person: the one whose model this is, after merging; None where nobody is known but by adapters.
    """

    person: KnownPerson | None

    @property
    def adapter_references(self) -> dict[str, PersonReferences]:
        """By the names of the loaded adapters, those that hold some."""
        return vars(self).setdefault("_adapter_references", {})

    def load_adapter(
        self, peft_model_id: str | os.PathLike | None = None, adapter_name: str | None = None, *args, **kwargs
    ):
        """transformers' `load_adapter`, after making sure that the adapter was made for these weights.

        Raises:
            AdapterError: there is none, it cannot be read, or it was made for another base.
            MissingDependencyError: peft is not installed.
        """
        require_peft()
        name, references = adapter_name or "default", None
        if peft_model_id is not None:
            hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
            folder = find_adapter(peft_model_id, **hub)
            references = check_fits(folder, self)
            peft_model_id = str(folder)
        with _without_load_report(), _base_saved_as_it_is(self):
            loaded = super().load_adapter(peft_model_id, name, *args, **kwargs)
        self.adapter_references.pop(name, None)
        if references is not None:
            self.adapter_references[name] = references
        return loaded

    def active_people(self) -> list[str]:
        """Names of the adapters that are active now and hold references."""
        if not self._hf_peft_config_loaded or self._adapters_are_disabled():
            return []
        return [name for name in self.active_adapters() if name in self.adapter_references]

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """transformers' `delete_adapter`, which forgets the adapters' references as well."""
        super().delete_adapter(adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self.adapter_references.pop(name, None)

    def merge_and_unload(self) -> "AdapterModel":
        """Work the active adapter into the weights for good, and take all adapters out; returns the model.

        The merged model draws the same within rounding, a little faster, and is saved and loaded like any other: what
        the adapter's references say of the person stays with it (`person`, `AvatarSyncConfig.known_person`).

        Raises:
            AdapterError: no adapter is loaded, none is active, or those of several people are.
        """
        self._require_adapters()
        if self._adapters_are_disabled():
            raise AdapterError(
                "no adapter is active: set_identity(NAME) or enable_adapters() before merging, or take them out with "
                "unload_identity() or remove_adapters()"
            )
        people = self.active_people()
        if len(people) > 1:
            raise AdapterError(f"adapters of several people are active ({', '.join(people)}): set_adapter(NAME) first")
        references = self.adapter_references[people[0]] if people else None
        self._take_layers_out(merge=True)
        if references is not None:
            self.person = references.known(self.visual_tokenizer)
            self.config.known_person = "portrait" if self.person.speaking_codes is None else "reference"
        return self

    def remove_adapters(self) -> None:
        """Take all adapters out; the base is as it was, bit for bit.

        Raises:
            AdapterError: no adapter is loaded.
        """
        self._require_adapters()
        self._take_layers_out(merge=False)

    def _require_adapters(self) -> None:
        if not self._hf_peft_config_loaded:
            raise AdapterError("no adapter is loaded: load one with load_adapter or load_identity")

    def _adapters_are_disabled(self) -> bool:
        return any(layer.disable_adapters for _, layer in self._adapted_layers())

    def _adapted_layers(self) -> list[tuple[str, nn.Module]]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [(path, layer) for path, layer in self.named_modules() if isinstance(layer, BaseTunerLayer)]

    def _take_layers_out(self, merge: bool) -> None:
        for path, layer in self._adapted_layers():
            if merge:
                layer.merge(safe_merge=True)
            parent, _, name = path.rpartition(".")
            setattr(self.get_submodule(parent), name, layer.get_base_layer())
        del self.peft_config
        self._hf_peft_config_loaded = False
        self.adapter_references.clear()


class Identities:
    """Speakers that an `AvatarSyncPipeline` can wear, one at a time: the adapters of its model that hold references.

    Loading one takes a tenth of a second, changing between loaded ones a few hundredths; the base stays where it is.
    """

    @property
    def identity(self) -> str | None:
        """Who speaks, as the model has it; None is the base, and whom that was merged with."""
        return next(iter(self.model.active_people()), None)

    @property
    def identities(self) -> dict[str, PersonReferences]:
        """All that are loaded, by name."""
        return self.model.adapter_references

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
        PersonReferences.load(folder)  # raises where there are none: weights alone are no identity
        with warnings.catch_warnings():
            # peft thinks that a second adapter is a mistake.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            self.model.load_adapter(folder, adapter_name=name)
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
            return
        speaker = None if self.identity == name else self.identity
        if speaker is None:
            self.set_identity(None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Adapter .* was active", UserWarning)
            self.model.delete_adapter(name)
        self.set_identity(speaker)  # who speaks is not left to peft

    def refuse_to_save_identities(self) -> None:
        """Raises AdapterError where saving the model would write its adapter alone, as transformers does."""
        if self.model._hf_peft_config_loaded:
            raise AdapterError(
                "the model wears an identity, which has its own folder: unload_identity() before saving, or "
                "model.merge_and_unload() to save a model of that person"
            )

    @property
    def knows_speaker(self) -> bool:
        """Whether who speaks is somebody that the weights learned: an identity, or whom the model was merged with."""
        return self.identity is not None or self.model.person is not None

    def personalise(self, reference: Reference) -> Reference:
        """A portrait `(1, …)` as the present speaker's; unchanged where nobody is known."""
        if self.identity is not None:
            return self.identities[self.identity].personalise(self.model.visual_tokenizer, reference)
        return reference if self.model.person is None else self.model.person.personalise(reference)


__all__ = [
    "LANDMARKS_SAY",
    "AdapterModel",
    "Identities",
    "PersonReferences",
    "base_digest",
    "check_fits",
    "find_adapter",
]
