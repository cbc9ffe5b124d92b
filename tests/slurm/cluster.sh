#!/usr/bin/env bash
#
# cluster.sh - a real multi-node Slurm cluster on one Linux machine, for tests.
#
# Every "host" of the cluster is a set of Linux namespaces of its own:
#
#   fabric   network namespace that holds nothing but the bridge (the switch)
#   ctl      login + controller host: munged, slurmctld   (network, UTS, IPC, mount)
#   node1..N compute hosts: munged, slurmd                (the same, and a PID namespace)
#
# so that each has its own host name, IP address, /proc, /dev/shm, munged and spool
# folder, and a node can lose its link or its power without the others.
# There is no route out of the cluster: no packet of it can leave this machine, and
# the hosts' names resolve only inside it. Everything else (file system, users) is
# shared, as on a cluster with a shared home.
#
# Needs: root (CAP_SYS_ADMIN, CAP_NET_ADMIN), util-linux, iproute2, munge and Slurm
# (`cluster.sh install` on Debian and Ubuntu). No systemd, Docker or cgroup.
#
#   cluster.sh install             packages, by apt-get
#   cluster.sh start [N]           N nodes (2); does nothing where N already run
#   cluster.sh stop                end all of it and remove its namespaces
#   cluster.sh status              exit 0: all up; 1: some are not; 3: not started
#   cluster.sh env                 shell lines that put sbatch, srun.. on PATH
#   cluster.sh run CMD..           run CMD on the login host
#   cluster.sh on HOST CMD..       run CMD on ctl, node1, node2..
#
# Faults, for tests (NODE is node1, node2..):
#   cluster.sh link NODE down|up       pull / plug the network cable
#   cluster.sh crash NODE              power loss: cable out, all processes killed
#   cluster.sh boot NODE               power on again after crash
#   cluster.sh wait [SECONDS]          until every node is idle or in use (30)
#
# Settings (environment; read by `start`):
#   TESTBED_DIR      state folder                         /run/slurm-testbed
#   TESTBED_NAME     prefix of the network namespaces     slurmtb
#   TESTBED_SUBNET   first three numbers of the addresses 10.77.0
#   TESTBED_CPUS     CPUs each node claims                4
#   TESTBED_MEM      memory in MiB each node claims       8000
#   TESTBED_GPUS     fake GPUs each node claims           2

set -euo pipefail

SELF=$(readlink -f "${BASH_SOURCE[0]}")
STATE=${TESTBED_DIR:-/run/slurm-testbed}
NAME=${TESTBED_NAME:-slurmtb}
SUBNET=${TESTBED_SUBNET:-10.77.0}
CPUS=${TESTBED_CPUS:-4}
MEM=${TESTBED_MEM:-8000}
GPUS=${TESTBED_GPUS:-2}
PATH=$PATH:/usr/sbin:/sbin
unset SLURM_CONF                              # another cluster's, or the one of `env`

# The mark of "inside a host of the cluster": $STATE/etc is mounted on /etc/slurm there.
MARK=/etc/slurm/.slurm-testbed

