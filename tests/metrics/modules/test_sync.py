"""Sync-C and Sync-D: SyncNet's protocol, its cepstra and its layout; the small expert."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avatarsync.errors import InvalidArgumentError, ModelLoadError
from avatarsync.face_mesh import neutral_landmarks
from avatarsync.feature_networks.syncnet import SyncNet
from avatarsync.metrics.modules import Sync
from avatarsync.modeling_sync_expert import SyncExpertConfig, SyncExpertModel
from avatarsync.speech_cepstra import speech_cepstra
from avatarsync.sync import (
    EXPERT_FOLDER,
    MAX_OFFSET,
    SyncExpert,
    SyncNetV2,
    SyncNetwork,
    distance_and_confidence,
    load_sync_network,
    offset_distances,
)

TINY = {"side": 16, "mouth_widths": (8, 8), "sound_widths": (8, 8), "embedding_size": 8}


class SeenAndHeard(SyncNetwork):
    """Lips and sound that say outright when they are: windows in step are equal."""

    name, figures, source, side, size = "clock", ("distance/clock", "confidence/clock"), "none", 4, 4

    def matrices(self, landmarks):
        raise NotImplementedError

    def embed_mouth(self, crops):
        return self._spread(crops[:, 0, 0, 0, 0].float())

    def embed_sound(self, cepstra):
        return self._spread(torch.round((cepstra[:, 0, 0] - 22) * 20))

    def _spread(self, number):
        return torch.stack([torch.sin(number * rate) for rate in (0.9, 1.7, 2.3, 3.1)], -1)


def expert(seed=0):
    torch.manual_seed(seed)
    return SyncExpert(SyncExpertModel(SyncExpertConfig(**TINY)), "tiny", "random weights")


def clip(frames, seed=0, side=16):
    random = np.random.default_rng(seed)
    crops = random.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    return crops, random.normal(0, 0.1, 640 * frames).astype(np.float32)


def windows(network, crops, sound):
    """Embeddings `(N, D)` of all windows, N = T - 5, computed at once."""
    cepstra = torch.from_numpy(speech_cepstra(sound))
    count = len(crops) - 5
    seen = torch.stack([torch.from_numpy(crops[i : i + 5]) for i in range(count)])
    heard = torch.stack([cepstra[4 * i : 4 * i + 20] for i in range(count)])
    with torch.no_grad():
        return network.embed_mouth(seen), network.embed_sound(heard)


def test_distances_are_those_of_each_pair_of_windows_with_zeros_beyond_the_ends():
    seen, heard = torch.randn(2, 20, 6).unbind()
    distances = offset_distances(seen, heard)
    for index, offset in enumerate(range(-MAX_OFFSET, MAX_OFFSET + 1)):
        each = [
            torch.linalg.norm(seen[i] - (heard[i + offset] if 0 <= i + offset < 20 else 0) + 1e-6) for i in range(20)
        ]
        assert distances[index].item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


def test_distance_is_the_least_and_confidence_the_median_less_it():
    distances = torch.full((31,), 8.0)
    distances[:4], distances[18] = 9.0, 2.5
    assert distance_and_confidence(distances) == (2.5, 5.5, 3)


@pytest.mark.parametrize("cuts", [(), (1, 2, 9), tuple(range(1, 60)), (50,)])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_a_stream_of_clips_gives_the_mean_of_whole_clips(cuts, batch_size):
    network, expected = expert(), []
    metric = Sync(network=network, batch_size=batch_size)
    for seed, frames in enumerate((60, 21, 34)):
        crops, sound = clip(frames, seed)
        expected.append(distance_and_confidence(offset_distances(*windows(network, crops, sound))))
        places = [cut for cut in cuts if cut < frames]
        for batch in zip(np.split(crops, places), np.split(sound, [640 * p for p in places]), strict=True):
            metric.add_batch(predictions=batch[0], references=batch[1])
        metric.end_clip()
    figures = metric.compute()
    assert figures["sync distance/tiny"] == pytest.approx(np.mean([one[0] for one in expected]), rel=1e-4)
    assert figures["sync confidence/tiny"] == pytest.approx(np.mean([one[1] for one in expected]), rel=1e-3, abs=1e-5)
    assert figures["sync_offset_within_1"] == pytest.approx(np.mean([abs(one[2]) <= 1 for one in expected]))


def test_lips_in_step_have_no_distance_and_moved_ones_their_offset():
    """Sound whose loudness counts the frames, and lips that count them too."""
    frames = 70
    numbers = np.arange(frames)
    wave = np.tile([1.0, -1.0], 320)
    first = speech_cepstra(np.tile(wave, 5) * 0.1)[0, 0]
    sound = np.concatenate([wave * 0.1 * np.exp((22 + 0.05 * k - first) / 2) for k in numbers]).astype(np.float32)
    network = SeenAndHeard()
    heard_numbers = torch.round((torch.from_numpy(speech_cepstra(sound))[::4, 0] - 22) * 20)
    assert heard_numbers[:40].tolist() == list(range(40))
    for late in (0, 4, -6):
        crops = np.broadcast_to((numbers - late).clip(0)[:, None, None, None].astype(np.uint8), (frames, 4, 4, 3))
        metric = Sync(network=network)
        metric.add_batch(predictions=np.ascontiguousarray(crops), references=sound)
        metric.finish_clip()
        distances = metric.state["clip_distances"] / metric.state["clip_windows"]
        assert distance_and_confidence(distances)[2] == -late
        figures = metric.compute()
        assert figures["sync_offset_within_1"] == (abs(late) <= 1)
        assert figures["distance/clock"] < 0.3 < 0.6 < figures["confidence/clock"]


def test_memory_is_flat_within_a_clip():
    metric, (crops, sound) = Sync(network=expert(), batch_size=4), clip(8)
    sizes = [metric.add_batch(predictions=crops, references=sound) or metric.state_bytes for _ in range(20)]
    assert len(set(sizes[2:])) == 1


def test_wrong_input_is_refused():
    metric, (crops, sound) = Sync(network=expert()), clip(30)
    for batch, message in (
        ((crops[:, :8], sound), "network.crop"),
        ((crops, sound[:-1]), "19200"),
        ((crops, (sound * 32767).astype(np.int16)), "float"),
        ((crops, np.full_like(sound, np.nan)), "not numbers"),
        ((crops / 255.0, sound), "uint8"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            metric.add_batch(predictions=batch[0], references=batch[1])
        assert len(metric) == 0
    with pytest.raises(InvalidArgumentError, match="21 frames"):
        metric.compute(predictions=crops[:20], references=sound[: 640 * 20])


# By python_speech_features 0.6: mfcc(signal, 16000) of the int16 signal below, frames 0, 7 and 97.
REFERENCE = {
    0: [
        20.078,
        2.7085,
        -17.3464,
        23.3726,
        53.264,
        12.4936,
        -25.6185,
        0.7986,
        25.3074,
        -8.8178,
        -36.5017,
        -12.7622,
        6.0266,
    ],
    7: [
        20.0869,
        15.4353,
        -20.8819,
        15.1215,
        45.3973,
        7.5263,
        -27.5269,
        0.3398,
        23.5142,
        -11.9956,
        -39.1998,
        -14.1696,
        5.0255,
    ],
    97: [
        20.4858,
        18.1834,
        -18.9433,
        -3.3118,
        10.2648,
        -31.7065,
        -58.0437,
        -13.0219,
        30.497,
        12.264,
        -5.6698,
        19.4336,
        31.6001,
    ],
}


def test_cepstra_are_python_speech_features():
    time = np.arange(16000)
    signal = 0.3 * np.sin(0.05 * time + 4e-6 * time**2) + 0.1 * np.sin(0.7 * time)
    signal[4000:4600] = 0
    cepstra = speech_cepstra(signal.astype(np.float32))
    assert cepstra.shape == (98, 13) and cepstra.dtype == np.float32
    for frame, expected in REFERENCE.items():
        np.testing.assert_allclose(cepstra[frame], expected, atol=2e-3)
    continued = speech_cepstra(signal[1600:].astype(np.float32), float(np.float32(signal[1599])))
    np.testing.assert_allclose(continued, cepstra[10:], atol=1e-5)
    assert speech_cepstra(np.zeros(399, np.float32)).shape == (0, 13)


def test_the_published_layout_of_syncnet():
    with torch.device("meta"):
        network = SyncNet()
        assert network.embed_mouth(torch.empty(2, 3, 5, 224, 224)).shape == (2, 1024)
        assert network.embed_sound(torch.empty(2, 13, 20)).shape == (2, 1024)
    names = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == 13_631_616
    assert names["netcnnaud.4.weight"] == (192, 64, 3, 3) and names["netcnnaud.18.weight"] == (512, 256, 5, 4)
    assert names["netcnnlip.0.weight"] == (96, 3, 5, 7, 7) and names["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert names["netcnnlip.19.running_mean"] == (512,) and names["netfclip.3.weight"] == (1024, 512)
    assert {name.split(".")[1] for name in names if name.startswith("netcnnaud")} == set(
        ["0", "1", "4", "5", "8", "9", "11", "12", "14", "15", "18", "19"]
    )


def test_syncnet_loads_by_path_and_sees_bgr_grey_levels(tmp_path):
    torch.manual_seed(0)
    network = SyncNet()
    save_file(network.state_dict(), tmp_path / "syncnet.safetensors")
    loaded = load_sync_network(f"syncnet:{tmp_path / 'syncnet.safetensors'}")
    assert loaded.figures == ("Sync-D/SyncNet v2", "Sync-C/SyncNet v2")
    crops = torch.randint(0, 256, (1, 5, 224, 224, 3), dtype=torch.uint8)
    expected = crops.numpy()[..., ::-1].transpose(0, 4, 1, 2, 3).astype(np.float32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.embed_mouth(crops), network.embed_mouth(torch.from_numpy(expected.copy())))


def test_syncnets_crop_is_the_box_larger_by_two_fifths_and_lower():
    landmarks = np.zeros((20, 468, 2))
    landmarks[:, 1] = [100, 80]  # a box of 100 x 80 pixels with its corner at 0
    landmarks[4] += 50  # one frame astray, which the median ignores
    with torch.device("meta"):
        network = SyncNetV2(SyncNet(), "none")
    matrices = network.matrices(landmarks)
    assert matrices.shape == (20, 2, 3) and np.ptp(matrices, axis=0).max() == 0
    # Half of the larger side is 50: from x = 50 - 70 to 50 + 70, and from y = 40 - 50 to 40 + 90.
    corners = np.array([[-20.5, -10.5, 1], [119.5, 129.5, 1]])
    np.testing.assert_allclose(corners @ matrices[0].T, [[-0.5, -0.5], [223.5, 223.5]], atol=1e-3)


def test_the_experts_crop_shows_the_mouth():
    model = SyncExpertModel(SyncExpertConfig())
    network = SyncExpert(model, "expert", "none")
    points = neutral_landmarks().numpy()[None] * 200 + 30
    mouth = np.repeat(points, 3, 0)[:, [13, 14, 61, 291]]
    placed = mouth @ network.matrices(np.repeat(points, 3, 0))[:, :, :2].swapaxes(1, 2)
    placed = placed + network.matrices(np.repeat(points, 3, 0))[:, None, :, 2]
    assert placed.min() > 4 and placed.max() < 44 and abs(placed[..., 0].mean() - 24) < 4
    frames = np.zeros((3, 260, 260, 3), np.uint8)
    assert network.crop(frames, np.repeat(points, 3, 0)).shape == (3, 48, 48, 3)


def test_the_expert_is_loaded_from_a_folder_under_its_name(tmp_path):
    folder = tmp_path / "mine"
    SyncExpertModel(SyncExpertConfig(**TINY, accuracy=0.5)).half().save_pretrained(folder)
    network = load_sync_network(f"expert:{folder}")
    assert network.figures[0] == "sync distance/AvatarSync sync expert (mine)"
    assert network.model.config.accuracy == 0.5 and next(network.parameters()).dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_bundled_expert_is_small_and_says_how_good_it_is():
    network = load_sync_network()
    assert network.figures == ("sync distance/AvatarSync sync expert", "sync confidence/AvatarSync sync expert")
    assert 0.9 < network.accuracy <= 1 and next(network.parameters()).dtype == torch.float32
    assert (EXPERT_FOLDER / "model.safetensors").stat().st_size < 1_500_000
    with torch.no_grad():
        seen = network.embed_mouth(torch.randint(0, 256, (2, 5, 48, 48, 3), dtype=torch.uint8))
        heard = network.embed_sound(torch.from_numpy(speech_cepstra(clip(8)[1])[None, :20]))
    for vectors in (seen, heard):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


def test_other_names_and_files_are_refused(tmp_path):
    for source in ("lips", "syncnet", "syncnet:"):
        with pytest.raises(InvalidArgumentError, match="no sync network"):
            load_sync_network(source)
    with pytest.raises(ModelLoadError, match="is not a file"):
        load_sync_network(f"syncnet:{tmp_path / 'none.safetensors'}")
    with pytest.raises(ModelLoadError, match="train_sync_expert"):
        load_sync_network(f"expert:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match="holds no sync expert"):
        load_sync_network(f"expert:{tmp_path}")


def test_the_experts_loss_falls_where_lips_and_sound_agree():
    torch.manual_seed(0)
    model = SyncExpertModel(SyncExpertConfig(**TINY))
    curve = torch.randn(2, 60)
    mouths = curve[:, :, None, None].expand(-1, -1, 16, 16) * torch.linspace(-1, 1, 16)
    cepstra = curve.repeat_interleave(4, 1)[:, :, None].expand(-1, -1, 13).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        output = model(mouths, cepstra)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert output.cosines.shape == (2, 56, 56) and losses[-1] < losses[0] - 1
