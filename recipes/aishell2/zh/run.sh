#!/usr/bin/env bash
# Mandarin, 1,000 hours read by 1,991 speakers: AISHELL-2. iOS for training; dev and test on iOS,
# Android and a microphone, each scored by itself.
# Free for research and education at institutions, by application (see README.md); nothing is
# downloaded here.
#
#   recipes/aishell2/zh/run.sh --corpus /data/AISHELL-2
#   recipes/aishell2/zh/run.sh --corpus /data/AISHELL-2 --corpus.conditions "[iOS]"
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Mandarin, read (AISHELL-2)"
does[0]="locate AISHELL-2 and its evaluation set"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
