#!/bin/bash
# Run a program of another system in a mount namespace: enter.sh LOWER WORK MODEL PROGRAM...
#
# LOWER stays as it is; what WORK/upper holds lies over it, MODEL is /model. The network is shared.
set -euo pipefail

lower=$1 work=$2 model=$3 root=$2/root
shift 3
mkdir -p "$work/upper" "$work/overlay" "$root"
mount --make-rprivate /
mount -t overlay overlay "$root" -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay"
mkdir -p "$root/model"
mount --bind "$model" "$root/model"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
