#!/usr/bin/env bash
# LANGUAGE from CORPUS: what it is, how much speech, whose.
# LICENCE of the corpus, and where stage 0 gets it.
#
# To start a recipe: copy this folder to recipes/CORPUS/LANGUAGE, fill in the capitals, write conf/.
#
#   recipes/CORPUS/LANGUAGE/run.sh --corpus DIR
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="LANGUAGE from CORPUS"
family="wav2vec2 whisper"
methods="finetune kd adakd"
does[0]="locate CORPUS"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
