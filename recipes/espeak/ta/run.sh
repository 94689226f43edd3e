#!/usr/bin/env bash
# Tamil, spoken by eSpeak NG, like recipes/espeak/hi. It needs no data and no network once installed,
# and it is a demonstration: synthetic speech says nothing about people.
# eSpeak NG is GPL-3.0 software, loaded by stage 0 only; the sentences were written for AdaKD.
#
#   recipes/espeak/ta/run.sh                                     all stages, both families
#   recipes/espeak/ta/run.sh --family whisper --stage 2          one family, from the teacher on
#   recipes/espeak/ta/run.sh --text sentences.txt --root /tmp/a  your own sentences, outputs elsewhere
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="Tamil, synthetic speech (a demonstration)"
does[0]="generate Tamil speech with eSpeak NG"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
