#!/usr/bin/env bash
# Shows that the project's Dask workers run as jobs of a real SLURM: a cluster of one node, this machine.
# Run as root on Debian: tests/cluster/slurm.sh [COMMAND ...]. COMMAND runs in the repository; without one,
# two workers compute a few tasks. It installs slurm-wlm and munge if missing, and leaves no process behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(readlink -m "$(dirname "${PYTHON:-.venv/bin/python}")")/python
export PATH=$(dirname "$python"):$PATH

command -v slurmctld slurmd munged >/dev/null ||
    apt-get install -qq --no-install-recommends slurm-wlm munge

work=$(mktemp -d)
export SLURM_CONF=$work/slurm.conf
daemons=()

stop() {
    status=$?
    trap - EXIT INT TERM
    # A job outlives slurmd: it must end while there is one to end it.
    scancel --user=root --full 2>/dev/null || true
    for _ in $(seq 40); do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 0.5
    done
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2>/dev/null || true
        wait "${daemons[i]}" 2>/dev/null || true
    done
    # What a job started may outlive it: only a cgroup would hold it.
    for environment in $(grep -lsF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ); do
        kill -KILL "$(basename "$(dirname "$environment")")" 2>/dev/null || true
    done
    if [ "$status" = 0 ]; then rm -r "$work"; else echo "error: the logs are in $work" >&2; fi
    exit "$status"
}
trap stop EXIT
trap 'exit 1' INT TERM

# munged refuses a socket that others cannot reach, and a key that others can read.
chmod 711 "$work"
mkdir "$work/state" "$work/spool"
(umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")

# slurmd -C names the node's real processors and memory; its second line is the uptime.
node=$(slurmd -C | head -n 1)
host=$(hostname -s)
cat >"$SLURM_CONF" <<CONF
ClusterName=cfnsr
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
$node NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

munged --foreground --force --num-threads=2 --key-file="$work/munge.key" \
    --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
    --seed-file="$work/munged.seed" --log-file="$work/munged.log" 2>"$work/munged.err" &
daemons+=($!)
for _ in $(seq 20); do
    [ -S "$work/munge.socket" ] && break
    sleep 0.5
done
slurmctld -D >"$work/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D >"$work/slurmd.log" 2>&1 &
daemons+=($!)

for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
    sleep 0.5
done
sinfo
[ "$(sinfo --noheader --format=%t)" = idle ]

if [ $# -gt 0 ]; then
    "$@"
    exit
fi

"$python" - "$work" <<'PYTHON'
import os, subprocess, sys, time

from dask_jobqueue import SLURMCluster
from distributed import Client


def job_id(i):
    time.sleep(0.5)
    return os.environ["SLURM_JOB_ID"]


with SLURMCluster(
    cores=1,
    processes=1,
    memory="2GB",
    log_directory=sys.argv[1],
    local_directory=sys.argv[1],
    interface="lo",
) as cluster, Client(cluster) as client:
    start = time.time()
    cluster.scale(2)
    client.wait_for_workers(2, timeout=60)
    print(f"2 workers after {time.time() - start:.1f} s")
    print(subprocess.run(["squeue"], capture_output=True, text=True).stdout)
    jobs = client.gather(client.map(job_id, range(8), pure=False))
    print("SLURM_JOB_ID of 8 tasks:", jobs)
    assert len(set(jobs)) == 2
PYTHON
