#!/usr/bin/env bash
# What README.md shows works. Its fenced blocks are taken by their info string:
#
#   sh        run, in order, in one shell, in an empty folder that has the built programs under build/bin and in PATH; each command must
#             succeed within the time limit. `./dev build` stands for the build that is being tested
#   c         the one with a main() is compiled against the installed library by pkg-config, and run while a broker serves
#   console   output as seen; not run
#
# A person reads one line after another; so before each command this waits until brokers and subscribers that were started in the
# background do their work.
#
# usage: check-readme.sh SOURCE_DIR BUILD_DIR COMPILER [FLAGS...]
set -eu
source=$1
build=$2
compiler=$3
shift 3
flags=("$@")
PATH=$build/bin:$PATH
# shellcheck source=tests/support/broker.sh
. "$source/tests/support/broker.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

blocks() { # INFO: all blocks of this kind, with a blank line after each
    awk -v info="$1" '
        /^```/ { inside = !inside && $0 == "```" info; open = !open; if (!open) print ""; if (!open) inside = 0; next }
        inside { print }' "$source/README.md"
}

# ---- sh ------------------------------------------------------------------------------------------------------------------------

mkdir "$scratch/tour"
ln -s "$build" "$scratch/tour/build"
cat >"$scratch/tour/dev" <<'END'
#!/bin/sh
[ "$*" = build ] || { echo "README: only ./dev build can stand in a block of sh, not ./dev $*" >&2; exit 1; }
END
chmod +x "$scratch/tour/dev"

if ! blocks sh | grep -q '[^[:space:]]'; then
    echo "README.md has no block of sh"
    exit 1
fi

{
    cat <<'END'
set -eu
. "$1/tests/support/broker.sh"
background() { # how many of our background jobs are this program
    local pid n=0
    for pid in $(jobs -pr); do
        [ "$(cat "/proc/$pid/comm")" != "$1" ] || n=$((n + 1))
    done 2>/dev/null
    echo "$n"
}
settled() { # a broker that was killed may be counted for a moment still
    [ "$(background mqbroker)" -eq 0 ] || { broker_serves && broker_subscriptions "$(background mqsub)"; }
}
settle() {
    broker_await "what runs in the background" settled
}
finish() {
    local status=$? pid
    trap - DEBUG EXIT
    for pid in $(jobs -pr); do
        kill -TERM "$pid" || true
        kill -CONT "$pid" || true # a stopped one does not hear the first
    done
    wait
    mqctl cleanup --force >/dev/null || true # in case it ended between a kill and the next start
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap settle DEBUG
END
    blocks sh
} >"$scratch/run"

echo "--- the commands"
export MQBROKER_INSTANCE="readme-$$"
(cd "$scratch/tour" && timeout 60 bash "$scratch/run" "$source" </dev/null)

# ---- c -------------------------------------------------------------------------------------------------------------------------

echo "--- the example"
blocks c >"$scratch/example.c"
if ! grep -q 'main(' "$scratch/example.c"; then
    echo "README.md has no example in C with a main()"
    exit 1
fi
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
PKG_CONFIG_PATH=$(dirname "$(find "$scratch/prefix" -name mqclient.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046 # words are wanted
"$compiler" -std=c11 -Wall -Wextra -Werror "${flags[@]}" "$scratch/example.c" \
    $(pkg-config --cflags --libs mqclient) -o "$scratch/example"
trap 'broker_stop; rm -rf "$scratch"' EXIT
broker_start mqbroker
LD_LIBRARY_PATH=$(pkg-config --variable=libdir mqclient) timeout 20 "$scratch/example" </dev/null
broker_stop
echo "check-readme: commands and example of README.md work"
