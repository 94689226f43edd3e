#!/usr/bin/env bash
# Your own corpus as a Kaldi-style folder: wav.scp, text, and if you have them utt2spk and segments,
# for train, dev and test. Nothing is copied but what is not 16 kHz mono WAV or FLAC already.
#
#   recipes/kaldi/any/run.sh --corpus egs/mine/s5/data --language.code sw
#   recipes/kaldi/any/run.sh --corpus data --language.code zh --corpus.train train_clean --root out
#
# Models and training: conf/*.yaml; any value there is an option too (--train.epochs 3).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../local/recipe.sh"

title="your own corpus, as a Kaldi-style folder"
does[0]="look through the tables of your Kaldi-style folders"

parse_options "$@"
. "$adakd_root/path.sh"
run_stages
