#!/usr/bin/env bash
# The pure floors call nothing that reaches the system: no system call, no clock, no file. Looks at what their compiled modules
# leave for the linker: functions of pure modules, and of the C library only those listed here.
#
# usage: check-pure.sh SOURCE_DIR LIBCLIENT_ARCHIVE BROKER_ARCHIVE
set -eu
# shellcheck source=tests/support/floors.sh
. "$1/tests/support/floors.sh"

harmless='^(mem(cpy|move|set|cmp|chr|rchr|mem)|explicit_bzero|str(len|nlen|n?cmp|r?chr|str|n?cpy|n?dup|c?spn)|strtou?ll?'
harmless+='|([mc]|re)alloc|reallocarray|aligned_alloc|free|qsort|bsearch|abort|exit|v?snprintf'
# What the compiler makes of these and of assert, errno, isdigit; and what sanitizers and coverage add.
harmless+='|__assert_fail|__stack_chk_fail|__errno_location|__ctype_.*|__isoc(99|23)_.*|__[a-z]+_chk'
# Which instructions the processor has.
harmless+='|__cpu_(model|indicator_init)'
harmless+='|__(asan|ubsan|sanitizer|gcov|llvm|sancov)_.*|_GLOBAL_OFFSET_TABLE_|__(start|stop)___.*)$'

pure=() # FOLDER/MODULE of each pure member
symbols=$(mktemp)
trap 'rm -f "$symbols"' EXIT

look() { # ARCHIVE FOLDER: notes MODULE, KIND, SYMBOL of what pure members define and want
    local member module
    while read -r member; do
        module=$2/${member%.c.o}
        case $(floor "$module") in
        0 | 2 | 3) pure+=("$module") ;;
        esac
    done < <(ar t "$1")
    nm -A "$1" | awk -v folder="$2" -v pure=" ${pure[*]} " '
        { split($1, place, ":"); module = folder "/" place[2]; sub(/\.c\.o$/, "", module) }
        index(pure, " " module " ") { print module, $(NF - 1), $NF }' >>"$symbols"
}
look "$2" libclient
look "$3" broker

if [ "${#pure[@]}" -eq 0 ]; then
    echo "check-pure: no pure module found in $2 and $3"
    exit 1
fi
fault=0
while read -r module symbol; do
    # The instance's name may come from the environment; nothing else does.
    [ "$module $symbol" != "libclient/names getenv" ] || continue
    echo "$module.c is pure, but calls $symbol"
    fault=1
done < <(awk -v harmless="$harmless" '
    NR == FNR { if ($2 != "U") own[$3]; next }
    $2 == "U" && !($3 in own) && $3 !~ harmless { print $1, $3 }' "$symbols" "$symbols" | sort -u)
[ "$fault" -eq 0 ] && echo "check-pure: ${#pure[@]} modules call nothing that reaches the system"
exit "$fault"
