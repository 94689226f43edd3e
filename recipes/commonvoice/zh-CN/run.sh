#!/usr/bin/env bash
# Mandarin from Mozilla Common Voice: sentences read aloud, 37 h for training in release 11.0.
# CC0, from Mozilla Data Collective, which asks for an account and for consent to its terms and does
# not allow to host the corpus elsewhere: recipes/commonvoice/README.md says how to get it.
#
#   recipes/commonvoice/zh-CN/run.sh --corpus cv-corpus-11.0-2022-09-21-zh-CN.tar.gz
#   recipes/commonvoice/zh-CN/run.sh --corpus cv-corpus-11.0-2022-09-21 --family whisper
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Mandarin from Common Voice"
does[0]="find Mandarin in your Common Voice; unpack what the splits name"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
