"""What a disk boots: menus of all kinds, defaults, disks that cannot boot."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.boot import extlinux, grub
from manor.boot.disk import find_boot, is_blank
from manor.boot.menu import version_key
from manor.fs.entry import Entry, directory, regular, symlink
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.fat.writer import Fat32Writer
from manor.fs.io import MemoryImage, SinkWindow
from manor.fs.partitions import ESP, LINUX_ROOT_X86_64, Partition, usable, write_gpt

IDENTITY = uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
ESP_SIZE = 34 * MiB
SIZE = 64 * MiB

DEBIAN = """\
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
function load_video {
  insmod vbe
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	search --no-floppy --fs-uuid --set=root 1
	echo	'Loading Linux 6.1 ...'
	linux	/boot/vmlinuz-6.1 root=UUID=1 ro  quiet $vt_handoff
	initrd	/boot/initrd.img-6.1
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Debian GNU/Linux, with Linux 6.1' $menuentry_id_option 'gnulinux-6.1-advanced' {
		linux	/boot/vmlinuz-6.1 root=UUID=1 ro quiet
		initrd	/boot/initrd.img-6.1
	}
	menuentry 'Debian GNU/Linux, with Linux 5.10' $menuentry_id_option 'gnulinux-5.10-advanced' {
		linux	/boot/vmlinuz-5.10 root=UUID=1 ro quiet
		initrd	/boot/initrd.img-5.10
	}
}
"""
GRUBENV = "# GRUB Environment Block\nsaved_entry={}\n"
EXTLINUX = """\
DEFAULT new
MENU TITLE Boot
LABEL old
  MENU LABEL Alpine ^old
  LINUX vmlinuz-old
  INITRD initramfs-old
  APPEND root=/dev/vda3
LABEL new
  KERNEL /boot/vmlinuz-new
  APPEND initrd=/boot/ucode,/boot/initramfs-new root=/dev/vda3 console=ttyS0
LABEL disk
  COM32 chain.c32
