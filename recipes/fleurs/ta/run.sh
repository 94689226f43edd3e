#!/usr/bin/env bash
# Tamil from FLEURS: sentences of Wikinews and its kin read aloud, about 10 h for training.
# CC-BY 4.0, huggingface.co/datasets/google/fleurs, from where stage 0 downloads ta_in.
#
#   recipes/fleurs/ta/run.sh                                    all stages, both families
#   recipes/fleurs/ta/run.sh --corpus ~/fleurs                  a copy of the hub's folder
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Tamil from FLEURS"
does[0]="download or find Tamil of FLEURS (ta_in) and unpack it"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