say()  { printf '%s\n' "$*"; }
die()  { printf 'cluster.sh: %s\n' "$*" >&2; exit 2; }
hosts() { printf 'ctl\n'; local i; for ((i = 1; i <= $(cat "$STATE/nodes"); i++)); do printf 'node%d\n' "$i"; done; }
addr() { case $1 in ctl) printf '%s.1' "$SUBNET" ;; node*) printf '%s.%d' "$SUBNET" $((10 + ${1#node})) ;; esac; }

# --- processes -----------------------------------------------------------------
# A process is known by its pid *and* its start time (field 22 of /proc/PID/stat), so
# that a pid which the kernel has given to something else since is never signalled.

start_time() {                                                  # PID
    local stat; stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    local -a field; read -ra field <<<"${stat##*) }"            # from the third field on
    [[ ${field[0]} != Z ]] || return 1                          # a zombie has ended
    printf '%s' "${field[19]}"
}
remember() { printf '%s %s\n' "$1" "$(start_time "$1")" >"$2"; } # PID FILE
alive() {                                                       # FILE; sets PID
    local since
    read -r PID since 2>/dev/null <"$1" || return 1
    [[ $(start_time "$PID") == "$since" ]]
}
end() {                                                         # FILE
    if alive "$1"; then
        kill -KILL "$PID" 2>/dev/null || :
        for _ in {1..200}; do alive "$1" || break; sleep 0.02; done
    fi
    rm -f "$1"
}

# --- hosts ---------------------------------------------------------------------

# The first process of a host; runs inside its namespaces. On a node it is PID 1 there:
# when it ends, the kernel ends everything on that node. It adopts and reaps orphans.
# ctl has no PID namespace (the clients that tests start there stay the tests' own
# children, in the tests' own PID namespace), so its daemons are remembered one by one.
host_init() {
    local host=$1 dir=$STATE/$1 pid _
    read -r pid _ </proc/self/stat            # our pid outside: /proc is the outer one yet
    trap '' HUP INT TERM
    mount --make-rprivate /
    hostname "$host"
    [[ $host == ctl ]] || mount -t proc proc /proc
    mount -t sysfs sysfs /sys                 # so that /sys/class/net is this host's
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount --bind "$STATE/etc" /etc/slurm
    mount --bind "$STATE/etc/hosts" /etc/hosts
    mount --bind "$dir/munge" /run/munge
    ip link set lo up
    munged --foreground --key-file="$STATE/munge.key" --pid-file="$dir/munged.pid" \
        --socket=/run/munge/munge.socket.2 --log-file="$dir/munged.log" \
        --seed-file="$dir/munged.seed" --origin="$(addr "$host")" --num-threads=2 &
    [[ $host != ctl ]] || remember $! "$dir/munged.known"
    until [[ -S /run/munge/munge.socket.2 ]]; do sleep 0.01; done
    daemon_start "$host"
    printf '%s\n' "$pid" >"$dir/ready"
    wait                                      # for as long as a daemon lives; meanwhile bash reaps orphans
}

# Start what the host is there for, as a child of host_init.
daemon_start() {
    local dir=$STATE/$1 daemon=slurmd
    [[ $1 != ctl ]] || daemon=slurmctld
    rm -f "$dir/$daemon.pid"
    (cd "$dir" && exec "$daemon" -D) >"$dir/$daemon.out" 2>&1 &
    [[ $1 != ctl ]] || remember $! "$dir/slurmctld.known"
    local child=$!
    until [[ -s $dir/$daemon.pid ]]; do
        [[ -e /proc/$child ]] || { cat "$dir/$daemon.out"; return 1; }
        sleep 0.01
    done
}

host_start() {
    local host=$1 dir=$STATE/$1 ns=$NAME-$1 unshare=(--uts --ipc --mount)
    [[ $host == ctl ]] || unshare+=(--pid --fork --kill-child)
    rm -rf "$dir"/{ready,munge} "$dir"/*.pid
    mkdir -p "$dir/munge" "$dir/spool" "$dir/state"
    if [[ ! -e /run/netns/$ns ]]; then
        ip netns add "$ns"
        ip -n "$NAME-fabric" link add "v-$host" type veth peer name eth0 netns "$ns"
        ip -n "$NAME-fabric" link set "v-$host" master br0 up
        ip -n "$ns" addr add "$(addr "$host")/24" dev eth0
    fi
    ip -n "$ns" link set eth0 up
    # No file of the caller's may stay open in the daemons: a caller that reads our
    # output through a pipe would wait for ever for its end.
    setsid nsenter --net="/run/netns/$ns" -- unshare "${unshare[@]}" -- \
        bash "$SELF" __init "$host" </dev/null >"$dir/init.log" 2>&1 9>&- &
    local runner=$!
    for _ in {1..500}; do
        [[ -s $dir/ready ]] && break
        [[ -e /proc/$runner ]] || break
        sleep 0.02
    done
    if [[ ! -s $dir/ready ]]; then
        tail -q -n 5 "$dir"/init.log "$dir"/munged.log "$dir"/slurm*.log >&2 2>/dev/null || :
        die "$host did not start; logs are in $dir"
    fi
    remember "$(cat "$dir/ready")" "$dir/init.pid"
}

# Run a command on a host, in the caller's folder.
# shellcheck disable=SC2016  # what the inner shell is to expand
on() {
    local host=$1 flags=(-n -u -i -m); shift
    [[ $host == ctl ]] || flags+=(-p)
    alive "$STATE/$host/init.pid" || die "$host is not up"
    nsenter -t "$PID" "${flags[@]}" -- /bin/sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
}

# --- configuration -------------------------------------------------------------

write_conf() {
    local n=$1 etc=$STATE/etc i gres=
    mkdir -p "$etc" "$STATE/dev" "$STATE/bin"
    : >"$etc/${MARK##*/}"
    ( umask 077; head -c 1024 /dev/urandom >"$STATE/munge.key" )

    # slurmd loads a cgroup plugin even where nothing uses one, and `autodetect` fails in a
    # container; v1's looks at nothing until it is used. From 24.05 on there is a way to say so.
    local plugin=cgroup/v1 version
    version=$(slurmd -V); version=${version##* }
    [[ $(printf '%s\n' 24.05 "$version" | sort -V | head -n 1) != 24.05 ]] || plugin=disabled
    printf 'CgroupPlugin=%s\n' "$plugin" >"$etc/cgroup.conf"

    { printf '127.0.0.1 localhost\n%s ctl\n' "$(addr ctl)"
      for ((i = 1; i <= n; i++)); do printf '%s node%d\n' "$(addr node$i)" "$i"; done; } >"$etc/hosts"

    # Fake GPUs: what matters is that each is a character device and that its name ends
    # in a number (with plain files Slurm counts them, but CUDA_VISIBLE_DEVICES is empty).
    if ((GPUS > 0)); then
        for ((i = 0; i < GPUS; i++)); do ln -sf /dev/null "$STATE/dev/nvidia$i"; done
        gres=" Gres=gpu:$GPUS"
        printf 'AutoDetect=off\nName=gpu File=%s/dev/nvidia[0-%d]\n' "$STATE" $((GPUS - 1)) >"$etc/gres.conf"
    fi

    cat >"$etc/slurm.conf" <<EOF
ClusterName=testbed
SlurmctldHost=ctl
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# How long a requeued job waits before it may start again (default 120 s).
AuthInfo=cred_expire=5

StateSaveLocation=$STATE/ctl/state
SlurmctldPidFile=$STATE/ctl/slurmctld.pid
SlurmctldLogFile=$STATE/ctl/slurmctld.log
SlurmdSpoolDir=$STATE/%n/spool
SlurmdPidFile=$STATE/%n/slurmd.pid
SlurmdLogFile=$STATE/%n/slurmd.log

# Nothing that needs a cgroup.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
# Limits of the caller's may be above what a container's root can set.
PropagateResourceLimits=NONE

# Nodes claim what the lines below say, not what this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((MEM / CPUS))
GresTypes=gpu

# Quick to notice and to act, as tests want it.
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
KillWait=5
MinJobAge=3600
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,requeue_setup_env_fail
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

AccountingStorageType=accounting_storage/none

NodeName=node[1-$n] CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM$gres State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
# Jobs here push jobs of "main" off their nodes, and those are requeued.
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
    # Commands for PATH: on the login host when called from outside of the cluster,
    # the plain command when called in it (a job inherits PATH).
    cat >"$STATE/bin/.enter" <<EOF
#!/bin/sh
real=/usr/bin/\${0##*/}
[ -e $MARK ] && exec "\$real" "\$@"
unset SLURM_CONF
read -r pid rest <'$STATE/ctl/init.pid' || exit 1
exec nsenter -t "\$pid" -n -u -i -m -- \\
    /bin/sh -c 'cd "\$0" 2>/dev/null || cd /; exec "\$@"' "\$PWD" "\$real" "\$@"
EOF
    chmod 755 "$STATE/bin/.enter"
    local c
    for c in salloc sbatch scancel scontrol sinfo squeue srun; do
        ln -sf .enter "$STATE/bin/$c"
    done
}

# --- commands ------------------------------------------------------------------

cmd_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge iproute2
}

cmd_start() {
    local n=${1:-2} i t0=$EPOCHREALTIME
    [[ $n =~ ^[1-9][0-9]?$ ]] || die "start: the number of nodes is 1 to 99"
    ((EUID == 0)) || die "start: must be root"
    local c
    for c in slurmctld slurmd munged ip nsenter unshare; do
        command -v "$c" >/dev/null || die "$c not found; try: $SELF install"
    done
    if [[ -e $STATE/nodes ]]; then
        if [[ $(<"$STATE/nodes") == "$n" ]] && all_alive && (cmd_wait 10) >/dev/null 2>&1; then
            say "already running: $n nodes"; return
        fi
        cmd_stop >/dev/null
    fi
    umask 022
    mkdir -p "$STATE"
    mkdir -p /etc/slurm /run/munge            # only as places to mount on, in the hosts
    write_conf "$n"
    printf '%s\n' "$n" >"$STATE/nodes"
    ip netns add "$NAME-fabric"
    ip -n "$NAME-fabric" link add br0 type bridge forward_delay 0
    ip -n "$NAME-fabric" link set br0 up
    local h jobs=()
    for h in $(hosts); do
        host_start "$h" & jobs+=($!)
        [[ $h != ctl ]] || wait $!            # the nodes register with ctl as they start
    done
    for i in "${jobs[@]:1}"; do wait "$i" || exit 2; done
    cmd_wait 30 >/dev/null
    awk -v n="$n" -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN { printf "started: %d nodes in %.1f s\n", n, b - a }'
}

all_alive() { local h; for h in $(hosts); do alive "$STATE/$h/init.pid" || return 1; done; }

cmd_wait() {
    local until=$((SECONDS + ${1:-30})) n bad=
    n=$(cat "$STATE/nodes")
    while ((SECONDS < until)); do
        # compact states; a trailing * means that the node does not answer
        if bad=$(on ctl sinfo -h -N -p main -o '%N %t' 2>&1); then
            if [[ $(grep -cE ' (idle|mix|alloc|comp)$' <<<"$bad") == "$n" ]]; then say "$bad"; return 0; fi
        fi
        sleep 0.1
    done
    printf '%s\n' "$bad" >&2
    die "the nodes are not ready; logs are in $STATE"
}

cmd_stop() {
    local h d
    if [[ -e $STATE/nodes ]]; then
        for h in $(hosts); do end "$STATE/$h/init.pid"; done       # a node's PID 1: takes the node down
        for d in slurmctld munged; do end "$STATE/ctl/$d.known"; done
    fi
    for h in $(ip netns list 2>/dev/null | awk -v p="$NAME-" 'index($1, p) == 1 { print $1 }'); do
        d=$(ip netns pids "$h" 2>/dev/null) || d=
        [[ -z $d ]] || say "note: processes still run in $h, not ours to end: ${d//$'\n'/ }"
        ip netns del "$h"
    done
    # remove only what is ours, and never through a mount
    if [[ -e $STATE/etc/${MARK##*/} ]]; then rm -rf --one-file-system "$STATE"; fi
    say stopped
}

cmd_status() {
    [[ -e $STATE/nodes ]] || { say "not started"; return 3; }
    local h rc=0 up
    for h in $(hosts); do
        up=down; if alive "$STATE/$h/init.pid"; then up="up (pid $PID)"; else rc=1; fi
        printf '%-8s %-14s link %-5s %s\n' "$h" "$(addr "$h")" \
            "$(ip -n "$NAME-$h" -br link show eth0 2>/dev/null | awk '{ print $2 }')" "$up"
    done
    (on ctl sinfo -N -p main -o '%10N %10P %12T %5c %8m %10G %E') || rc=1
    (cmd_wait 1) >/dev/null 2>&1 || rc=1
    return $rc
}

cmd_link() { [[ -e /run/netns/$NAME-$1 ]] || die "link: no host $1"; ip -n "$NAME-$1" link set eth0 "$2"; }

cmd_crash() {
    [[ $1 == node* ]] || die "crash: nodes only"
    cmd_link "$1" down                        # first: a dead machine sends no FIN, no RST
    end "$STATE/$1/init.pid"
}

cmd_boot() {
    [[ $1 == node* ]] || die "boot: nodes only"
    ! alive "$STATE/$1/init.pid" || die "boot: $1 is up"
    host_start "$1"
}

# One start, stop or fault at a time.
locked() { exec 9>"${STATE%/}.lock"; flock -w 120 9 || die "another start or stop is under way"; "$@"; }

usage() { sed -n '/^#   cluster.sh/s/^# \{3\}//p' "$SELF"; }

main() {
    local cmd=${1:-}; [[ $# == 0 ]] || shift
    case $cmd in
        install) cmd_install ;;
        start)   locked cmd_start "$@" ;;
        stop)    locked cmd_stop ;;
        boot)    locked cmd_boot "${1:?NODE}" ;;
        crash)   locked cmd_crash "${1:?NODE}" ;;
        link)    cmd_link "${1:?NODE}" "${2:?down or up}" ;;
        status)  cmd_status ;;
        wait)    cmd_wait "$@" ;;
        env)     say "export PATH='$STATE/bin':\"\$PATH\""
                 # Without a configuration a Slurm client asks the DNS for one, at every call.
                 # With this one, a plain client outside of the cluster fails at once instead.
                 say "export SLURM_CONF=/dev/null" ;;
        run)     on ctl "$@" ;;
        on)      on "$@" ;;
        __init)  host_init "$1" ;;
        help|-h|--help) usage ;;
        *)       usage >&2; exit 2 ;;
    esac
}

main "$@"
