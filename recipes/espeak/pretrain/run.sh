#!/usr/bin/env bash
# The embedded checkpoints: mini (in the teacher's place) and micro (in the student's), trained from
# random weights on thirteen languages spoken by eSpeak NG. Already run: checkpoints/ is committed.
# It takes three and a half hours of one core, so that two cores need about two: start the families
# side by side, each with --root of its own and OMP_NUM_THREADS=1. Cut, it goes on where it was.
#
#   recipes/espeak/pretrain/run.sh                       both families, then the model cards
#   recipes/espeak/pretrain/run.sh --family whisper      one family
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
# shellcheck disable=SC2030,SC2031 # what a round sets is meant to end with its subshell
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="embedded checkpoints, thirteen synthetic languages"
family="wav2vec2 whisper" seed=1
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
out=${root:-$adakd_root}
[[ $out == /* ]] || out=$PWD/$out # a link below must lead there from anywhere
families=$family

# hindi OVERRIDES...: a round on the Hindi part of the corpus, kept in exp/$recipe/hindi. Sets `from`
# to overrides that make the next round start from its models.
hindi() {
    local round="$out/exp/$recipe/hindi" models
    mkdir -p "$round/corpus/${recipe%/*}"
    ln -sfn "$out/corpus/$recipe" "$round/corpus/$recipe"
    (
        root=$round
        overrides+=(--data.languages "[hi]" "$@")
        run_stages
    )
    models=$round/exp/$recipe/$family
    from=(--teacher.source "$models/teacher/seed$seed/model")
    from+=(--student.source "$models/finetune/seed$seed/model")
    # A lower rate keeps what Whisper's decoder has learnt of listening.
    [[ $family == wav2vec2 ]] || from+=(--units.kind source --train.learning_rate 1.0e-3)
}

for family in $families; do (
    from=()
    if ((stage == 0)); then
        (stop_stage=0 && run_stages)
    fi
    # Thirteen languages at once leave CTC on its plateau of blanks. One does not; the others are
    # learnt from there.
    epochs=6
    [[ $family == wav2vec2 ]] || epochs=5 # of four hours, not of one
    hindi --train.epochs "$epochs" --teacher.train "{epochs: $epochs}"
    overrides+=("${from[@]}")
    run_stages
    if ((stop_stage == 3)) && [[ -z ${ADAKD_DRY_RUN:-} ]]; then
        PYTHONPATH="$adakd_root" "$python" "$adakd_root/recipes/$recipe/publish.py" "$out" "$family"
    fi
); done
