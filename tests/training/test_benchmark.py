"""The benchmark: its fits, its cuts of speech, its report; and a short real run."""

import json

import benchmark
import pytest
from benchmarking import ours
from benchmarking.denoiser import SYSTEMS, denoiser
from benchmarking.ours import fit_line
from benchmarking.report import markdown
from benchmarking.setting import TEXT, Setting, first_phonemes, first_seconds, portrait

from avatarsync import AvatarSyncPipeline
from avatarsync.phonemes import speak

TINY_UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
}


def test_a_line_has_no_quadratic_term_and_a_parabola_has():
    counts = [100, 200, 300, 500, 700, 1000]
    line = fit_line(counts, [0.5 + 0.02 * count for count in counts])
    assert line["slope"] == pytest.approx(0.02) and line["intercept"] == pytest.approx(0.5)
    assert line["r_squared"] == pytest.approx(1) and abs(line["quadratic_share"]) < 1e-6
    parabola = fit_line(counts, [1e-3 * count**2 for count in counts])
    assert parabola["quadratic_share"] == pytest.approx(1, abs=1e-6) and parabola["r_squared"] < 0.99


def test_speech_is_cut_to_phonemes_and_seconds():
    speech = speak(TEXT)
    for count in (5, 20):
        part = first_phonemes(speech, count)
        assert sum(p.symbol != "sil" for p in part.track) == count
        assert part.duration == pytest.approx(part.track[-1].end, abs=1e-3)
    assert first_seconds(speech, 1.0).duration == pytest.approx(1.0, abs=1e-3)


def test_each_stage_is_timed(monkeypatch):
    monkeypatch.setattr(ours, "TEXT", "Map.")
    out = ours.stages(Setting(AvatarSyncPipeline.from_pretrained(), portrait(200), 200, "10", runs=1, threads=2))
    assert 0.3 < out["seconds_of_video"] < 2 and len(out["stages"]) == 8
    for name in ("text to phonemes and sound", "face alignment", "keyframes", "motion and painting", "encoding"):
        assert out["stages"][name]["wall"] > 0


def test_a_short_run_writes_the_whole_report(tmp_path, capsys):
    size = ["--size", "200", "--fps", "10", "--runs", "1", "--threads", "2"]
    phonemes = ["--parts", "phonemes", "--most_phonemes", "20"]
    benchmark.main(["--out", str(tmp_path), *size, *phonemes])
    benchmark.main(["--out", str(tmp_path), *size, "--parts", "latency"])
    report = json.loads((tmp_path / "benchmark.json").read_text())
    rows = report["phonemes"]["rows"]
    assert [row["phonemes"] for row in rows] == [5, 10, 20]
    assert all(row["wall"] > 0 and row["cpu"] > 0 for row in rows)
    assert report["latency"]["one sentence"]["seconds"] > 0
    text = (tmp_path / "benchmark.md").read_text()
    assert "Time against phonemes" in text and "First frame" in text and "Total" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.json", "benchmark.md", "phonemes.png"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--out", str(tmp_path), "--size", "256", "--parts", "latency"])
    assert ended.value.code == 2 and "size" in capsys.readouterr().err
    assert report["image"] == "astronaut" and report["model"].startswith("bundled (") and "- model: bundled" in text
    portrait(200).save(tmp_path / "other.png")
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--out", str(tmp_path), *size, "--parts", "latency", "--image", str(tmp_path / "other.png")])
    assert ended.value.code == 2 and "figures of another image:" in capsys.readouterr().err


def test_the_denoiser_is_one_timed_pass_times_the_systems_own_defaults():
    pytest.importorskip("diffusers")
    setting = Setting(None, portrait(128), 128, "25", 1, 1)
    found = denoiser(setting, passes=2, config=TINY_UNET)
    hallo = found["systems"]["Hallo"]
    assert set(found["systems"]) == set(SYSTEMS) and hallo["passes_per_frame"] == 80
    assert hallo["seconds_per_frame_extrapolated"] == pytest.approx(80 * found["seconds_per_pass"])
    assert hallo["ratio_extrapolated"] == pytest.approx(2000 * found["seconds_per_pass"])
    report = {"machine": {}, "size": 512, "fps": "25", "denoiser": found,
              "total": {"ratio": 0.5, "cpu_ratio": 0.6, "seconds_of_video": 3.0}}  # fmt: skip
    text = markdown(report)
    assert "extrapolated" in text and "goal ≤ 0.35: missed" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out"),
        (["--out", "x", "--image", "nowhere.png"], "--image nowhere.png"),
        (["--out", "x", "--runs", "0"], "--runs"),
        (["--out", "x", "--most_phonemes", "3"], "phonemes"),
    ],
)
def test_bad_arguments_are_told_at_once(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err
