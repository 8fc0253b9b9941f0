# A broker for the length of a script, under an instance of its own. Sourced, by bash scripts with `set -eu`.
#
#   broker_start COMMAND...       starts it (mqbroker and its options, or valgrind before them) and returns when it serves;
#                                 MQBROKER_INSTANCE names it from here on
#   broker_stop                   SIGTERM, and its exit status. The script's EXIT trap calls it, so that it ends however the script does
#   broker_await WHAT COMMAND...  looks until the command succeeds, at most 20 s; fails with WHAT
#   broker_serves, broker_subscriptions N   such commands: it is alive; it has at least N subscriptions, or members of groups
#
# The programs must be in PATH.
# shellcheck shell=bash

broker_pid=

broker_await() {
    local what=$1 i
    shift
    for ((i = 0; i < 400; i++)); do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        if [ -n "$broker_pid" ] && ! kill -0 "$broker_pid" 2>/dev/null; then
            echo "the broker has ended while we waited for $what" >&2
            return 1
        fi
        sleep 0.05
    done
    echo "waited 20 s in vain for $what" >&2
    return 1
}

broker_serves() {
    mqstat --json | grep -q '"alive": *true'
}

broker_subscriptions() { # at least so many subscriptions exist, or members of groups
    local n members
    n=$(mqstat --json limits | sed -n 's/^ *"subscriptions": *\([0-9]*\),*$/\1/p' | head -n 1)
    members=$(mqstat --json groups | sed -n 's/^ *"members": *\([0-9]*\),*$/\1/p' | awk '{ n += $1 } END { print n + 0 }')
    [ $((${n:-0} + members)) -ge "$1" ]
}

broker_start() {
    export MQBROKER_INSTANCE="${0##*/}-$$"
    MQBROKER_INSTANCE=${MQBROKER_INSTANCE//./-}
    "$@" &
    broker_pid=$!
    trap 'exit 130' INT
    trap 'exit 143' TERM
    broker_await "the broker" broker_serves
}

broker_stop() {
    local pid=$broker_pid
    [ -n "$pid" ] || return 0
    broker_pid=
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid"
}
