# shellcheck shell=bash
# Small helpers of all shell scripts here. Sourced, never run.

# say WORDS...: a line for the person at the screen.
say() {
    printf '%s\n' "$*" >&2
}

# fail SENTENCE: what went wrong and what to do; ends the script.
fail() {
    say "error: $*"
    exit 1
}

# dry_run COMMAND...: with ADAKD_DRY_RUN shows the command, which then is not to be run; else fails.
dry_run() {
    [[ -n ${ADAKD_DRY_RUN:-} ]] || return 1
    printf '%q ' "$@"
    printf '\n'
}

# is_among WORD CANDIDATE...
is_among() {
    local word=$1 candidate
    shift
    for candidate in "$@"; do
        [[ $candidate != "$word" ]] || return 0
    done
    return 1
}

# nearest LIMIT WORD CANDIDATE...: the candidate with the smallest edit distance (Levenshtein 1966),
# nothing where all are above LIMIT.
nearest() {
    local fewest=$(($1 + 1)) word=$2 candidate best='' row previous i j cost
    shift 2
    for candidate in "$@"; do
        row=()
        for ((j = 0; j <= ${#candidate}; j++)); do row[j]=$j; done
        for ((i = 1; i <= ${#word}; i++)); do
            previous=("${row[@]}")
            row[0]=$i
            for ((j = 1; j <= ${#candidate}; j++)); do
                cost=1
                [[ ${word:i-1:1} != "${candidate:j-1:1}" ]] || cost=0
                row[j]=$((previous[j - 1] + cost))
                ((previous[j] + 1 >= row[j])) || row[j]=$((previous[j] + 1))
                ((row[j - 1] + 1 >= row[j])) || row[j]=$((row[j - 1] + 1))
            done
        done
        if ((row[${#candidate}] < fewest)); then
            fewest=${row[${#candidate}]}
            best=$candidate
        fi
    done
    printf '%s\n' "$best"
}

# list_recipes ROOT: the names that --recipe takes, one a line.
list_recipes() {
    local path
    for path in "$1"/recipes/*/*/run.sh; do
        path=${path#"$1"/recipes/}
        printf '%s\n' "${path%/run.sh}"
    done
}
