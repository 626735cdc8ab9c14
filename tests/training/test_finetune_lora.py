"""Fine-tuning on one person: what is refused, what is learned, and what comes out."""

import re
import shutil
import time
from types import SimpleNamespace

import finetune_lora
import numpy as np
import pytest
import torch
from finetuning import adapting, card, faces, footage
from huggingface_hub.utils import filter_repo_objects
from PIL import Image, ImageEnhance
from toy_data import face

from avatarsync import AvatarSyncPipeline
from avatarsync.adapters import CONFIG_FILE, REFERENCES_FILE, WEIGHTS_FILE, PersonReferences
from avatarsync.data import dataset
from avatarsync.errors import DatasetError, InvalidArgumentError, OutputError
from avatarsync.identity import load_face_embedding

pytest.importorskip("peft")

TEXTS = ("Mama may go home.", "Bob may map a ball.", "We move a boat now.", "My farm may bloom.", "A big red apple.")


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


@pytest.fixture(scope="module")
def videos(talk, tmp_path_factory):
    """Some eight seconds of the astronaut, drawn by the bundled weights, ten frames a second."""
    folder = tmp_path_factory.mktemp("videos")
    for index, text in enumerate(TEXTS):
        talk(np.asarray(face()), text=text, fps=10, seed=1).save(folder / f"{index}.mp4")
        (folder / f"{index}.txt").write_text(text)
    return folder


def arguments(out, **options):
    options = {"out": out, "steps": 3, "keyframe_steps": 3, "interpolation_steps": 3, "batch_size": 4, **options}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def test_footage_becomes_an_adapter(videos, talk, tmp_path, capsys):
    out, work = tmp_path / "anna", tmp_path / "work"
    finetune_lora.main(arguments(out, videos=videos, work=work))
    told = capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {
        CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE, "README.md", "comparison.png"
    }  # fmt: skip
    assert sum(file.stat().st_size for file in out.iterdir()) < 3e6
    assert re.search(r"mouth PSNR, spoken: [\d.]+ → [\d.]+ \([+-][\d.]+ dB\)", told)
    told_there = (out / "README.md").read_text()
    assert (
        "mouth LPIPS, reconstructed" in told_there
        and str(tmp_path) not in told_there
        and str(tmp_path) not in (out / CONFIG_FILE).read_text()
    )
    assert not list(tmp_path.glob(".*")), "nothing half-made is left"
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.width == 4 * 128

    portrait, speech = np.asarray(face()), talk.speak("Mama.")
    options = {"speech": speech, "fps": 10}
    base = talk(portrait, **options).frames
    talk.load_identity(out, name="anna")
    try:
        assert not np.array_equal(talk(portrait, **options).frames, base)
    finally:
        talk.unload_identity()
    assert np.array_equal(talk(portrait, **options).frames, base)

    # The same footage again: not looked at again, and the same weights.
    again = tmp_path / "again"
    finetune_lora.main(arguments(again, videos=videos, work=work))
    assert (again / WEIGHTS_FILE).read_bytes() == (out / WEIGHTS_FILE).read_bytes()
    references = PersonReferences.load(again)
    assert torch.equal(references.pixels, PersonReferences.load(out).pixels)


