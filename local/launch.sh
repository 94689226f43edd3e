# shellcheck shell=bash
# How a step starts: one process, torchrun on this machine, or Slurm. Sourced, never run.
# Which GPUs are seen is the user's business: CUDA_VISIBLE_DEVICES is left as it is.

# launch_command LAUNCHER PROCESSES PYTHON ARGUMENTS...: sets the array `command` to what runs
# `adakd ARGUMENTS` that way.
launch_command() {
    local how=$1 processes=$2 interpreter=$3
    shift 3
    case $how in
        none) command=("$interpreter" -m adakd.cli "$@") ;;
        torchrun)
            # shellcheck disable=SC2154 # recipe.sh has set adakd_root
            command=("$interpreter" "$adakd_root/local/torchrun.py" --standalone)
            command+=("--nproc-per-node=$processes" -m adakd.cli "$@")
            ;;
        slurm)
            command=(srun "--ntasks=$processes" --kill-on-bad-exit=1)
            # Since Slurm 22.05 srun does not take this over from sbatch.
            [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || command+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
            command+=("$adakd_root/local/slurm_rank.sh" "$interpreter" -m adakd.cli "$@")
            ;;
    esac
}
