#!/usr/bin/env bash
# Mandarin words by one speaker: audio-cmn, 8,569 recordings, three hours of real human speech.
# CC-BY-SA, github.com/hugolpz/audio-cmn (stage 0 clones the part it needs: about 50 MB).
# One voice and isolated words: good for trying methods, no evidence on people at large.
#
#   recipes/audio_cmn/zh/run.sh                               both families
#   recipes/audio_cmn/zh/run.sh --corpus audio_cmn.tar        recordings that you have already
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Mandarin words by one speaker (audio-cmn)"
does[0]="get the recordings of audio-cmn"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
