#!/usr/bin/env bash
# Starts a recipe from recipes/TEMPLATE; sets up .venv first where that is missing.
#
#   local/new_recipe.sh espeak/sw --kind espeak
#   local/new_recipe.sh --help
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../path.sh"
exec "$python" -m adakd.cli new-recipe "$@"
