#!/bin/sh
# Runs inside the guest, as root, with the host's root file system as /:
#
#   guest.sh OUT ROOT PATH COMMAND...
#
# runs COMMAND in ROOT with that PATH, its output in OUT/output and its exit status in
# OUT/status. OUT is the one place that is written to on the host. boot.py calls it with the
# host's root a second time on /mnt.
out=$1 root=$2 path=$3
shift 3

# Files that tests map lie on a disk file system, as users' files do: page cache and fault-around
# are then the real ones. (/tmp here is an overlay over 9p.)
scratch=/run/pagefault-tmp
mkdir -p "$scratch"
truncate -s 512M /run/scratch.img
modprobe -a loop ext4 zram
mke2fs -q -F -t ext4 /run/scratch.img && mount -o loop /run/scratch.img "$scratch" ||
    echo "no ext4 for scratch files: they lie on tmpfs" >&2
chmod 1777 "$scratch"

# Pages move, and become huge ones, only where a test asks for it.
echo 0 >/proc/sys/kernel/numa_balancing
echo 0 >/proc/sys/vm/compaction_proactiveness
echo 1000000000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs

# virtme-ng mounts the host's root through 9p without any caching, where importing Python's
# modules alone takes a quarter of a minute. Nothing changes there while we run: mount it
# again with a cache, and go there.
host=/run/host
mkdir -p $host
tag=$(awk '$2 == "/mnt" { print $1 }' /proc/mounts)
umount /mnt
mount -t 9p -o version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose,ro "$tag" $host
for folder in /proc /sys /dev /run /tmp /var/tmp /usr/lib/modules "$out"; do
    [ ! -d "$host$folder" ] || mount --rbind "$folder" "$host$folder"
done

# shellcheck disable=SC2016  # expanded by the inner shell
chroot $host /usr/bin/env -i PATH="$path" HOME=/root LANG=C.UTF-8 TMPDIR="$scratch" \
    PYTHONPATH="$root" PAGEFAULT_GUEST=1 PAGEFAULT_CACHE=/run/pagefault-cache \
    sh -c 'cd "$0" && exec "$@"' "$root" "$@" >"$out/output" 2>&1
echo $? >"$out/status"