"""


def disk(esp: list[Entry], root: list[Entry]) -> MemoryImage:
    """A disk with an EFI system partition and a root file system, or without the former."""
    image = MemoryImage(SIZE)
    start, end = usable(SIZE)
    parts = [
        Partition(start, ESP_SIZE, ESP, uuid.UUID(int=1), "esp"),
        Partition(start + ESP_SIZE, end - start - ESP_SIZE, LINUX_ROOT_X86_64, uuid.UUID(int=2), "root"),
    ]
    write_gpt(image, SIZE, IDENTITY, parts)
    if esp:
        fat = Fat32Writer(SinkWindow(image, parts[0].start, ESP_SIZE), ESP_SIZE, volume_id=1)
        for entry in esp:
            fat.add(entry)
        fat.finish()
    ext4 = Ext4Writer(SinkWindow(image, parts[1].start, parts[1].size), parts[1].size, identity=IDENTITY)
    for entry in root:
        ext4.add(entry)
    ext4.finish()
    return image


def bls(**configs: str) -> list[Entry]:
    return [directory("loader"), directory("loader/entries"),
            *(regular(f"loader/entries/{name.replace('_', '-')}.conf", text.encode())
              for name, text in configs.items())]  # fmt: skip


def test_an_entry_of_the_boot_loader_specification() -> None:
    config = "# a comment\ntitle   A system\nversion 6.1\noptions root=UUID=1\noptions rw console=ttyS0\n"
    config += "linux /s/linux\ninitrd\t/s/ucode\ninitrd /s/initrd\n"
    esp = [*bls(one=config), directory("s"), regular("s/linux", b"kernel"), regular("s/ucode", b"12345"),
           regular("s/initrd", b"abcd")]  # fmt: skip
    boot = find_boot(disk(esp, []), "disk")
    assert boot.kernel == b"kernel"
    assert boot.initrd == b"12345\0\0\0abcd"
    assert boot.cmdline == "root=UUID=1 rw console=ttyS0"
    assert (boot.title, boot.where) == ("A system", "partition 1")


@pytest.mark.parametrize(
    ("loader", "chosen"),
    [("", "6.10"), ("default b-6.9\n", "6.9"), ("default b-6.1.conf\n", "6.1"), ("default b-6.?\n", "6.9"),
     ("default nothing\n", "6.10")],
)  # fmt: skip
def test_the_default_is_by_the_loader_or_the_newest(loader: str, chosen: str) -> None:
    esp = [directory("loader"), directory("loader/entries"), regular("loader/loader.conf", loader.encode())]
    for version in ("6.9", "6.10", "6.1"):
        esp.append(regular(f"loader/entries/b-{version}.conf", f"version {version}\nlinux /l-{version}\n".encode()))
        esp.append(regular(f"l-{version}", version.encode()))
    assert find_boot(disk(esp, []), "disk").kernel == chosen.encode()


def test_an_entry_that_failed_too_often_is_the_last_choice() -> None:
    esp = [*bls(), regular("loader/entries/new+0-3.conf", b"version 9\nlinux /new\n"),
           regular("loader/entries/old+2.conf", b"version 1\nlinux /old\n"), regular("new", b"new"),
           regular("old", b"old")]  # fmt: skip
    assert find_boot(disk(esp, []), "disk").kernel == b"old"


def test_entries_in_boot_with_variables_of_grub() -> None:
    """As Fedora has them: the entry's paths are those of /boot's file system, options come from the environment."""
    root = [
        directory("boot"), directory("boot/grub2"), directory("boot/loader"), directory("boot/loader/entries"),
        regular("boot/grub2/grubenv", b"# GRUB Environment Block\nsaved_entry=id-5\nkernelopts=root=/dev/x ro\n####"),
        regular("boot/loader/entries/id-6.conf", b"version 6\nlinux /boot/k6\noptions $kernelopts\n"),
        regular("boot/loader/entries/id-5.conf", b"version 5\nlinux /boot/k5\noptions $kernelopts $tuned_params\n"),
        regular("boot/k5", b"five"), regular("boot/k6", b"six"),
    ]  # fmt: skip
    boot = find_boot(disk([], root), "disk")
    assert (boot.kernel, boot.cmdline) == (b"five", "root=/dev/x ro console=ttyS0")


def grub_root(text: str, environment: str = "") -> list[Entry]:
    entries = [directory("boot"), directory("boot/grub"), regular("boot/grub/grub.cfg", text.encode())]
    if environment:
        entries.append(regular("boot/grub/grubenv", environment.encode()))
    for version in ("6.1", "5.10"):
        entries.append(regular(f"boot/vmlinuz-{version}", version.encode()))
        entries.append(regular(f"boot/initrd.img-{version}", b"initrd"))
    return entries


def test_a_menu_of_grub() -> None:
    boot = find_boot(disk([], grub_root(DEBIAN)), "disk")
    assert (boot.kernel, boot.initrd, boot.title) == (b"6.1", b"initrd\0\0", "Debian GNU/Linux")
    assert boot.cmdline == "root=UUID=1 ro quiet console=ttyS0"


@pytest.mark.parametrize(
    "default",
    ["1>1", "gnulinux-advanced-1>gnulinux-5.10-advanced",
     "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 5.10"],
)  # fmt: skip
def test_grubs_default_by_number_id_and_title(default: str) -> None:
    text = DEBIAN.replace('set default="0"', f'set default="{default}"')
    assert grub.parse(text, {})[0].kernel == "/boot/vmlinuz-5.10"


def test_grub_saved_the_default() -> None:
    text = DEBIAN.replace('set default="0"', 'set default="${saved_entry}"')
    root = grub_root(text, GRUBENV.format("gnulinux-advanced-1>gnulinux-5.10-advanced"))
    assert find_boot(disk([], root), "disk").kernel == b"5.10"


def test_grubs_paths_without_their_device() -> None:
    text = "menuentry 'a' {\n linux ($root)/boot/vmlinuz-6.1 x=y\n initrd (hd0,gpt2)/boot/initrd.img-6.1\n}\n"
    entry = grub.parse(text, {})[0]
    assert (entry.kernel, entry.initrds) == ("/boot/vmlinuz-6.1", ("/boot/initrd.img-6.1",))


@given(st.text(max_size=400) | st.text("menuentry'{}\n linux/$>; set=", max_size=400))
def test_any_text_is_no_trouble_as_a_menu(text: str) -> None:
    grub.parse(text, {})
    extlinux.parse(text, "/boot")


def test_a_menu_of_extlinux() -> None:
    first, second = extlinux.parse(EXTLINUX, "/boot/extlinux")
    assert (first.title, first.kernel) == ("new", "/boot/vmlinuz-new")
    assert first.initrds == ("/boot/ucode", "/boot/initramfs-new")
    assert first.options == "root=/dev/vda3 console=ttyS0"
    assert (second.title, second.kernel) == ("Alpine old", "/boot/extlinux/vmlinuz-old")


def test_a_kernel_without_any_menu() -> None:
    root = [
        directory("boot"), regular("boot/vmlinuz-6.9-amd64", b"old"), regular("boot/vmlinuz-6.10-amd64", b"new"),
        regular("boot/initrd.img-6.10-amd64", b"ram"), symlink("vmlinuz", "boot/vmlinuz-6.9-amd64"),
    ]  # fmt: skip
    boot = find_boot(disk([], root), "disk")
    assert (boot.kernel, boot.initrd) == (b"new", b"ram\0")
    assert boot.cmdline == f"root=UUID={IDENTITY} ro console=ttyS0"


def test_a_file_system_without_partitions() -> None:
    image = MemoryImage(16 * MiB)
    writer = Ext4Writer(image, image.size, identity=IDENTITY)
    writer.add(regular("vmlinuz", b"kernel"))
    writer.finish()
    boot = find_boot(image, "disk")
    assert (boot.kernel, boot.initrd, boot.where) == (b"kernel", None, "the whole disk")


def test_an_entry_whose_kernel_is_missing_gives_way_to_the_next() -> None:
    esp = [*bls(a="version 9\nlinux /gone\n", b="version 1\nlinux /here\n"), regular("here", b"kernel")]
    assert find_boot(disk(esp, []), "disk").kernel == b"kernel"


@pytest.mark.parametrize(
    ("start", "mark", "words"),
    [(0, b"LUKS\xba\xbe", "encrypted \\(LUKS\\)"), (0x10040, b"_BHRfS_M", "btrfs"), (0, b"XFSB", "XFS"),
     (512, b"LABELONE", "a volume of LVM"), (3, b"-FVE-FS-", "encrypted \\(BitLocker\\)")],
)  # fmt: skip
def test_what_cannot_be_read_is_named(start: int, mark: bytes, words: str) -> None:
    image = MemoryImage(SIZE)
    write_gpt(image, SIZE, IDENTITY, [Partition(MiB, 8 * MiB, LINUX_ROOT_X86_64, IDENTITY, "root")])
    image.write(MiB + start, mark)
    with pytest.raises(ConfigError, match=f"nothing can be booted from x.raw: partition 1 is {words}; give a kernel"):
        find_boot(image, "x.raw")
    assert not is_blank(image)


def test_a_file_system_with_nothing_to_boot() -> None:
    with pytest.raises(ConfigError, match=r"no boot entries and no kernel \(partition 1 is unknown\)"):
        find_boot(disk([], [directory("home")]), "x.raw")


def test_a_blank_disk() -> None:
    image = MemoryImage(SIZE)
    assert is_blank(image)
    with pytest.raises(ConfigError, match="the whole disk is unknown"):
        find_boot(image, "x.raw")
    image.data[1000] = 1
    assert not is_blank(image)


def test_versions_are_compared_as_people_do() -> None:
    ordered = ["6.1~rc1", "6.1", "6.1-2", "6.1-10", "6.9", "6.10"]
    shuffled = [ordered[number] for number in (3, 0, 5, 1, 4, 2)]
    assert sorted(shuffled, key=version_key) == ordered
