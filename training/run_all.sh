#!/usr/bin/env bash
# From raw folders to a model that `from_pretrained` reads: every stage in order. This is how the bundled weights are made,
# but for what MODEL_CARD.md tells of their last trainings.
#
#   training/run_all.sh --videos VIDEOS --portraits PORTRAITS --out OUT
#   training/run_all.sh --toy OUT          # two drawn speakers and a few steps of each stage: does everything run?
#
# Options
#   --videos DIR, --portraits DIR    what to learn from; may be given several times
#   --out DIR                        dataset, runs and, in the end, OUT/model
#   --layout flat|grid|cmlr|hdtf     of the videos (docs/dataset.md)
#   --landmarker FILE                MediaPipe's face_landmarker.task, the teacher; default: the package's own face aligner
#   --held_out FILE                  ids that training never sees; default: 5 % of clips and portraits
#   --accelerate FILE                of training/accelerate/; default cpu.yaml
#   --minutes N                      stop each stage after N minutes; call again to go on
#   --speed N                        divide all numbers of steps by N
#   --phases 2|3                     of the keyframes; default 3, as in the bundled weights
# Interrupted or called again, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

layout=flat landmarker=bundled accelerate=training/accelerate/cpu.yaml speed=1 phases=3
out="" toy=""
videos=() portraits=() prepare=() limit=()
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "error: $1 needs a value; see the top of $0" >&2; exit 2; }
    case "$1" in
        --videos) videos+=("$2") ;;
        --portraits) portraits+=("$2") ;;
        --out) out="$2" ;;
        --layout) layout="$2" ;;
        --landmarker) landmarker="$2" ;;
        --held_out) prepare+=(--held_out "$2") ;;
        --accelerate) accelerate="$2" ;;
        --minutes) limit=(--max_minutes "$2") ;;
        --speed) speed="$2" ;;
        --phases) phases="$2" ;;
        --toy) toy=yes out="$2" ;;
        *) echo "error: unknown option $1; see the top of $0" >&2; exit 2 ;;
    esac
    shift 2
done
[ "$phases" = 2 ] || [ "$phases" = 3 ] || { echo "error: --phases is $phases: give 2 or 3; see the top of $0" >&2; exit 2; }
[ -n "$out" ] || { echo "error: --out is missing; see the top of $0" >&2; exit 2; }
data="$out/dataset" per_portrait=8

# Sizes and steps of each stage; the toy's are as small as the models can be.
aligner=() tokenizer=() keyframes=() interpolation=()
if [ -n "$toy" ]; then
    python training/toy_data.py "$out/raw"
    videos=("$out/raw/videos") portraits=("$out/raw/portraits") per_portrait=2
    prepare+=(--test_share 0.25 --pictures_per_clip 2)
    small=(--batch_size 4 --warmup_steps 0 --log_steps 1 --eval_steps 2 --checkpoint_steps 2)
    aligner=("${small[@]}" --config detector_width=8 landmark_width=8 lip_width=8)
    tokenizer=("${small[@]}" --config encoder_width=8 motion_width=32 painter_width=8)
    keyframes=("${small[@]}" --config hidden_size=64 num_layers=2 num_heads=4)
    interpolation=("${small[@]}" --config hidden_size=32 num_layers=1 head_size=16)
fi
steps() { if [ -n "$toy" ]; then echo 2; else echo $(($1 / speed > 0 ? $1 / speed : 1)); fi; }
train() { # script, out, steps, options…
    local script="$1" folder="$2" count; count="$(steps "$3")"; shift 3
    echo "== $script → $folder ($count steps)"
    accelerate launch --config_file "$accelerate" "training/$script" --data "$data" --out "$folder" --resume latest \
        --max_train_steps "$count" "${limit[@]}" "$@"
}

echo "== data"
python training/prepare_data.py --out "$data" --layout "$layout" --landmarker "$landmarker" \
    ${videos[@]:+--videos "${videos[@]}"} ${portraits[@]:+--portraits "${portraits[@]}"} "${prepare[@]}"
