#!/usr/bin/env bash
# slurm_rank.sh COMMAND...: runs COMMAND in one task of srun, with the variables that
# torch.distributed reads and torchrun would have set.
set -euo pipefail
: "${SLURM_PROCID:?local/slurm_rank.sh runs under srun}"
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
# Jobs that share a node need ports of their own, and all tasks of a job the same.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
exec "$@"
