#!/usr/bin/env bash
# Nothing stays behind: after all tests no queue and no segment of a broker of this user exists that was not there before, unless a
# living process still holds it (another broker of this user).
#
# usage: check-leftovers.sh before|after FILE
#   before  notes in FILE what exists
#   after   compares; fails if there is more
#        check-leftovers.sh remove MQCTL
#   removes what tests of this user have left that were killed, by the programs' names and process numbers in it: it would take the
#   queue memory that other tests need
#
# Queues can only be listed where the mqueue file system is mounted, or may be (in a mount namespace of its own, as root).
# Where neither holds, segments alone are looked at, and that is said; MQCTL knows the names of the queues that belong to them.
set -eu

in_queues() { # FIND-OPTION...: find, where the queues are files; fails if they cannot be
    if grep -q ' /dev/mqueue mqueue ' /proc/mounts; then
        find /dev/mqueue -uid "$(id -u)" "$@"
    else
        # shellcheck disable=SC2016 # the inner shell expands it
        unshare --mount --propagation private sh -eu -c \
            'mount -t mqueue none /dev/shm && exec find /dev/shm -uid "$(id -u)" "$@"' sh "$@" 2>/dev/null
    fi
}

in_segments() {
    find /dev/shm -maxdepth 1 -uid "$(id -u)" "$@"
}

list() {
    in_segments -name 'mqbroker[.-]*' -printf 'segment %f\n'
    in_queues -name 'mqbroker[.-]*' -printf 'queue /%f\n' || echo "queues unseen"
}

held() { # does a living process have it open or mapped
    local kind=$1 name=$2
    case $kind in
    segment) grep -qsF "/dev/shm/$name" /proc/[0-9]*/maps || find /proc/[0-9]*/fd -lname "/dev/shm/$name" 2>/dev/null | grep -q . ;;
    queue) find /proc/[0-9]*/fd -lname "*$name" 2>/dev/null | grep -q . ;;
    esac
}

# ---- What killed tests have left ---------------------------------------------------------------------------------------------

# Instances of tests are PROGRAM-PID or PROGRAM-PID-NUMBER, the objects of a broker mqbroker.INSTANCE or mqbroker.INSTANCE.MORE;
# those that a test has without a broker are mqbroker-PROGRAM.PID or mqbroker-PROGRAM.PID.MORE. Prints the leads: all but .MORE.
list_leads() {
    list | sed -nE 's,^(segment |queue /)(mqbroker\.((it|test|check|demo)-[a-z-]*[a-z]|stand-in|bench)-[0-9]+(-[0-9]+)?|mqbroker-test-[a-z]+\.[0-9]+)(\..*)?$,\2,p' | sort -u
}

# The test that has this lead, or else a process that holds something of it, as "PID (NAME)"; fails if neither lives. What has the
# test's number but another name, or another user, is not the test.
living() { # LEAD
    local lead=$1 pid program name
    program=${lead#mqbroker[.-]}
    [[ $lead =~ [.-]([0-9]+)(-[0-9]+)?$ ]]
    pid=${BASH_REMATCH[1]}
    program=${program%[.-]"$pid"*}
    case $program in
    stand-in) program=test- ;;
    bench) program=mqbench ;;
    check-* | demo-*) program=${program%-sh} ;;
    esac
    if grep -qs '^State:.[^XZ]' "/proc/$pid/status" && name=$(cat "/proc/$pid/comm") &&
        [[ $name == "${program:0:15}"* && -O /proc/$pid ]]; then
        echo "$pid ($name)"
        return
    fi
    # A queue's descriptor is a link to /NAME, a segment's to /dev/shm/NAME, and so is what a mapping says.
    pid=$({ grep -lsE "/dev/shm/${lead//./\\.}(\.|$)" /proc/[0-9]*/maps
        find /proc/[0-9]*/fd \( -lname "*/$lead" -o -lname "*/$lead.*" \) 2>/dev/null; } | sed 's,^/proc/\([0-9]*\)/.*,\1,' | head -n 1)
    [ -n "$pid" ] && echo "$pid ($(cat "/proc/$pid/comm" 2>/dev/null))"
}

remove() { # MQCTL
    local lead who of=()
    while read -r lead; do
        if who=$(living "$lead"); then
            echo "check-leftovers: ${lead#mqbroker[.-]}, of a test, is in use by process $who; if that is no test that runs, end it"
            continue
        fi
        of=(\( -name "$lead" -o -name "$lead.*" \))
        case $lead in
        mqbroker.*) "$1" cleanup --force --instance "${lead#mqbroker.}" >/dev/null 2>&1 || true ;;
        esac
        in_segments "${of[@]}" -delete
        in_queues "${of[@]}" -delete || true
        echo "check-leftovers: removed what was left of ${lead#mqbroker[.-]}, a test that was killed"
    done < <(list_leads)
}

# ------------------------------------------------------------------------------------------------------------------------------

case $1 in
before)
    list | sort >"$2"
    ;;
after)
    left=0
    seen=queues
    while read -r kind name; do
        if [ "$kind $name" = "queues unseen" ]; then
            seen="queues not looked at: /dev/mqueue is not mounted"
        elif ! held "$kind" "$name"; then
            echo "left behind: $kind $name"
            left=1
        fi
    done < <(list | sort | comm -23 - "$2")
    [ "$left" -eq 0 ] && echo "check-leftovers: nothing left behind (segments; $seen)"
    exit "$left"
    ;;
remove)
    remove "$2"
    ;;
*)
    echo "usage: check-leftovers.sh before|after FILE | remove MQCTL" >&2
    exit 2
    ;;
esac
