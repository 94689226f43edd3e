#!/usr/bin/env bash
# Tamil from Mozilla Common Voice: sentences read aloud, 72 h for training in release 11.0.
# CC0, from Mozilla Data Collective, which asks for an account and for consent to its terms and does
# not allow to host the corpus elsewhere: recipes/commonvoice/README.md says how to get it.
#
#   recipes/commonvoice/ta/run.sh --corpus cv-corpus-11.0-2022-09-21-ta.tar.gz
#   recipes/commonvoice/ta/run.sh --corpus cv-corpus-11.0-2022-09-21 --family whisper
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Tamil from Common Voice"
does[0]="find Tamil in your Common Voice; unpack what the splits name"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
