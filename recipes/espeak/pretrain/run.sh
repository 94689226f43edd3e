#!/usr/bin/env bash
# The embedded checkpoints: mini (in the teacher's place) and micro (in the student's), trained from
# random weights on thirteen languages spoken by eSpeak NG. Already run: checkpoints/ is committed.
# It takes three and a half hours of one core, so that two cores need about two: start the families
# side by side, each with --root of its own and OMP_NUM_THREADS=1. Cut, it goes on where it was.
#
#   recipes/espeak/pretrain/run.sh                       both families, into exp/
#   recipes/espeak/pretrain/run.sh --family whisper      one family
#   recipes/espeak/pretrain/run.sh --publish             then replaces checkpoints/, each with its card
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="embedded checkpoints, thirteen synthetic languages"
seed=1
steps=(corpus prepare teacher finetune)
does=(
    "generate speech in thirteen languages with eSpeak NG"
    "prepare: manifests and text units"
    "train mini from random weights"
    "train micro from random weights; with --publish write checkpoints/ in fp16, each with its card"
)
stop_stage=3

parse_options "$@"
. "$adakd_root/path.sh"
out=${root:-$adakd_root}
[[ $out == /* ]] || out=$PWD/$out # a link below must lead there from anywhere

# Options that a round changes are local to it: a subshell would let the round go on when this
# script is stopped.

# corpus_alone: stage 0.
corpus_alone() {
    local stop_stage=0
    run_stages
}

# hindi OVERRIDES...: a round on the Hindi part of the corpus, kept in exp/$recipe/hindi. Sets `from`
# to overrides that make the next round start from its models.
hindi() {
    local round="$out/exp/$recipe/hindi" models
    if [[ -z ${ADAKD_DRY_RUN:-} ]]; then
        mkdir -p "$round/corpus/${recipe%/*}"
        ln -sfn "$out/corpus/$recipe" "$round/corpus/$recipe"
    fi
    local all=("${overrides[@]}" --data.languages "[hi]" "$@") root=$round
    local overrides=("${all[@]}")
    run_stages
    models=$round/exp/$recipe/$family
    from=(--teacher.source "$models/teacher/seed$seed/model")
    from+=(--student.source "$models/finetune/seed$seed/model")
    # A lower rate keeps what Whisper's decoder has learnt of listening.
    [[ $family == wav2vec2 ]] || from+=(--units.kind source --train.learning_rate 1.0e-3)
}

# pretrain FAMILY: both rounds.
pretrain() {
    local family=$1 from=()
    if ((stage == 0)); then
        corpus_alone
    fi
    # Thirteen languages at once leave CTC on its plateau of blanks. One does not; the others are
    # learnt from there.
    local epochs=6
    [[ $family == wav2vec2 ]] || epochs=5 # of four hours, not of one
    hindi --train.epochs "$epochs" --teacher.train "{epochs: $epochs}"
    ((stop_stage == 3)) || return 0 # the next round starts from models that are not there yet
    local all=("${overrides[@]}" "${from[@]}")
    local overrides=("${all[@]}")
    run_stages
    if ((${#publish[@]})); then
        local written=("$python" "$adakd_root/recipes/$recipe/publish.py" "$out" "$family" "$seed")
        dry_run "${written[@]}" "${overrides[@]}" ||
            PYTHONPATH="$adakd_root" "${written[@]}" "${overrides[@]}"
    fi
}

for each in $family; do
    pretrain "$each"
done
