#!/usr/bin/env bash
# Mandarin from FLEURS: sentences of Wikinews and its kin read aloud, about 10 h for training.
# CC-BY 4.0, huggingface.co/datasets/google/fleurs, from where stage 0 downloads cmn_hans_cn.
#
#   recipes/fleurs/zh/run.sh                                    all stages, both families
#   recipes/fleurs/zh/run.sh --corpus ~/fleurs                  a copy of the hub's folder
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Mandarin from FLEURS"
does[0]="download or find Mandarin of FLEURS (cmn_hans_cn) and unpack it"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
