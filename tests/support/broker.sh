# A broker for the length of a script, under an instance of its own. Sourced, by bash scripts with `set -eu`.
#
#   PATH must begin with the folder of the programs.
#   broker_start COMMAND...   starts it (mqbroker and its options, or valgrind before them) and returns when it serves; MQBROKER_INSTANCE names it
#   broker_stop                 SIGTERM, and its exit status; an EXIT trap does the same however the script ends
#   broker_await WHAT COMMAND... looks until the command succeeds, at most 20 s; fails with WHAT
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

broker_subscriptions() { # at least so many subscriptions exist
    local n
    n=$(mqstat --json | sed -n 's/^ *"subscriptions": *\([0-9]*\),*$/\1/p' | head -n 1)
    [ "${n:-0}" -ge "$1" ]
}

broker_start() {
    export MQBROKER_INSTANCE="${0##*/}-$$"
    MQBROKER_INSTANCE=${MQBROKER_INSTANCE//./-}
    "$@" &
    broker_pid=$!
    trap broker_stop EXIT
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
