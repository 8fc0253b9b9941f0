#!/usr/bin/env bash
# The floors: includes run downwards only, and what is to be pure includes nothing that is not.
#
# tests/support/floors.sh says which file stands on which floor. Floors 2 and 3 step over floor 1 altogether, the broker never sees the
# client's side of libclient, the tools see only the public header, what describes the board, and the layouts of what a broker leaves;
# headers do not include each other in a circle.
#
# usage: check-includes.sh SOURCE_DIR
set -eu
cd "$1"
# shellcheck source=tests/support/floors.sh
. tests/support/floors.sh

# System headers that ask nothing of the system. (stdio: for snprintf; tests/check-pure.sh looks at what is really called.)
pure_header() {
    case $1 in
    assert.h | errno.h | inttypes.h | limits.h | stdalign.h | stdatomic.h | stdbool.h | stddef.h) ;;
    stdint.h | stdio.h | stdlib.h | string.h | strings.h | sys/types.h | uthash.h | utlist.h) ;;
    arm_acle.h | immintrin.h) ;; # instructions of the processor
    *) return 1 ;;
    esac
}

n_files=0
n_faults=0
fault() { # FILE:LINE SENTENCE
    printf '%s: %s\n' "$1" "$2"
    n_faults=$((n_faults + 1))
}

circles=$(mktemp)
trap 'rm -f "$circles"' EXIT

for file in libclient/*.[ch] broker/*.[ch] tools/*.[ch]; do
    [ -e "$file" ] || continue
    n_files=$((n_files + 1))
    module=${file%.*}
    mine=$(floor "$module")
    if [ "$mine" = unknown ]; then
        fault "$file" "has no floor yet: give it one in tests/support/floors.sh"
        continue
    fi
    while IFS=: read -r line include; do
        place=$file:$line
        header=${include#?}
        header=${header%?}
        if [ "${include:0:1}" = "<" ]; then
            case $mine in
            0 | 2 | 3) pure_header "$header" || fault "$place" "<$header> on a pure floor" ;;
            esac
            continue
        fi
        if [ ! -e "$header" ]; then
            fault "$place" "\"$header\" is not a path from the root"
            continue
        fi
        theirs=$(floor "${header%.*}")
        if [ "$theirs" = unknown ]; then
            continue # said above, of the file itself
        fi
        if [ "$theirs" -gt "$mine" ]; then
            fault "$place" "goes up: floor $mine includes \"$header\" of floor $theirs"
        fi
        case $mine$theirs in
        21 | 31) fault "$place" "floor $mine is pure and steps over floor 1, but includes \"$header\"" ;;
        esac
        case $file:$header in
        broker/*:libclient/client* | broker/*:libclient/session* | broker/*:libclient/inbox* | broker/*:libclient/mqclient*)
            fault "$place" "the broker does not see the client's side: \"$header\"" ;;
        tools/*:broker/persist.h | tools/*:broker/store.h | tools/*:broker/record.h | tools/*:broker/history.h | tools/*:broker/survivors.h) ;; # layouts of what a broker leaves: it need not live
        tools/*:broker/*)
            fault "$place" "tools do not see the broker: \"$header\"" ;;
        tools/*:libclient/client* | tools/*:libclient/session* | tools/*:libclient/inbox*)
            fault "$place" "tools use mqclient.h, not what is behind it: \"$header\"" ;;
        libclient/*:broker/* | libclient/*:tools/* | broker/*:tools/*)
            fault "$place" "the wrong way round: \"$header\"" ;;
        esac
        if [ "${file##*.}" = h ]; then
            echo "$file $header" >>"$circles"
        fi
    done < <(sed -n '/^[[:space:]]*#[[:space:]]*include[[:space:]]/{=;s/.*include[[:space:]]*\([<"][^>"]*[>"]\).*/\1/p}' \
        "$file" | paste -d: - -)
done

if ! loop=$(tsort "$circles" 2>&1 >/dev/null); then
    fault headers "include each other in a circle: $(printf '%s' "$loop" | grep -o '[a-z]*/[a-z_]*\.h' | tr '\n' ' ')"
fi

if [ "$n_files" -eq 0 ]; then
    fault "$PWD" "no sources found"
fi
if [ "$n_faults" -gt 0 ]; then
    echo "check-includes: $n_faults faults in $n_files files"
    exit 1
fi
echo "check-includes: $n_files files, each includes downwards only"
