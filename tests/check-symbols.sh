#!/usr/bin/env bash
# What libmqclient.so exports is what mqclient.h marks MQC_API: no more, no less, and all of it versioned.
#
# usage: check-symbols.sh LIBRARY HEADER
set -eu
library=$1
header=$2

exported=$(nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
unversioned=$(nm -D --defined-only "$library" | awk '$2 != "A" && $3 !~ /@@?MQCLIENT_[0-9.]+$/ { print $3 }')
# A declaration runs from MQC_API to its semicolon; the first name before a parenthesis is the function's.
declared=$(tr '\n' ' ' <"$header" | grep -o 'MQC_API [^;#]*;' | sed 's/^[^(]*[ *]\(mqc_[a-z0-9_]*\)(.*/\1/' | sort)

fault=0
if [ -z "$declared" ]; then
    echo "no MQC_API declarations found in $header"
    fault=1
fi
missing=$(comm -13 <(echo "$exported") <(echo "$declared"))
extra=$(comm -23 <(echo "$exported") <(echo "$declared"))
if [ -n "$missing" ]; then
    echo "declared in $header but not exported: $missing"
    fault=1
fi
if [ -n "$extra" ]; then
    echo "exported but not declared in $header: $extra"
    fault=1
fi
if [ -n "$unversioned" ]; then
    echo "exported without a version: $unversioned"
    fault=1
fi
[ "$fault" -eq 0 ] && echo "check-symbols: $(echo "$declared" | wc -l) functions declared, the same exported"
exit "$fault"
