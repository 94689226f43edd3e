#!/usr/bin/env bash
# LANGUAGE from CORPUS: what it is, how much speech, whose, under which licence.
#
#   recipes/CORPUS/LANGUAGE/run.sh                         all stages, both families
#   recipes/CORPUS/LANGUAGE/run.sh --family whisper        one family
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="LANGUAGE from CORPUS"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
