#!/usr/bin/env bash
# slurm_rank.sh COMMAND...: runs COMMAND in one task of srun, with the variables that
# torch.distributed reads and torchrun would have set.
set -euo pipefail
: "${SLURM_PROCID:?local/slurm_rank.sh runs under srun}"
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
# With --gpus-per-task a task sees its own GPU alone.
[[ ${CUDA_VISIBLE_DEVICES:-,} == *,* ]] || LOCAL_RANK=0
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # as torchrun has it: else every task takes all cores
MASTER_ADDR=127.0.0.1
if ((SLURM_JOB_NUM_NODES > 1)); then
    # Not through head: scontrol would now and then be killed for writing to a closed pipe.
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=${hosts%%$'\n'*}
fi
export MASTER_ADDR
# Jobs that share a node need ports of their own, as do runs within a job; all tasks of a run have
# the same.
export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 37 + SLURM_STEP_ID) % 20000))
exec "$@"
