#!/usr/bin/env bash
# The embedded checkpoints: mini (in the teacher's place) and micro (in the student's), trained from
# random weights on thirteen languages spoken by eSpeak NG. Already run: checkpoints/ is committed.
# Two cores need about 2.5 hours; cut and started again, it goes on where it was.
#
#   recipes/espeak/pretrain/run.sh                       both families, then the model cards
#   recipes/espeak/pretrain/run.sh --family whisper      one family
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="embedded checkpoints, thirteen synthetic languages"
family="wav2vec2 whisper"
steps=(corpus prepare teacher finetune)
does=(
    "generate speech in thirteen languages with eSpeak NG"
    "prepare: manifests and text units"
    "train mini from random weights"
    "train micro from random weights, and write checkpoints/ in fp16, each with its card"
)
stop_stage=3

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
if ((stop_stage == 3)) && [[ -z ${ADAKD_DRY_RUN:-} ]]; then
    read -ra families <<<"$family"
    PYTHONPATH="$adakd_root" "$python" "$adakd_root/recipes/$recipe/publish.py" \
        "${root:-$adakd_root}" "${families[@]}"
fi
