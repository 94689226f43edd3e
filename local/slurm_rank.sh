#!/usr/bin/env bash
# slurm_rank.sh COMMAND...: runs COMMAND in one task of srun, with the variables that
# torch.distributed reads and torchrun would have set.
set -euo pipefail
: "${SLURM_PROCID:?local/slurm_rank.sh runs under srun}"
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
# Not through head: scontrol would now and then be killed for writing to a closed pipe.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts%%$'\n'*}
# Jobs that share a node need ports of their own, and all tasks of a job the same.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
exec "$@"
