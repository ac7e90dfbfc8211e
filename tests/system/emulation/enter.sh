#!/bin/bash
# Run a program of another system in a mount namespace: enter.sh LOWER WORK FILES PROGRAM...
#
# LOWER stays as it is; what WORK/upper holds lies over it, FILES is /mnt. The network is shared.
set -euo pipefail

lower=$1 work=$2 files=$3 root=$2/root
shift 3
mkdir -p "$work/upper" "$work/overlay" "$root"
mount --make-rprivate /
mount -t overlay overlay "$root" -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay"
mount --bind "$files" "$root/mnt"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"
