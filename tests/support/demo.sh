#!/usr/bin/env bash
# The demonstration: real lines of a log go through a broker, by kind and priority, to subscribers with different filters; then a
# request and its reply; then the statistics. Ends by itself, leaves nothing behind, and fails if what was promised did not happen.
#
# usage: demo.sh BIN_DIR [FILE]
set -eu
PATH=$(cd "$1" && pwd):$PATH
# shellcheck source=tests/support/broker.sh
. "${0%/*}/broker.sh"

say() {
    printf '\n-- %s\n' "$*"
}

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# ---- the input -------------------------------------------------------------------------------------------

file=${2:-}
if [ -z "$file" ]; then
    for file in /var/log/dpkg.log /var/log/syslog /etc/services; do
        [ ! -s "$file" ] || [ ! -r "$file" ] || break
    done
fi
if [ ! -r "$file" ] || [ ! -s "$file" ]; then
    fail "cannot read $file, or it is empty; give a text file: ./dev demo FILE"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export DEMO_LINES=$scratch/lines # for the command that answers requests, below

# A line takes one cell of the store, and all of them fit the window of one publisher (1 MiB less a quarter): so the reader that is
# stopped below holds nobody up.
tail -n 3000 "$file" | tr -d '\0' | cut -b 1-160 | grep -a '[^[:space:]]' >"$DEMO_LINES"

# Sort the lines by kind. A kind is a topic below the file's name and has a priority: what is wrong or disturbs the system is urgent, a
# change is important, a mere state is not. `kinds` lists number, topic, priority and lines; kind.<number> has the lines.
root=$(basename "$file" .log | tr -c 'A-Za-z0-9\n' '-')
awk -v root="$root" -v into="$scratch" '
    {
        dpkg = $1 ~ /^[0-9]+-[0-9]+-[0-9]+$/ && $2 ~ /^[0-9]+:[0-9]+:[0-9]+$/ && $3 ~ /^[a-z]+$/
        if (dpkg && $3 == "status") { kind = "status/" $4; level = $4 ~ /^half-|^not-/ ? 24 : 4 }
        else if (dpkg) { kind = $3; level = $3 ~ /^(remove|purge)$/ ? 28 : $3 ~ /^(install|upgrade)$/ ? 16 : 8 }
        else if (tolower($0) ~ /error|fail|fatal|panic|denied/) { kind = "error"; level = 28 }
        else if (tolower($0) ~ /warn/) { kind = "warning"; level = 20 }
        else { kind = "line"; level = 8 }
        if (!(kind in number)) { number[kind] = ++n; priority[kind] = level }
        count[kind]++
        print > (into "/kind." number[kind])
    }
    END { for (kind in number) print number[kind], root "/" kind, priority[kind], count[kind] }' \
    "$DEMO_LINES" | sort -k 3,3nr -k 2,2 >"$scratch/kinds"

lines_of() { # TOPIC_PATTERN [LEAST_PRIORITY]: how many lines are of such kinds
    awk -v pattern="$1" -v least="${2:-0}" '$2 ~ pattern && $3 >= least { n += $4 } END { print n + 0 }' "$scratch/kinds"
}
total=$(lines_of .)

say "$total lines of $file, by kind; each kind is a topic and has a priority from 0 to 31"
awk '{ printf "   priority %2d  %5d lines  %s\n", $3, $4, $2 }' "$scratch/kinds"

# ---- the broker and its subscribers ----------------------------------------------------------------------

subscribers=()
finish() {
    local pid
    for pid in "${subscribers[@]}"; do
        kill -TERM "$pid" || true
        kill -CONT "$pid" || true # a stopped one does not hear the first
    done 2>/dev/null
    subscribers=()
    broker_stop
    rm -rf "$scratch"
}
trap finish EXIT

say "a broker of its own"
broker_start mqbroker

subscribe() { # FILE COUNT OPTION...: in the background, until so many messages have come
    mqsub -C "$2" -W 40 "${@:3}" >"$scratch/$1" &
    subscribers+=($!)
}

if [ "$(lines_of '/status/installed$')" -gt 0 ]; then
    one="$root/+/installed"
    n_one=$(lines_of '/status/installed$')
