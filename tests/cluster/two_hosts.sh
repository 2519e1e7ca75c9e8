#!/usr/bin/env bash
# Shows that what a host was computing when it lost its network is finished by another: two network namespaces
# are the hosts, each with one Dask worker; a third is the head node with the scheduler and COMMAND, in the repository.
# Run as root on Debian: tests/cluster/two_hosts.sh [COMMAND ...], such as dvc repro train@1; without one, ten tasks run.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(readlink -m "$(dirname "${PYTHON:-.venv/bin/python}")")/python
export PATH=$(dirname "$python"):$PATH

command -v ip >/dev/null || apt-get install -qq --no-install-recommends iproute2

work=$(mktemp -d)
namespaces=(cfnsr-head cfnsr-a cfnsr-b)

stop() {
    status=$?
    trap - EXIT INT TERM
    for name in "${namespaces[@]}"; do
        ip netns pids "$name" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
        ip netns delete "$name" 2>/dev/null || true
    done
    wait
    if [ "$status" = 0 ]; then rm -r "$work"; else echo "error: the logs are in $work" >&2; fi
    exit "$status"
}
trap stop EXIT
trap 'exit 1' INT TERM

on() {  # on HOST COMMAND ...
    ip netns exec "cfnsr-$1" "${@:2}"
}

wait_for() {  # wait_for SECONDS CONDITION ...
    for _ in $(seq "$(($1 * 10))"); do
        "${@:2}" && return
        sleep 0.1
    done
    echo "error: not within $1 s: ${*:2}" >&2
    return 1
}

for name in "${namespaces[@]}"; do
    ip netns add "$name"
    ip -n "$name" link set lo up
done
# The switch is in the head node, so that this machine's own network and firewall have no part in it.
ip -n cfnsr-head link add name switch type bridge
ip -n cfnsr-head address add 10.77.0.1/24 dev switch
ip -n cfnsr-head link set switch up
for host in a b; do
    ip -n cfnsr-head link add "port-$host" type veth peer name eth0 netns "cfnsr-$host"
    ip -n cfnsr-head link set "port-$host" master switch up
    ip -n "cfnsr-$host" link set eth0 up
done
ip -n cfnsr-a address add 10.77.0.2/24 dev eth0
ip -n cfnsr-b address add 10.77.0.3/24 dev eth0

# The kernel answers for a worker that is busy, so a short TCP timeout finds hosts that are gone and no others.
# A short worker-ttl would also end workers that are only busy.
export DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=15s
export DASK_SCHEDULER_ADDRESS=tcp://10.77.0.1:8786
# The settings of the workers that `python -m cfnsr cluster` starts.
while IFS= read -r setting; do
    export "${setting?}"
done < <("$python" -c 'from cfnsr import cluster; print(*map("=".join, cluster.environment(True).items()), sep="\n")')
on head "$python" -m distributed.cli.dask_scheduler --host 10.77.0.1 --port 8786 --no-dashboard \
    >"$work/scheduler.log" 2>&1 &
# Unlike `dask worker`, `python -m` finds the package of this folder.
start_worker() {  # start_worker HOST
    on "$1" "$python" -m distributed.cli.dask_worker "$DASK_SCHEDULER_ADDRESS" --name "$1" --nthreads 1 \
        --nworkers 1 --memory-limit 0 --no-dashboard --local-directory "$work/$1" >>"$work/$1.log" 2>&1 &
}
start_worker a
start_worker b
worker_b=$!

cat >"$work/program.py" <<'PYTHON'
import sys, time
from pathlib import Path

from distributed import Client, as_completed, get_worker


def sleep_and_write(i, folder):
    address = get_worker().address
    (folder / f"begun-{i}-{address[6:]}").touch()
    time.sleep(3)
    (folder / f"ended-{i}-{address[6:]}").touch()
    return address


folder = Path(sys.argv[1])
start = time.time()
with Client() as client:
    client.wait_for_workers(2, timeout=60)
    futures = client.map(sleep_and_write, range(10), folder=folder)
    # Of the tasks of the lost host, those that are still held would be computed again.
    position = {future.key: i for i, future in enumerate(futures)}
    waiting = as_completed(futures)
    del futures
    for future in waiting:
        print(f"{time.time() - start:5.1f} s: task {position[future.key]} by {future.result()}", flush=True)
PYTHON

registered() { [ "$(grep -c 'Register worker addr' "$work/scheduler.log")" -ge "$1" ]; }
wait_for 60 registered 2
if [ $# -gt 0 ]; then
    under_way() { [ -n "$(find build/scratch/train -name state.pt -print -quit 2>/dev/null)" ]; }
    on head "$@" &
else
    mkdir "$work/results"
    under_way() { [ "$(ls "$work"/results/begun-*-10.77.0.3:* 2>/dev/null | wc -l)" -ge 2 ]; }
    on head "$python" "$work/program.py" "$work/results" &
fi
command=$!
under_way_or_ended() { under_way || ! kill -0 "$command" 2>/dev/null; }
wait_for 600 under_way_or_ended
under_way

cut=$(date +%s.%N)
since() { awk -v cut="$cut" -v now="$(date +%s.%N)" 'BEGIN { printf "%.1f s after the cut: ", now - cut }'; }
ip -n cfnsr-head link set port-b down
echo "the link of host b is down"
noticed() { grep -q 'Remove worker addr: tcp://10.77.0.3' "$work/scheduler.log"; }
wait_for 60 noticed
echo "$(since)the scheduler has noticed"
ended() { ! kill -0 "$worker_b" 2>/dev/null; }
wait_for 90 ended
echo "$(since)the worker of host b has ended"
wait "$command"
echo "$(since)the command has ended"

ip -n cfnsr-head link set port-b up
echo "the link of host b is up again; a new worker joins"
start_worker b
wait_for 60 registered 3
