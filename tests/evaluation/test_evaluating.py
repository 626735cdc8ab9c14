"""The run from the command line, on clips that are generated here."""

import json
import shutil

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline
from avatarsync.cli import main
from avatarsync.errors import DatasetError, FaceNotFoundError, OutputError
from avatarsync.evaluation.evaluating import whole_folder
from avatarsync.evaluation.landmarks import fill_lost
from avatarsync.evaluation.measuring import batches, fit, frames_of
from avatarsync.modeling_sync_expert import SyncExpertConfig, SyncExpertModel
from avatarsync.video import VideoWriter

NO_NETWORKS = [word for name in ("lpips", "fid", "fvd", "identity") for word in (f"--{name}", "none")]
LATE = 3  # frames


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


@pytest.fixture(scope="module")
def material(talk, tmp_path_factory):
    """A talking clip with its words, a late copy of it, one without a face, and an untrained sync expert."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("clips", "late", "grey"):
        (folder / name).mkdir()
    video = talk(np.ascontiguousarray(astronaut()[:240, 110:350]), text="Papa may buy.")
    video.save(folder / "clips" / "hello.mp4")
    (folder / "clips" / "hello.txt").write_text("papa may buy")
    frames = video.frames
    video.frames = np.concatenate([np.repeat(frames[:1], LATE, 0), frames])
    video.save(folder / "late" / "hello.mp4")
    with VideoWriter(folder / "grey" / "hello.mp4", 25, 240, 240, video.audio, video.sampling_rate) as writer:
        for _ in frames:
            writer.write(np.full((240, 240, 3), 128, np.uint8))
    torch.manual_seed(0)
    sizes = {"side": 16, "mouth_widths": (8, 8), "sound_widths": (8, 8), "embedding_size": 8}
    SyncExpertModel(SyncExpertConfig(**sizes, accuracy=0.25)).save_pretrained(folder / "expert")
    return folder


def run(arguments):
    return main(["evaluate", *map(str, arguments)])


def test_pairs_beside_another_system(material, tmp_path, capfd):
    """Generated is real here, and the other system does the same three frames later."""
    for part in ("real", "generated"):
        shutil.copytree(material / "clips", tmp_path / "pairs" / part)
    out = tmp_path / "report"
    arguments = ["--sync", f"expert:{material / 'expert'}", "--against", material / "late", "--plots"]
    assert run([tmp_path / "pairs", "-o", out, *arguments, *NO_NETWORKS]) == 0
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    same, late, real = (table["figures"][name] for name in ("generated", "late", "real"))
    assert same["psnr"] == "inf" and same["ssim"] == pytest.approx(1)
    assert same["opening_r"] == pytest.approx(1) and same["opening_lag"] == 0 and same["flicker_over_real"] == 1
    assert 15 < late["psnr"] < 60 and late["ssim"] < 1 and late["opening_lag"] == LATE
    distance = "sync distance/AvatarSync sync expert (expert)"
    assert same[distance] == pytest.approx(real[distance]) and same[distance] != pytest.approx(late[distance])
    assert same["bilabials_count"] == real["bilabials_count"] == 4, "the words beside the real clip are used"
    assert same["bilabials_shut"] == real["bilabials_shut"] and "psnr" not in real
    assert [row["system"] for row in table["per_clip"]] == ["generated", "late", "real"]
    assert "25.0% of the offsets" in table["protocol"]["sync"]
    assert table["protocol"]["network, identity"] == "none"
    printed, card = capfd.readouterr().out, (out / "README.md").read_text(encoding="utf-8")
    assert "lip opening, lag in frames" in printed and "| lip opening, lag in frames | 0 | +0.00 | +3.00 |" in card
    assert str(tmp_path) not in card + json.dumps(table), "the report is to be shared: no paths of this machine"
    assert (out / "lips.png").is_file() and not (out / "generated").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_model_is_run_on_clips(material, tmp_path, capfd):
    """What the clip was generated from goes in again: little but the reference's compression lies between."""
    out = tmp_path / "report"
    assert run([material / "clips", "-o", out, "--sync", "none", *NO_NETWORKS[2:]]) == 0
    assert sorted(path.name for path in (out / "generated").iterdir()) == ["hello.json", "hello.mp4"]
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    ours = table["figures"]["AvatarSync"]
    assert ours["psnr"] > 25 and ours["opening_lag_within_1"] == 1 and 0 < ours["ST-LPIPS (AlexNet)"] < 0.1
    assert len(table["protocol"]["AvatarSync"].split("sha256 ")[1].split(";")[0]) == 64
    assert table["protocol"]["clips"] == "1: 1 with a transcript (en-us)"
    assert not (out / "lips.png").exists() and "AvatarSync" in capfd.readouterr().out