else
    one=$(head -n 1 "$scratch/kinds" | cut -d ' ' -f 2)
    n_one=$(lines_of "^$one\$")
fi
urgent=()
while read -r _ topic priority _; do
    [ "$priority" -lt 24 ] || urgent+=(-t "$topic")
done <"$scratch/kinds"

say "subscribers:"
echo "   everything   -t '$root/#'"
subscribe everything "$total" -t "$root/#" -F '%t'
echo "   one kind     -t '$one'"
subscribe one "$n_one" -t "$one"
n_filters=3
if [ "${#urgent[@]}" -gt 0 ]; then
    echo "   urgent kinds ${urgent[*]}"
    subscribe urgent "$(lines_of . 24)" "${urgent[@]}" -F '%P'
    n_filters=$((n_filters + ${#urgent[@]} / 2))
fi
echo "   a late one   -t '$root/#', stopped before the first line is published"
subscribe late "$total" -t "$root/#" -F '%P'
late=${subscribers[-1]}
broker_await "the subscriptions" broker_subscriptions "$n_filters"
kill -STOP "$late"

# ---- publish ---------------------------------------------------------------------------------------------

publishers=()
say "one publisher for each kind, four of them at a time"
running=0
while read -r number topic priority _; do
    if [ "$running" -eq 4 ]; then
        wait -n || fail "a publisher failed"
        running=3
    fi
    mqpub -l -t "$topic" -p "$priority" <"$scratch/kind.$number" &
    running=$((running + 1))
    publishers+=($!)
done < <(shuf "$scratch/kinds")
for pid in "${publishers[@]}"; do
    wait "$pid" || fail "a publisher failed"
done
wait "${subscribers[0]}" || fail "not everything came"
wait "${subscribers[1]}" || fail "the subscriber of $one missed some"

say "the subscriber of everything got $(wc -l <"$scratch/everything") messages; by topic:"
sort "$scratch/everything" | uniq -c | sort -rn | head -n 5
say "the subscriber of '$one' got $(wc -l <"$scratch/one"); the last:"
tail -n 2 "$scratch/one" | sed 's/^/   /'
if [ "${#urgent[@]}" -gt 0 ]; then
    wait "${subscribers[2]}" || fail "the subscriber of urgent kinds missed some"
    say "the subscriber of urgent kinds got $(wc -l <"$scratch/urgent")"
fi

say "now the late one goes on; whatever came first, it gets the highest priority first:"
kill -CONT "$late"
wait "$late" || fail "the late subscriber missed some"
uniq -c "$scratch/late" | awk '{ printf "   %5d messages of priority %2d\n", $1, $2 }'
sort -C -k 1,1nr "$scratch/late" || fail "a lower priority came before a higher one"

# ---- request and reply -----------------------------------------------------------------------------------

word=$(awk '$3 == "status" && $4 == "installed" { word = $5 } END { print(word != "" ? word : $1) }' "$DEMO_LINES")
say "request and reply: a subscriber answers each request with the output of a command"
echo "   mqsub --id librarian -t ask/last --exec 'read -r word; grep -F -- \"\$word\" \"\$DEMO_LINES\" | tail -n 1'"
# shellcheck disable=SC2016 # for the command's own shell
mqsub --id librarian -t ask/last --exec 'read -r word; grep -F -- "$word" "$DEMO_LINES" | tail -n 1' &
subscribers+=($!)
broker_await "the answering subscriber" broker_subscriptions 1
echo "   mqpub --request -t ask/last -m '$word'"
mqpub --request -W 10 -t ask/last -m "$word" | sed '/./s/^/   /'

say "a request that nobody takes fails at once:"
echo "   mqpub --request -t ask/nobody -m 'hello?'"
if mqpub --request -W 10 -t ask/nobody -m 'hello?' 2>"$scratch/refusal"; then
    fail "a request without a subscriber was answered"
fi
sed 's/^/   /' "$scratch/refusal"

# ---- statistics ------------------------------------------------------------------------------------------

say "the broker's statistics, read from shared memory: mqstat"
mqstat --table
say "the same for programs: mqstat --json"
mqstat --json

finish
trap - EXIT
say "demo: done; the broker is stopped and has left nothing behind"
