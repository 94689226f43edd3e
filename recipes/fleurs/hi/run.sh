#!/usr/bin/env bash
# Hindi from FLEURS: sentences of Wikinews and its kin read aloud, about 10 h for training.
# CC-BY 4.0, huggingface.co/datasets/google/fleurs, from where stage 0 downloads hi_in.
#
#   recipes/fleurs/hi/run.sh                                    all stages, both families
#   recipes/fleurs/hi/run.sh --corpus ~/fleurs                  a copy of the hub's folder
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Hindi from FLEURS"
does[0]="download or find Hindi of FLEURS (hi_in) and unpack it"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