def test_pictures_become_an_adapter_of_the_look_alone(videos, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (source,) = footage.find_videos([videos / "0.mp4"], "en-us")
    seconds = {source.id: footage.seconds_of(source)}
    frames = [pixels for _, pixels in footage.sample_frames([source], seconds)]
    for index, pixels in enumerate(frames[1:30:3]):  # with some whose mouths are open among those that judge
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    out = tmp_path / "anna"
    finetune_lora.main(arguments(out, pictures=pictures))
    config = (out / CONFIG_FILE).read_text()
    assert "visual_tokenizer.painter" in config
    assert "keyframe_generator" not in config and "interpolation" not in config


def test_too_little_is_refused(videos, tmp_path):
    (source,) = footage.find_videos([videos / "0.mp4"], "en-us")
    with pytest.raises(DatasetError, match=f"the footage is {footage.seconds_of(source):.1f} s long, at least 5 s"):
        finetune_lora.main(arguments(tmp_path / "out", videos=videos / "0.mp4"))
    face().save(tmp_path / "one.png")
    with pytest.raises(DatasetError, match="1 pictures are too few: give at least 5"):
        finetune_lora.main(arguments(tmp_path / "out", pictures=tmp_path / "one.png"))
    with pytest.raises(DatasetError, match="holds no video"):
        finetune_lora.main(arguments(tmp_path / "out", videos=tmp_path))
    with pytest.raises(DatasetError, match="there is no"):
        finetune_lora.main(arguments(tmp_path / "out", videos=tmp_path / "nowhere"))
    with pytest.raises(InvalidArgumentError, match="either --videos or --pictures"):
        finetune_lora.main(["--out", str(tmp_path / "out")])
    with pytest.raises(OutputError, match="exists: give a new --out"):
        finetune_lora.main(arguments(tmp_path, videos=videos))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--out .*file/out cannot be written"):
        finetune_lora.parse(arguments(tmp_path / "file" / "out", videos=videos))
    with pytest.raises(DatasetError, match="no such file; give MediaPipe's"):
        finetune_lora.main(arguments(tmp_path / "out", videos=videos, landmarker=tmp_path / "missing.task"))
    with pytest.raises(InvalidArgumentError, match="--keyframe_learning_rate 0.0: give more than 0"):
        finetune_lora.main(arguments(tmp_path / "out", videos=videos, keyframe_learning_rate=0))
    assert not (tmp_path / "out").exists()


def test_the_upload_is_the_adapter_and_nothing_else(tmp_path, monkeypatch):
    """The Hub itself is not asked: what would be sent to it."""
    sent = {}

    class Api:
        def create_repo(self, name, exist_ok):
            assert exist_ok
            return SimpleNamespace(repo_id=f"me/{name}")

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            names = [file.name for file in folder_path.iterdir()]
            sent[repo_id] = set(filter_repo_objects(names, allow_patterns=allow_patterns))

    monkeypatch.setattr(card, "HfApi", Api)
    adapter = {CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE, "README.md", "comparison.png"}
    for name in (*adapter, "notes.txt", "film.mp4"):
        (tmp_path / name).touch()
    assert card.push_to_hub(tmp_path, "anna") == "me/anna"
    assert sent == {"me/anna": adapter}


def test_work_keeps_what_the_user_has_there(videos, tmp_path):
    work = tmp_path / "project"
    (work / "clips").mkdir(parents=True)
    (work / "clips" / "0.mp4").write_bytes(b"footage")
    for other in (False, True):
        if other:  # a dataset of prepare_data.py is none of ours either
            dataset.write_settings(work, {"crop": "pose_driven"})
        with pytest.raises(OutputError, match="--work .*project holds other files: give a new folder"):
            finetune_lora.parse(arguments(tmp_path / "out", videos=videos, work=work))
    with pytest.raises(OutputError, match="--work .*/out/work lies in --out"):
        finetune_lora.parse(arguments(tmp_path / "out", videos=videos, work=tmp_path / "out" / "work"))
    assert (work / "clips" / "0.mp4").read_bytes() == b"footage"
    dataset.write_settings(work, {"crop": "pose_driven", "footage": "0123"})
    assert finetune_lora.parse(arguments(tmp_path / "out", videos=videos, work=work)).work == work
    assert finetune_lora.parse(arguments(tmp_path / "out", videos=videos, work=tmp_path / "new")).work


def test_files_that_cannot_be_read_are_left_out_by_name(videos, talk, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    sources = footage.find_videos([tmp_path / "broken.mp4", *sorted(videos.glob("*.mp4"))], "en-us")
    kept, seconds, told = footage.readable(sources)
    assert [source.name for source in kept] == [source.name for source in sources[1:]] and len(seconds) == len(TEXTS)
    assert len(told) == 1 and "broken.mp4 cannot be read as a video" in told[0]
    with pytest.raises(DatasetError, match="broken.mp4 cannot be read"):
        footage.readable(sources[:1])
    with pytest.raises(DatasetError, match="s long without broken.mp4, which cannot be read, at least 5 s"):
        footage.readable(sources[:2])

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (200, 200), "grey").save(pictures / "nobody.png")
    for index in range(5):
        face().save(pictures / f"{index}.png")
    sources = footage.find_pictures([pictures])
    assert len(list(footage.sample_frames(sources, None))) == 6
    work = tmp_path / "work"
    film = footage.prepare(sources, None, talk.model.face_aligner, "bundled", 128, 150.0, work)
    assert sorted(line.split(":")[0] for line in film.left_out) == ["broken.png", "nobody.png"]
    # Cut off between the settings and the clips, it is made again.
    shutil.rmtree(work / "clips")
    again = footage.prepare(sources, None, talk.model.face_aligner, "bundled", 128, 150.0, work)
    assert again.left_out == film.left_out and len(again.rows) == len(film.rows)
    assert footage.named("0001/002", {"0001": "long.mp4"}) == "long.mp4, piece 3"


def test_nobody_and_several_people_are_refused(talk):
    aligner, embedding = talk.model.face_aligner, load_face_embedding().eval()
    one, nobody = np.asarray(face()), np.full((200, 200, 3), 90, np.uint8)
    with pytest.raises(DatasetError, match="a face was found in only 1 of 4 places"):
        footage.check_person(iter([("a", one), ("b", nobody), ("c", nobody), ("d", nobody)]), aligner, embedding)
    with pytest.raises(DatasetError, match="b shows several faces"):
        footage.check_person(iter([("a", one), ("b", np.concatenate([one, one], 1))]), aligner, embedding)
    darker = np.asarray(ImageEnhance.Brightness(face()).enhance(0.7))
    footage.check_person(iter([("a", one), ("b", darker), ("c", one[:, ::-1])]), aligner, embedding)


def test_two_people_at_different_times_fall_apart():
    generator = torch.Generator().manual_seed(0)

    def person(centre, count):
        vectors = centre + 0.05 * torch.randn(count, 64, generator=generator)
        return torch.nn.functional.normalize(vectors, dim=-1)

    anna, bert = torch.nn.functional.normalize(torch.randn(2, 64, generator=generator) + 1.5, dim=-1) * 2
    assert footage.least_alike(person(anna, 12))[0] > footage.SAME_PERSON
    cosine, first, second = footage.least_alike(torch.cat([person(anna, 8), person(bert, 4)]))
    assert cosine < footage.SAME_PERSON and (first < 8) != (second < 8)
    # One odd face among many is a mistake of the detector's.
    assert footage.least_alike(torch.cat([person(anna, 20), person(bert, 1)]))[0] > footage.SAME_PERSON


def test_ranks_shrink_until_the_adapter_fits():
    small = {"visual_tokenizer.painter.head": torch.nn.Conv2d(24, 4, 3)}
    assert adapting.ranks_that_fit(small) == {"visual_tokenizer.painter.head": 16}
    large = {f"visual_tokenizer.painter.{index}": torch.nn.Conv2d(512, 512, 3) for index in range(12)}
    ranks = adapting.ranks_that_fit(large)
    size = sum(rank * (512 * 9 + 512) for rank in ranks.values())
    assert 1 <= min(ranks.values()) < 16 and 4 * size <= adapting.WEIGHT_BYTES


def test_training_stops_when_its_time_is_up_and_keeps_the_best():
    model = AvatarSyncPipeline.from_pretrained().model
    adapting.add_lora(model, 0)
    values = iter([2.0, 1.0])
    parameter = next(iter(adapting.lora_parameters(model, adapting.LIPS).values()))

    class Slow(dict):
        def __missing__(self, index):
            time.sleep(0 if index < adapting.PROBE_STEPS else 0.3)  # the first steps promised more
            return {"x": torch.ones(1)}

    stage = adapting.Stage(
        "lips", adapting.LIPS, Slow(), lambda batch: (parameter * batch["x"]).sum(), 20, 1e-2, lambda: next(values), 1
    )
    steps, first, best = adapting.train(model, stage, "no", time.monotonic() + 0.5)
    assert adapting.PROBE_STEPS < steps < 20 and (first, best) == (2.0, 1.0)
    assert adapting.lora_parameters(model, adapting.LIPS)


def test_the_stillest_frame_is_the_one_nearest_to_the_resting_face():
    resting = torch.rand(468, 2, generator=torch.Generator().manual_seed(0))
    landmarks = resting + torch.tensor([0.03, -0.01, 0.02])[:, None, None]
    assert faces.stillest(landmarks, resting) == 1


@pytest.mark.parametrize(("found", "least_gain"), [((2.0, 3.0), 0.0), ((0.97, 3.0), 0.05)])
def test_a_stage_that_does_not_pay_is_taken_out(found, least_gain):
    model = AvatarSyncPipeline.from_pretrained().model
    codes = torch.zeros(1, *model._code_shape())
    before = model.visual_tokenizer.expression(codes)
    adapting.add_lora(model, 0)
    values = iter([1.0, *found])
    parameter = next(iter(adapting.lora_parameters(model, adapting.LIPS).values()))
    batches = {index: {"x": torch.ones(1)} for index in range(8)}
    loss = lambda batch: (parameter * batch["x"]).sum()  # noqa: E731
    stage = adapting.Stage(
        "lips", adapting.LIPS, batches, loss, 4, 1e-2, lambda: next(values), checks=2, least_gain=least_gain
    )
    steps, first, best = adapting.train(model, stage, "no", adapting.stop_time(5))
    assert (steps, first, best) == (0, 1.0, min(1.0, *found))
    assert not adapting.lora_parameters(model, adapting.LIPS) and adapting.lora_parameters(model, adapting.PAINTER)
    assert not any("expression_decoder" in path for path in model.peft_config[adapting.ADAPTER].target_modules)
    assert torch.equal(model.visual_tokenizer.expression(codes), before)
