#!/usr/bin/env bash
# Nothing stays behind: after all tests no queue and no segment of a broker of this user exists that was not there before, unless a
# living process still holds it (another broker of this user).
#
# usage: check-leftovers.sh before|after FILE
#   before  notes in FILE what exists
#   after   compares; fails if there is more
#
# Queues can only be listed where the mqueue file system is mounted, or may be (in a mount namespace of its own, as root).
# Where neither holds, segments alone are looked at, and that is said.
set -eu

# shellcheck disable=SC2016 # the inner shell expands it
list_queues() {
    if grep -q ' /dev/mqueue mqueue ' /proc/mounts; then
        find /dev/mqueue -name 'mqbroker.*' -uid "$(id -u)" -printf 'queue /%f\n'
    elif ! unshare --mount --propagation private sh -eu -c \
        'mount -t mqueue none /dev/shm && find /dev/shm -name "mqbroker.*" -uid "$(id -u)" -printf "queue /%f\n"' \
        2>/dev/null; then
        echo "queues unseen"
    fi
}

list() {
    find /dev/shm -maxdepth 1 -name 'mqbroker.*' -uid "$(id -u)" -printf 'segment %f\n'
    list_queues
}

held() { # does a living process have it open or mapped
    local kind=$1 name=$2
    case $kind in
    segment) grep -qsF "/dev/shm/$name" /proc/[0-9]*/maps || find /proc/[0-9]*/fd -lname "/dev/shm/$name" 2>/dev/null | grep -q . ;;
    queue) find /proc/[0-9]*/fd -lname "*$name" 2>/dev/null | grep -q . ;;
    esac
}

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
*)
    echo "usage: check-leftovers.sh before|after FILE" >&2
    exit 2
    ;;
esac
