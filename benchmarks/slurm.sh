#!/bin/bash
# A study on SLURM: identical workers on one folder, which share its units of work by locks.
#
#   sbatch --array=1-8 --gpus-per-task=1 benchmarks/slurm.sh --preset=vgg16_folder --data_dir=DIR --output_dir=DIR
#
# The folder must lie on a file system that all nodes share, with working locks (flock). A worker that is to be stopped
# gets SIGTERM two minutes before: it writes its state at the end of the epoch, and is queued again. One that is lost
# costs what it did since its last state. PYTHON is the interpreter, .venv/bin/python if nothing else is said.
#SBATCH --job-name=keras-fge
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=slurm_%A_%a.log

cd "${SLURM_SUBMIT_DIR:-.}" || exit 1
"${PYTHON:-.venv/bin/python}" benchmarks/cifar.py "$@" &
worker=$!
stopped=
trap 'stopped=yes; kill -TERM $worker' TERM
wait $worker
status=$?
if [ $stopped ]; then
    wait $worker  # The first one ended at the signal, not with the worker.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    exit 0
fi
exit $status