python training/reenact_portraits.py --data "$data" --per_portrait "$per_portrait"

train train_face_aligner.py "$out/detector" 3000 --head detector "${aligner[@]}"
train train_face_aligner.py "$out/landmarks" 12000 --head landmarks --init_from "$out/detector" "${aligner[@]}"
train train_face_aligner.py "$out/face_aligner" 4000 --head lips --init_from "$out/landmarks" "${aligner[@]}"
train train_tokenizer.py "$out/codes" 6000 --phase expression "${tokenizer[@]}"
train train_tokenizer.py "$out/encoder" 4000 --phase encoder --init_from "$out/codes" \
    --learning_rate 3e-4 --portrait_share 0.7 "${tokenizer[@]}"
train train_tokenizer.py "$out/painted" 4000 --phase paint --init_from "$out/encoder" \
    --perceptual st-lpips-alexnet --perceptual_weight 3 "${tokenizer[@]}"
train train_tokenizer.py "$out/joint" 1600 --phase joint --init_from "$out/painted" --batch_size 24 \
    --learning_rate 2e-4 --portrait_share 0.5 --perceptual st-lpips-alexnet --perceptual_weight 3 "${tokenizer[@]}"
# By the pixels once more; the encoder stays.
train train_tokenizer.py "$out/tokenizer" 500 --phase paint --init_from "$out/joint" --batch_size 24 \
    --learning_rate 1.5e-4 --portrait_share 0.4 --perceptual st-lpips-alexnet --perceptual_weight 0.7 --led_share 0.8 \
    "${tokenizer[@]}"
train train_keyframes.py "$out/keyframes_1" 3000 --phase 1 --tokenizer "$out/tokenizer" \
    --learning_rate 1e-3 "${keyframes[@]}"
train train_keyframes.py "$out/keyframes_2" 200 --phase 2 --tokenizer "$out/tokenizer" \
    --init_from "$out/keyframes_1" --learning_rate 5e-5 "${keyframes[@]}"
if [ "$phases" = 3 ]; then
    train train_keyframes.py "$out/keyframes_3" 1000 --phase 3 --tokenizer "$out/tokenizer" \
        --init_from "$out/keyframes_2" --learning_rate 5e-4 --past_units 3 --future_units 3 "${keyframes[@]}"
fi
train train_interpolation.py "$out/interpolation" 4000 --tokenizer "$out/tokenizer" \
    --keyframes "$out/keyframes_$phases" "${interpolation[@]}"
generators=("$out/keyframes_$phases") interpolators=("$out/interpolation")
if [ "$phases" = 3 ]; then
    # The frames between the keyframes count, too; then both once more, and the mean of each of the two.
    train train_keyframes.py "$out/keyframes_4" 600 --phase 3 --tokenizer "$out/tokenizer" \
        --init_from "$out/keyframes_3" --interpolation "$out/interpolation" --learning_rate 3e-4 "${keyframes[@]}"
    train train_keyframes.py "$out/keyframes_5" 360 --phase 3 --tokenizer "$out/tokenizer" \
        --init_from "$out/keyframes_4" --interpolation "$out/interpolation" --learning_rate 2.5e-4 "${keyframes[@]}"
    train train_interpolation.py "$out/interpolation_2" 1600 --tokenizer "$out/tokenizer" \
        --keyframes "$out/keyframes_5" --init_from "$out/interpolation" --learning_rate 5e-4 "${interpolation[@]}"
    generators=("$out/keyframes_4" "$out/keyframes_5") interpolators+=("$out/interpolation_2")
fi

echo "== model"
python training/assemble.py --face_aligner "$out/face_aligner" --visual_tokenizer "$out/tokenizer" \
    --keyframe_generator "${generators[@]}" --interpolation "${interpolators[@]}" --out "$out/model" --replace
if [ -z "$toy" ]; then
    python training/contact_sheet.py --model "$out/model" --out "$out/contact_sheet.png"
fi
