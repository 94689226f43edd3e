#!/usr/bin/env bash
# Starts a recipe from recipes/TEMPLATE; sets up .venv first where that is missing.
#
#   local/new_recipe.sh espeak/sw --kind espeak
#   local/new_recipe.sh --help
set -euo pipefail
told=""
case " $* " in
    *" --help "* | *" -h "*) told=1 ADAKD_DRY_RUN=1 ;; # nothing to set up: any Python can tell it
esac
. "$(dirname -- "${BASH_SOURCE[0]}")/../path.sh"
[[ -z $told ]] || command -v "$python" >/dev/null || python=$(supported_python)
exec "$python" -m adakd.cli new-recipe "$@"
