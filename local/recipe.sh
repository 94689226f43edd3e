# shellcheck shell=bash
# What all recipes share: their options, the table of stages, and how stages become commands.
# Sourced by recipes/*/*/run.sh, which may change any of the variables below before it calls
# parse_options "$@" and then run_stages. Values from the command line are never evaluated.

adakd_root=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
. "$adakd_root/local/common.sh"
. "$adakd_root/local/launch.sh"

# The name is the place: recipes/NAME/run.sh, which sources this file.
recipe=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[1]}")" && pwd -P)
recipe=${recipe#"$adakd_root/recipes/"}
python="" # path.sh sets it

# The stages: number -> step of `adakd` -> what it does. A step that is emptied is left out.
steps=(corpus prepare teacher finetune teacher-pass kd adakd decode score report export)
does=(
    "download, generate or locate the corpus"
    "prepare: manifests, text normalisation, audio to 16 kHz mono"
    "fine-tune the teacher"
    "fine-tune the student: the baseline to beat"
    "teacher pass: losses and soft outputs of the training set"
    "standard KD: one weight for all utterances"
    "AdaKD (and, with --methods, other methods)"
    "decode dev and test with every trained model"
    "score: CER with confidence intervals"
    "report: the table and the plots"
    "export the best student"
)
training=(teacher finetune teacher-pass kd adakd) # what a launcher may spread over several processes

# Defaults of the options.
title=""
family="wav2vec2 whisper" methods="finetune kd adakd" seed="" fold="" tag="" root=""
stage=0 stop_stage=$((${#steps[@]} - 1))
launcher=none nproc=""
publish=()   # --publish, once it is given
overrides=() # --a.b value pairs, handed on as they are

options=(
    "recipe NAME        recipes/NAME/run.sh, chosen by ./run.sh (espeak/hi)"
    "stage N            the stage to begin with (0)"
    "stop-stage N       the last stage to run (LAST)"
    "family NAMES       wav2vec2, whisper, or both (\"wav2vec2 whisper\")"
    "methods NAMES      (\"finetune kd adakd\"); all that there are: docs/methods.md"
    "seed N             seed of training, or several: \"1 2 3\" (that of conf/*.yaml, else 1)"
    "fold N             test fold: a number, several (\"0 1 2\"), or all, where a corpus has folds"
    "corpus PATH        the corpus as you have it, a folder or an archive (not of espeak recipes)"
    "text FILE          your own sentences for eSpeak to say, one a line (of espeak recipes alone)"
    "tag NAME           a name for this variant of an experiment, added to its folder"
    "root DIR           where corpus/, data/, exp/ and export/ go (this repository)"
    "launcher NAME      none, torchrun or slurm: how stages 2 to 6 start"
    "nproc N            processes for the launcher (1)"
    "publish            stage 9 copies the table to the recipe's RESULTS.md as well"
    "help               this text"
)

show_help() {
    local number line
    printf '%s: %s\n\n' "$recipe" "$title"
    printf 'Usage: ./run.sh [--recipe %s] [--OPTION VALUE]...\n\nStages\n' "$recipe"
    for number in "${!steps[@]}"; do
        [[ -z ${steps[number]} ]] || printf '  %2d  %s\n' "$number" "${does[number]}"
    done
    printf '\nOptions (--stop-stage 4, --stop_stage 4 and --stop-stage=4 are the same)\n'
    for line in "${options[@]}"; do
        printf '  --%s\n' "${line/LAST/$((${#steps[@]} - 1))}"
    done
    printf '  --A.B VALUE          any configuration value, e.g. --train.epochs 3\n'
    printf '\nRecipes\n'
    list_recipes "$adakd_root" | sed 's/^/  /'
    printf '\nA study of many recipes and methods: ./run.sh --benchmark GRID; its options: ./run.sh --benchmark --help\n'
    printf '\nADAKD_PYTHON=PYTHON uses that interpreter instead of .venv.'
    printf ' ADAKD_DRY_RUN=1 prints the commands only.\n'
}

# meant NAME: what whoever gives the option NAME, which there is not, may have had in mind.
meant() {
    local key="" near
    case $1 in
        gpu | gpus | ngpu | ngpus | num-gpus | nj)
            printf 'several GPUs: --launcher torchrun --nproc N, and CUDA_VISIBLE_DEVICES says which\n'
            return
            ;;
        lang | language) key=language.code ;;
        lr) key=train.learning_rate ;;
        *[!a-z-]*) ;;
        *) key=$(awk -v leaf="${1//-/_}" '
            /^[a-z]/ { group = $1; sub(":", ".", group) }
            /^  [a-z]/ && $1 == leaf ":" { print group leaf; exit }
        ' "$adakd_root/recipes/$recipe/conf/"*.yaml 2>/dev/null) ;;
    esac
    near=$(nearest 2 "$1" "${options[@]%% *}")
    if [[ $key ]]; then
        printf 'write --%s, its name in the configuration\n' "$key"
    elif [[ $near ]]; then
        printf 'did you mean --%s?\n' "$near"
    else
        printf 'see ./run.sh --help (a configuration value has a dot in its name: --train.epochs 3)\n'
    fi
}