def test_a_clip_that_cannot_be_measured_is_left_out_for_all(material, tmp_path, capfd):
    pairs = tmp_path / "pairs"
    for part in ("real", "generated"):
        shutil.copytree(material / "clips", pairs / part)
        shutil.copy(material / "clips" / "hello.mp4", pairs / part / "again.mp4")
    shutil.copy(material / "grey" / "hello.mp4", pairs / "generated" / "again.mp4")
    assert run([pairs, "-o", tmp_path / "report", "--sync", "none", *NO_NETWORKS]) == 0
    table = json.loads((tmp_path / "report" / "table.json").read_text(encoding="utf-8"))
    assert {row["clip"] for row in table["per_clip"]} == {"hello"}
    (remark,) = table["remarks"]
    assert remark.startswith("left out: again: again.mp4: a face is seen in only 0 of")
    (pairs / "generated" / "hello.mp4").unlink()
    (pairs / "real" / "hello.mp4").unlink()
    capfd.readouterr()
    assert run([pairs, "-o", tmp_path / "none", "--sync", "none", *NO_NETWORKS]) == 2
    error = capfd.readouterr().err
    assert "none of 1 clips could be measured" in error and error.count("\n") == 1
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".*"))


def test_other_sizes_are_brought_to_the_real_videos():
    frame = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    assert fit(frame, (64, 48), "a") is frame
    np.testing.assert_array_equal(fit(frame, (63, 47), "a"), frame[:63, :47])
    large = fit(frame, (128, 96), "a")
    assert large.shape == (128, 96, 3) and abs(large.mean() - frame.mean()) < 2
    with pytest.raises(DatasetError, match="a is 48x64 and the real video 64x64"):
        fit(frame, (64, 64), "a")


def test_frames_come_side_by_side_in_batches(material):
    frames = list(frames_of(material / "clips" / "hello.mp4", own_sound=True))
    late = frames_of(material / "late" / "hello.mp4", False, (120, 120))
    parts = list(batches(iter(frames), late, count=20))
    assert [[len(side) for side in part] for part in parts] == [[16, 16], [4, 4]]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), frames[:20])
    assert parts[0][1].shape == (16, 120, 120, 3)


def test_lost_faces_lie_between_their_neighbours():
    found = [np.full((468, 2), float(value)) for value in range(20)]
    found[7] = found[19] = None
    np.testing.assert_allclose(fill_lost(found)[:, 0, 0], [*range(19), 18])
    for lost in ([*found[:3], None, *found[4:]], [None, None]):
        with pytest.raises(FaceNotFoundError, match="of"):
            fill_lost(lost)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match="free some space"), whole_folder(out):
        raise OSError("the disk is full")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with whole_folder(out) as folder:
        (folder / "whole").write_text("whole")
    assert [path.name for path in out.iterdir()] == ["whole"] and list(tmp_path.iterdir()) == [out]
    with pytest.raises(OutputError, match="exists already"), whole_folder(out):
        pass
    assert (out / "whole").is_file() and list(tmp_path.iterdir()) == [out]
