# shellcheck shell=bash
# Sourced by every run.sh, once its options are read: sets $python to an interpreter that has all
# that pyproject.toml asks for, and PYTHONPATH to this repository. It makes .venv when that is
# missing or was made from another pyproject.toml. ADAKD_PYTHON names an interpreter to use as it
# is; then nothing is installed. When all is well this costs a few milliseconds.

adakd_root=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
. "$adakd_root/local/common.sh"

# .venv/pyproject.toml, written last, is a copy of the one that was installed.
environment_is_current() {
    [[ -x $adakd_root/.venv/bin/python ]] &&
        cmp -s "$adakd_root/pyproject.toml" "$adakd_root/.venv/pyproject.toml"
}

# supported_python: the first interpreter on the PATH that will do.
supported_python() {
    local name found="" complaint="there is no python3"
    for name in python3.11 python3 python3.12 python3.13 python3.14; do
        command -v "$name" >/dev/null || continue
        if complaint=$("$name" "$adakd_root/local/check_python.py" version 2>&1); then
            found=$name
            break
        fi
    done
    [[ -n $found ]] || fail "$complaint; install one, or name it: ADAKD_PYTHON=/path/to/python ./run.sh"
    printf '%s\n' "$found"
}

check_disk() {
    local needed=$1 free
    free=$(($(df -k --output=avail -- "$adakd_root" | tail -n 1) / 1024 / 1024))
    ((free >= needed)) ||
        fail "$free GB free on the disk of $adakd_root, but the installation needs $needed GB;" \
            "make room, or name an interpreter that has everything: ADAKD_PYTHON=/path/to/python"
}

# show_progress: reads pip's lines and shows the newest with the time so far.
show_progress() {
    local line="" newest="Starting" status next=0
    while true; do
        status=0
        read -r -t 1 line || status=$?
        ((status == 0 || status > 128)) || break # above 128: nothing new for a second
        case $line in # pip's news, without its warnings
            Collecting* | *Downloading* | Building* | Installing* | Successfully*) newest=$line ;;
        esac
        if [[ -t 2 ]]; then
            printf '\r  %d:%02d  %.66s\033[K' $((SECONDS / 60)) $((SECONDS % 60)) "$newest" >&2
        elif ((SECONDS >= next)); then
            printf '  %d:%02d  %.66s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$newest" >&2
            next=$((SECONDS + 15))
        fi
    done
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
}

# install: fills .venv.
install() {
    local venv=$adakd_root/.venv base
    if [[ ! -x $venv/bin/python ]]; then
        base=$(supported_python) || exit 1 # errexit is off in what `||` guards
        check_disk 9 # 5.4 GB in the end, 7.2 GB with the wheels on the way, and pip's cache
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base cannot make virtual environments; install its package (Debian: apt install $base-venv)"
        "$base" -m venv --clear "$venv" || fail "could not make $venv"
    fi
    local log=$venv/install.log temporary=$venv/tmp
    say "Installing AdaKD and its libraries into .venv (once; 2 to 10 minutes, 5 GB)"
    # Wheels are unpacked where they will stay: /tmp may be small.
    mkdir -p "$temporary"
    SECONDS=0
    if ! TMPDIR=$temporary "$venv/bin/python" -m pip install --no-input --progress-bar off \
        --disable-pip-version-check --editable "${adakd_root}[espeak,test]" 2>&1 |
        tee "$log" | show_progress; then
        rm -rf -- "$temporary"
        tail -n 8 -- "$log" >&2
        fail "the installation failed, see above (the whole log is $log);" \
            "run again, and if it fails again, remove $venv first"
    fi
    rm -rf -- "$temporary"
    "$venv/bin/python" "$adakd_root/local/check_python.py" imports ||
        fail "what was installed does not fit; remove .venv and run again (log: $log)"
    cp -- "$adakd_root/pyproject.toml" "$venv/pyproject.toml" || fail "cannot write to $venv"
    say "Installed in $SECONDS s"
}

# make_environment: installs, or waits for another run that does.
make_environment() {
    exec 9>"$adakd_root/.venv.lock" || fail "cannot write to $adakd_root"
    if ! flock --nonblock 9; then
        say "Another run is installing into .venv; waiting for it"
        flock 9
    fi
    environment_is_current || install
}

# check_given_python: ADAKD_PYTHON is checked once, and again when what is asked of it changes.
check_given_python() {
    local checked stamp=$adakd_root/.adakd-python
    command -v "$python" >/dev/null || fail "ADAKD_PYTHON is '$python', which cannot be run"
    checked="$(command -v "$python") $(cat -- "$adakd_root"/{pyproject.toml,local/check_python.py} | cksum)"
    [[ ! -f $stamp || $(<"$stamp") != "$checked" ]] || return 0
    local what
    for what in version imports; do
        "$python" "$adakd_root/local/check_python.py" "$what" ||
            fail "ADAKD_PYTHON does not fit; install what pyproject.toml lists, or unset it to have" \
                ".venv made"
    done
    # Where the repository cannot be written it is checked every time.
    { printf '%s\n' "$checked" >"$stamp"; } 2>/dev/null || true
}

[[ $adakd_root != *:* ]] || fail "rename $adakd_root: a ':' ends a folder in PYTHONPATH"
export PYTHONPATH="$adakd_root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # a yaml.py where one happens to stand is none of ours
export PYTHONUTF8=1     # file names and output in any script, whatever the locale
python=${ADAKD_PYTHON:-$adakd_root/.venv/bin/python}
[[ $python != */* || $python == /* ]] || python=$PWD/$python # tests/run.sh changes the folder
if [[ -n ${ADAKD_DRY_RUN:-} ]]; then
    : # nothing will run
elif [[ -n ${ADAKD_PYTHON:-} ]]; then
    check_given_python
elif ! environment_is_current; then
    (make_environment) || exit 1
fi