parse_options() {
    local name value known
    while (($#)); do
        case $1 in
            -h) set -- --help "${@:2}" ;;
            --[!-]*) ;;
            *) fail "unexpected argument '$1'; options begin with --, see ./run.sh --help" ;;
        esac
        name=${1#--}
        name=${name%%=*}
        [[ $name == *.* ]] || name=${name//_/-}
        known=("${options[@]%% *}")
        if [[ $name != *.* ]] && ! is_among "$name" "${known[@]}"; then
            fail "there is no option --$name; $(meant "$name")"
        fi
        case $name in
            help) show_help && exit 0 ;;
            publish)
                [[ $1 != *=* ]] || fail "--publish takes no value"
                publish=(--publish)
                shift
                continue
                ;;
        esac
        if [[ $1 == *=* ]]; then
            value=${1#*=}
            shift
        else
            [[ $# -ge 2 && $2 != --* ]] || fail "--$name needs a value"
            value=$2
            shift 2
        fi
        [[ -n $value || $name == *.* ]] || fail "--$name needs a value"
        case $name in # after = the shell leaves ~ as it is; a folder may begin as an option does
            root | corpus | text)
                [[ $value != \~ && $value != \~/* ]] || value=$HOME${value#\~}
                [[ $value != -* ]] || value=./$value
                ;;
        esac
        case $name in
            *.*) overrides+=("--$name" "$value") ;;
            corpus | text) overrides+=("--corpus.$name" "$value") ;;
            recipe)
                [[ $value == "$recipe" ]] ||
                    fail "this script is the recipe $recipe; use ./run.sh --recipe $value"
                ;;
            *) printf -v "${name//-/_}" '%s' "$value" ;;
        esac
    done
    check_options
}

check_options() {
    local last=$((${#steps[@]} - 1)) name
    for name in stage stop_stage; do
        if ! [[ ${!name} =~ ^[0-9]{1,3}$ ]] || ((10#${!name} > last)); then
            fail "--${name//_/-} is '${!name}', but the stages are 0 to $last; see ./run.sh --help"
        fi
        printf -v "$name" '%d' "$((10#${!name}))"
    done
    if ((stage > stop_stage)); then
        fail "nothing to do: --stage $stage comes after --stop-stage $stop_stage"
    fi
    case $launcher in
        none) [[ -z $nproc ]] || fail "--nproc needs --launcher torchrun or --launcher slurm" ;;
        torchrun | slurm)
            nproc=${nproc:-1}
            [[ $nproc =~ ^[1-9][0-9]*$ ]] || fail "--nproc is '$nproc'; give a number from 1 on"
            # Stages 2 to 6 are launched.
            [[ $launcher != slurm || ${ADAKD_DRY_RUN:-} ]] || ((stage > 6 || stop_stage < 2)) ||
                command -v srun >/dev/null ||
                fail "there is no srun here: start it where Slurm is, or with --launcher torchrun"
            ;;
        *)
            fail "there is no launcher '$launcher'; choose torchrun, slurm or none"
            ;;
    esac
}

# run_stages: stages $stage to $stop_stage. Neighbours share a process, since every start of the
# interpreter costs seconds of imports; with a launcher, training stages start apart from others.
run_stages() {
    local arguments=(--recipe "$recipe" --family "$family" --methods "$methods")
    [[ -z $seed ]] || arguments+=(--seed "$seed")
    [[ -z $fold ]] || arguments+=(--fold "$fold")
    [[ -z $tag ]] || arguments+=(--tag "$tag")
    [[ -z $root ]] || arguments+=(--root "$root")
    arguments+=("${publish[@]}" "${overrides[@]}")

    local number how before="" group=()
    for ((number = stage; number <= stop_stage; number++)); do
        [[ -n ${steps[number]} ]] || continue
        how=none
        ! is_among "${steps[number]}" "${training[@]}" || how=$launcher
        if [[ $how != "$before" && ${#group[@]} -gt 0 ]]; then
            run_logged "$before" "${group[@]}" "${arguments[@]}"
            group=()
        fi
        before=$how
        group+=("${steps[number]}")
    done
    if ((${#group[@]})); then
        run_logged "$before" "${group[@]}" "${arguments[@]}"
    fi
}

# run_logged LAUNCHER ARGUMENTS...: one command of adakd, on the screen and in the log.
run_logged() {
    local how=$1 command
    shift
    launch_command "$how" "$nproc" "$python" "$@" # sets the array `command`
    ! dry_run "${command[@]}" || return 0
    local folder="${root:-$adakd_root}/exp/$recipe/log" log
    mkdir -p -- "$folder" || fail "cannot write to $folder"
    log="$folder/$(date +%Y-%m-%dT%H-%M-%S)-$$.log" # two runs may start in one second
    { printf '# in %s:' "$PWD" && printf ' %q' "${command[@]}" && printf '\n'; } >>"$log" ||
        fail "cannot write to $log"
    # Through a pipe Python cannot see that its errors and progress reach a terminal.
    [[ ! -t 2 ]] || export ADAKD_TERMINAL=1
    # The number of a stream that is closed would go to one of the pipes.
    [[ -e /dev/fd/0 ]] || exec </dev/null
    [[ -e /dev/fd/1 ]] || exec >/dev/null
    [[ -e /dev/fd/2 ]] || exec 2>/dev/null
    # Standard error and standard output stay apart on the screen.
    local screen errors tees=() status=0
    exec {screen}> >(copy_to "$log")
    tees+=($!)
    exec {errors}> >(copy_to "$log" >&2)
    tees+=($!)
    heed_signals "${command[@]}" 1>&"$screen" 2>&"$errors" || status=$?
    exec {screen}>&- {errors}>&-
    wait "${tees[@]}" 2>/dev/null || true # whether they could write is not the command's fault
    # Of a progress bar the last state is enough. On a full disk the log stays as it is.
    sed -i 's/.*\r//; s/\x1b\[K//g' "$log" 2>/dev/null || true
    if ((status)); then
        say "The log is $log"
        exit "$status"
    fi
}

# copy_to LOG: hands its input on, and writes it to the log until its end, whatever stops the run.
copy_to() {
    trap '' INT TERM HUP
    exec tee -aip -- "$1" # bash 5.3 lets what it executes here die of Ctrl-C all the same
}

# heed_signals COMMAND...: runs it and waits for its end. A signal to this shell reaches it; of
# Ctrl-C, which it gets from the terminal, this shell does not die first.
heed_signals() {
    local child signalled status
    # In the background: only in `wait` does bash act on a signal at once. Commands there ignore
    # Ctrl-C, hence the trap, and read nothing unless told to.
    (trap - INT QUIT && exec "$@") <&0 &
    child=$!
    trap 'signalled=1' INT
    trap 'signalled=1; kill -TERM "$child"' TERM
    trap 'signalled=1; kill -HUP "$child"' HUP
    while true; do
        signalled="" status=0
        wait "$child" || status=$?
        [[ $signalled ]] || break
    done
    trap - INT TERM HUP
    return "$status"
}
