"""The first program of the default guest, in the shell language of busybox."""

from __future__ import annotations

from typing import Final

BANNER: Final = "Manor: Linux is up."
"""First words of the line that /init prints when the system is usable."""
PROMPT: Final = "manor:"
"""How the shell's prompt begins."""

DHCP_SCRIPT_PATH: Final = "/etc/udhcpc.script"
DHCP_SCRIPT: Final = """\
#!/bin/busybox sh
# What udhcpc calls when a lease comes, changes or goes.
case "$1" in
deconfig)
    ip -4 addr flush dev "$interface"
    ;;
bound | renew)
    ip addr replace "$ip/${mask:-24}" dev "$interface"
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    [ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
    [ -n "$hostname" ] && hostname "$hostname"
    : > /etc/resolv.conf
    [ -n "$domain" ] && echo "search $domain" >> /etc/resolv.conf
    for server in $dns; do
        echo "nameserver $server" >> /etc/resolv.conf
    done
    ;;
esac
"""

UEVENT_SCRIPT_PATH: Final = "/etc/uevent"
UEVENT_SCRIPT: Final = f"""\
#!/bin/busybox sh
# What `uevent` calls for each event of the kernel: drivers and addresses for what arrives while the guest runs.
[ "$ACTION" = add ] || exit 0
case "$SUBSYSTEM" in
virtio)
    read -r id < "/sys$DEVPATH/device" || exit 0
    [ -e "/lib/modules/for-$id" ] || exit 0
    while read -r module; do
        [ -e "/sys/module/${{module%.ko}}" ] || insmod "/lib/modules/$module"
    done < "/lib/modules/for-$id"
    ;;
net)
    [ "$INTERFACE" = lo ] && exit 0
    ip link set "$INTERFACE" up
    udhcpc -f -n -t 4 -T 2 -S -i "$INTERFACE" -s {DHCP_SCRIPT_PATH} &
    ;;
cpu)
    [ -e "/sys$DEVPATH/online" ] && echo 1 > "/sys$DEVPATH/online"
    ;;
esac
"""

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

# Every interface up; an address from DHCP, if there is any, comes while the shell runs already.
for interface in /sys/class/net/*; do
    interface=${{interface##*/}}
    [ "$interface" = lo ] && continue
    ip link set "$interface" up
    udhcpc -f -n -t 4 -T 2 -S -i "$interface" -s {DHCP_SCRIPT_PATH} > /dev/null 2>&1 &
done

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

# From here on the console is the user's: warnings and worse still come through.
dmesg -n 5

# What nobody waits for.
uevent {UEVENT_SCRIPT_PATH} > /dev/null 2>&1 &
(sleep 1; load /lib/modules/later) &

cd /root
export PS1='{PROMPT}\\w\\$ '
# A session with the console as controlling terminal: job control and Ctrl-C work.
setsid cttyhack sh
poweroff -f
"""
