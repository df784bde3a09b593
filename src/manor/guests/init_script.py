"""The first program of the default guest, in the shell language of busybox."""

from __future__ import annotations

from typing import Final

BANNER: Final = "Manor: Linux is up."
"""First words of the line that /init prints when the system is usable."""
PROMPT: Final = "manor:"
"""How the shell's prompt begins."""

INIT: Final = f"""\
#!/bin/busybox sh
# Process 1 of the default guest: file systems, drivers, a shell, power-off.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root
export TERM="${{TERM:-linux}}"

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# The kernel may have mounted it already.
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname manor
ip link set lo up 2>/dev/null

# Modules of a list, in the order in which they depend on each other.
load() {{
    while read -r module; do
        [ -e "/sys/module/${{module%.ko}}" ] || insmod "/lib/modules/$module"
    done < "$1"
}}
load /lib/modules/order
for device in /sys/bus/virtio/devices/*; do
    [ -e "$device/device" ] || continue
    read -r id < "$device/device"
    [ -e "/lib/modules/for-$id" ] && load "/lib/modules/for-$id"
done
# Folders of the host, by their tags.
IFS=,
for tag in $MANOR_SHARES; do
    mkdir -p "/mnt/$tag" && mount -t virtiofs "$tag" "/mnt/$tag"
done
unset IFS MANOR_SHARES

# The caller's terminal, from the kernel command line: unknown NAME=value words become variables here.
if [ -n "$LINES" ] && [ -n "$COLUMNS" ]; then
    stty rows "$LINES" cols "$COLUMNS"
fi
unset LINES COLUMNS

read -r uptime rest < /proc/uptime
read -r label kilobytes rest < /proc/meminfo
echo
echo "{BANNER} $(uname -sr), $(nproc) CPU(s), $((kilobytes / 1024)) MiB, after $uptime s." \\
     "Leave the shell to power off."
echo

# What nobody waits for.
(sleep 1; load /lib/modules/later) &

cd /root
export PS1='{PROMPT}\\w\\$ '
# A session with the console as controlling terminal: job control and Ctrl-C work.
setsid cttyhack sh
poweroff -f
"""
