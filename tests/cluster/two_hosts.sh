#!/usr/bin/env bash
# Shows that what trains on a host that loses its network is finished on another: two network namespaces
# are the hosts, each with one Dask worker, and a third is the head node with the scheduler and the client.
# Run as root on Debian: tests/cluster/two_hosts.sh. It installs iproute2 if missing and removes the namespaces.
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

export DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=${TTL:-10s}
export DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=${TCP:-15s}
export DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=${CONNECT:-10s}
export DASK_SCHEDULER_ADDRESS=tcp://10.77.0.1:8786
on head dask scheduler --host 10.77.0.1 --port 8786 --no-dashboard \
    >"$work/scheduler.log" 2>&1 &
for host in a b; do
    on $host dask worker "$DASK_SCHEDULER_ADDRESS" --name $host --nthreads 1 --nworkers 1 --no-dashboard \
        --local-directory "$work/$host" ${NANNY:---nanny} >"$work/$host.log" 2>&1 &
    eval "worker_$host=$!"
done

cat >"$work/program.py" <<'PYTHON'
import sys, time
from pathlib import Path

from distributed import Client, as_completed, get_worker

folder = Path(sys.argv[1])
seconds = float(sys.argv[2])


def sleep_and_write(i, folder, seconds):
    host = get_worker().address
    begun = time.time()
    with open(folder / "begun", "a") as f:
        f.write(f"{begun:.1f} {i} {host}\n")
    time.sleep(seconds)
    (folder / f"task-{i}").write_text(host)
    with open(folder / "ended", "a") as f:
        f.write(f"{time.time():.1f} {i} {host}\n")
    return i, host


with Client() as client:
    client.wait_for_workers(2, timeout=30)
    for future in as_completed(client.map(sleep_and_write, range(10), folder=folder, seconds=seconds)):
        print(f"{time.time():.1f}", *future.result(), flush=True)
PYTHON
mkdir "$work/results"
on head "$python" "$work/program.py" "$work/results" "${SECONDS_A_TASK:-3}" &
program=$!

finished() { [ "$(ls "$work/results" | grep -c task-)" -ge "$1" ]; }
wait_for 60 finished 4
echo "$(date +%s.%N | cut -c-12) the link of host b goes down"
ip -n cfnsr-head link set port-b down
wait $program
echo "$(date +%s.%N | cut -c-12) all tasks are finished"

gone() { ! kill -0 "$1" 2>/dev/null; }
if [ -n "${BACK:-1}" ]; then
    echo "$(date +%s.%N | cut -c-12) worker b is $(gone $worker_b && echo gone || echo alive); its link comes back"
    ip -n cfnsr-head link set port-b up
    for _ in $(seq "${WATCH:-30}"); do sleep 1; gone $worker_b && break; done
    echo "$(date +%s.%N | cut -c-12) worker b is $(gone $worker_b && echo gone || echo alive)"
    on head "$python" -c "
from distributed import Client
print('workers of the scheduler:', [w['name'] for w in Client().scheduler_info()['workers'].values()])"
fi
echo "== begun"; cat "$work/results/begun"; echo "== ended"; cat "$work/results/ended"
for f in scheduler a b; do echo "== $f.log"; tail -n "${TAIL:-40}" "$work/$f.log"; done
