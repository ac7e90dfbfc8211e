#!/bin/bash
# Run as the first process of new namespaces: init.sh LOWER WORK
#
# Mounts LOWER, one folder or several with colons between them, under a writable layer in WORK, gives it the
# file systems a container has and becomes its systemd. Nothing is left outside when the last process
# ends.
set -euo pipefail

lower=$1 work=$2 root=$2/root
mkdir -p "$work/upper" "$work/overlay" "$root"
mount --make-rprivate /
mount -t overlay overlay "$root" -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/overlay"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
# Rooted at this cgroup namespace: the machine sees nothing of its host's groups. Where the host has
# memory in version 1, the machine gets both versions, as older systems have them: MemoryMax= holds.
groups=$root/sys/fs/cgroup
if grep -q ' cgroup .*\bmemory\b' /proc/mounts; then
    mount -t tmpfs -o mode=755 tmpfs "$groups"
    mkdir "$groups/memory" "$groups/unified"
    mount -t cgroup -o memory memory "$groups/memory"
    groups=$groups/unified
fi
mount -t cgroup2 cgroup2 "$groups"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"

# Not chroot: the kernel lets nobody in a chroot make user namespaces, and the unit makes one.
mkdir -p "$root/host"
cd "$root"
pivot_root . host
umount --lazy /host
# What a container's manager owes to systemd: without it credentials stay in a mount that nobody sees.
mount --make-rshared /
# "container" tells systemd to leave hardware alone.
exec env -i container=edged-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init
