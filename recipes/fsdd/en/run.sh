#!/usr/bin/env bash
# English digits by six people: the Free Spoken Digit Dataset, 3,000 recordings, 22 minutes.
# CC-BY-SA 4.0, github.com/Jakobovski/free-spoken-digit-dataset (stage 0 clones it: about 30 MB).
# Speakers of train, dev and test differ; --fold 0..5 says whose turn it is to be tested.
#
#   recipes/fsdd/en/run.sh                                    fold 0, both families
#   recipes/fsdd/en/run.sh --fold all                         every speaker tested in turn
#   recipes/fsdd/en/run.sh --corpus fsdd.tar.xz               recordings that you have already
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="English digits by six people (FSDD)"
does[0]="get the Free Spoken Digit Dataset and join digits to utterances"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
