#!/usr/bin/env bash
# The broker and each tool under valgrind, once: no error, no leak, no descriptor lost.
#
# usage: check-valgrind.sh SOURCE_DIR BIN_DIR SHIM
#   SHIM: built from support/valgrind_shim.c
#   exit status 77: skipped, valgrind is not installed
set -eu
PATH=$2:$PATH
# shellcheck source=tests/support/broker.sh
. "$1/tests/support/broker.sh"

if ! command -v valgrind >/dev/null; then
    echo "check-valgrind: skipped, valgrind is not installed"
    exit 77
fi

# The broker does without pidfd_open, which is seen here; mqsub --exec does not.
valgrind=(valgrind -q --error-exitcode=99 --leak-check=full "--errors-for-leak-kinds=definite,indirect,possible")
under=(env LD_PRELOAD="$3" "${valgrind[@]}")

expect() { # WANTED GOT
    if [ "$1" != "$2" ]; then
        echo "expected '$1', got '$2'"
        exit 1
    fi
}

scratch=$(mktemp -d)
trap 'broker_stop; rm -rf "$scratch"' EXIT
broker_start "${valgrind[@]}" mqbroker 2> >(grep -v "^--[0-9]*-- " >&2)

"${under[@]}" mqpub -t valgrind/kept -m kept -r --confirm
"${under[@]}" mqsub -t 'valgrind/#' -C 4 -W 60 -v >"$scratch/received" &
subscriber=$!
"${under[@]}" mqsub -t valgrind/ask -C 1 -W 60 --exec 'tr a-z A-Z' &
server=$!
broker_await "two subscribers" broker_subscriptions 2

printf 'one\ntwo\n' | "${under[@]}" mqpub -t valgrind/lines -l -p 30
answer=$("${under[@]}" mqpub -t valgrind/ask -m hello --request -W 30)
expect HELLO "$answer"
wait "$server"
wait "$subscriber"
expect "$(printf '%s\n' 'valgrind/ask hello' 'valgrind/kept kept' 'valgrind/lines one' 'valgrind/lines two')" \
    "$(sort "$scratch/received")"

"${under[@]}" mqstat --json >"$scratch/json"
"${under[@]}" mqstat >"$scratch/table"

mqsub -g orders -t orders/new -W 1 >"$scratch/nothing" || [ $? -eq 3 ]
mqpub -t orders/new -m 'order 1' --confirm
"${under[@]}" mqctl groups >"$scratch/groups"
"${under[@]}" mqctl clients >"$scratch/clients"
expect 'order 1' "$("${under[@]}" mqctl peek orders -F %p)"
expect 'orders: 1 message was removed' "$("${under[@]}" mqctl purge orders)"
broker_stop
echo "check-valgrind: broker and tools are clean"
