#!/usr/bin/env bash
# What `cmake --install` leaves can be used: programs run from there, and a C program finds the library by pkg-config as well as
# by find_package.
#
# usage: check-install.sh BUILD_DIR COMPILER [FLAGS...]    FLAGS: what the library was built with (sanitizers)
set -eu
build=$1
compiler=$2
shift 2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
cmake --install "$build" --prefix "$prefix"
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name mqclient.pc)")
libraries=$(pkg-config --variable=libdir mqclient)

for program in mqbroker mqpub mqsub mqstat mqctl mqbench; do
    "$prefix/bin/$program" --version
done

mkdir "$scratch/user"
cat >"$scratch/user/user.c" <<'END'
#include <mqclient.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    struct mqc_options options = {.instance = "there-is-none"};
    struct mqc *client;
    if (mqc_open(&client, &options) == 0 || strlen(mqc_last_error()) == 0)
        return 1;
    printf("libmqclient %s: %s\n", mqc_version(), mqc_last_error());
    return 0;
}
END
cat >"$scratch/user/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.20)
project(user C)
find_package(mqclient 0.1 REQUIRED)
add_executable(user user.c)
target_link_libraries(user PRIVATE mqclient::mqclient)
add_executable(user-static user.c)
target_link_libraries(user-static PRIVATE mqclient::mqclient-static)
END

# Plain C11, without our feature macros: the header must stand alone.
# shellcheck disable=SC2046 # words are wanted
"$compiler" -std=c11 -pedantic -Wall -Wextra -Werror "$@" "$scratch/user/user.c" \
    $(pkg-config --cflags --libs mqclient) -o "$scratch/by-pkg-config"
LD_LIBRARY_PATH=$libraries "$scratch/by-pkg-config"

CMAKE_GENERATOR=$(sed -n 's/^CMAKE_GENERATOR:INTERNAL=//p' "$build/CMakeCache.txt")
export CMAKE_GENERATOR
cmake -S "$scratch/user" -B "$scratch/user/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$compiler" -DCMAKE_C_FLAGS="$*"
cmake --build "$scratch/user/build"
"$scratch/user/build/user"
"$scratch/user/build/user-static"
echo "check-install: installed programs run; pkg-config and find_package find the library"
