# The floors of the source, from the contract up. Includes run downwards only; floors 0, 2 and 3 are pure: no system call, no clock, no
# file. A new file gets its floor here.
#
#   5  programs    broker/main                     tools/*
#   4  shell       broker/broker ...               libclient/client
#   3  decisions   broker/engine route pump life ...  libclient/session
#   2  state       broker/store backlog ...        libclient/inbox
#   1  mechanism   broker/loop log ...             libclient/queue segment pool
#   0  contract                                    libclient/wire topic names board
#
# shellcheck shell=bash

floor() { # MODULE, a path from the root without its suffix: prints the number, or "unknown"
    case $1 in
    libclient/wire | libclient/topic | libclient/names | libclient/board | libclient/outbox | libclient/pool) echo 0 ;;
    broker/commit-delay | broker/record | broker/history | broker/survivors | broker/journal-fault) echo 0 ;;
    libclient/queue | libclient/segment | libclient/process) echo 1 ;;
    broker/loop | broker/log | broker/journal* | broker/scribe | broker/watch | broker/config) echo 1 ;;
    broker/persist | broker/store | broker/backlog | broker/filters | broker/timers) echo 2 ;;
    broker/topics | broker/state* | libclient/inbox | libclient/acks | libclient/confirms | libclient/reports | libclient/requests | libclient/slots | libclient/fetches) echo 2 ;;
    broker/engine | broker/route | broker/groups* | broker/durable | broker/pump | broker/pools | broker/knots | broker/life | broker/start | libclient/session*) echo 3 ;;
    broker/broker | broker/keeper | broker/settle | broker/handover | broker/shell | broker/peer | broker/turn | broker/memory | broker/plan | broker/share | broker/copies | broker/guard | libclient/client* | libclient/mqclient) echo 4 ;;
    broker/main | tools/*) echo 5 ;;
    *) echo unknown ;;
    esac
}
