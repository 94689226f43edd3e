#!/usr/bin/env bash
# AdaKD from nothing to a table: sets up what it needs, then runs a recipe's stages.
#
#   ./run.sh                                   recipes/espeak/hi, all stages
#   ./run.sh --recipe fsdd/en --fold all       another recipe
#   ./run.sh --stage 5 --stop-stage 6          some stages
#   ./run.sh --benchmark study/tier-a.yaml     a study: many cells, and the report that judges them
#   ./run.sh --help                            the stages, the options, the recipes
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh run.sh
set -euo pipefail
root=$(CDPATH="" cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
. "$root/local/common.sh"

recipe=""
rest=()
while (($#)); do
    case $1 in
        --benchmark=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;&
        --recipe)
            [[ $# -ge 2 && $2 && $2 != --* ]] || fail "--recipe needs a value, e.g. --recipe espeak/hi"
            recipe=$2
            shift
            ;;
        --recipe=*)
            recipe=${1#*=}
            [[ $recipe ]] || fail "--recipe needs a value, e.g. --recipe espeak/hi"
            ;;
        --benchmark | --benchmark=*)
            # The rest is the study's: --jobs N, --only PATTERN, --report, --root DIR ...
            [[ $# -ge 2 && $2 && ($2 != --* || $2 == --help) ]] ||
                fail "--benchmark needs a grid: study/tier-a.yaml"
            [[ -z $recipe ]] || fail "a study names its recipes itself: leave out --recipe $recipe," \
                "or take some of its cells with --only \"$recipe*\""
            . "$root/path.sh"
            study=("$python" -m adakd.cli benchmark "${rest[@]}" "${@:2}")
            dry_run "${study[@]}" || exec "${study[@]}"
            exit 0
            ;;
        *) rest+=("$1") ;;
    esac
    shift
done
recipe=${recipe:-espeak/hi}
recipe=${recipe#recipes/}
recipe=${recipe%/}

mapfile -t recipes < <(list_recipes "$root")
if ! is_among "$recipe" "${recipes[@]}"; then
    fail "there is no recipe '$recipe'; did you mean $(nearest 999 "$recipe" "${recipes[@]}")?" \
        "There are: ${recipes[*]}"
fi
exec "$root/recipes/$recipe/run.sh" "${rest[@]}"
