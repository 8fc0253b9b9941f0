#!/usr/bin/env bash
# Each manual page is well-formed.
#
# usage: check-man.sh SOURCE_DIR       exit status 77: skipped, mandoc is not installed
set -eu
cd "$1"
if ! command -v mandoc >/dev/null; then
    echo "check-man: skipped, mandoc is not installed"
    exit 77
fi
mapfile -t pages < <(find docs/man -name '*.[1-8]' | sort)
if [ "${#pages[@]}" -eq 0 ]; then
    echo "check-man: no pages in docs/man"
    exit 1
fi
mandoc -T lint -W warning "${pages[@]}"
echo "check-man: ${#pages[@]} pages"
