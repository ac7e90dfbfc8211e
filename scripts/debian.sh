#!/usr/bin/env bash
# The Debian releases that edged is packaged for, and their derivatives of Raspberry Pi OS; for `source`.
#
#     release 12|13 [amd64|arm64]
#
# sets suite (its name), python and glibc (their versions there), lock (the base install's packages for that
# Python), and wheels: pip's options for packages that run there, whatever machine pip runs on.
# Fails for any other release.
# shellcheck disable=SC2034  # read by the scripts

release() {
    local machine
    case $1 in
        12) suite=bookworm python=3.11 glibc=2.36 ;;
        13) suite=trixie python=3.13 glibc=2.41 ;;
        *) echo "Debian $1: not supported; 12 and 13 are" >&2; return 64 ;;
    esac
    lock=deploy/requirements-$python.lock
    machine=$([[ ${2:-$(dpkg --print-architecture)} == arm64 ]] && echo aarch64 || echo x86_64)
    # pip must be given all older versions of glibc that are compatible.
    mapfile -t wheels < <(seq --format "--platform=manylinux_2_%.0f_$machine" "${glibc#2.}" -1 17)
    wheels+=(--only-binary=:all: --implementation cp --python-version "$python")
}
