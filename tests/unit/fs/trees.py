"""Generated trees of files, for writers of file systems."""

from __future__ import annotations

import stat

from hypothesis import strategies as st

from manor.fs.entry import Entry

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
TIMES = st.integers(-(2**31), 2**34 - 2**31 - 1).map(lambda seconds: seconds * 10**9 + 123_456_789)
IDS = st.integers(0, 2**32 - 2)
DEVICES = st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1))
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.second", "security.capability", "trusted.t"]), st.binary(max_size=400), max_size=3
)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """Directories before what is in them, files before their other names."""
    entries: list[Entry] = []
    directories = [""]
    files: list[str] = []
    used: set[str] = {"", "lost+found"}
    for _ in range(draw(st.integers(0, 25))):
        parent = draw(st.sampled_from(directories))
        name = draw(NAMES)
        path = f"{parent}/{name}" if parent else name
        if path in used:
            continue
        used.add(path)
        kind = draw(st.sampled_from(["file", "directory", "link", "hard", "device", "fifo"]))
        mode = draw(st.integers(0, 0o7777))
        common = (draw(IDS), draw(IDS), draw(TIMES))
        match kind:
            case "directory":
                entries.append(Entry(path, stat.S_IFDIR | mode, *common, xattrs=draw(XATTRS)))
                directories.append(path)
            case "link":
                target = draw(st.binary(min_size=1, max_size=200)).replace(b"\0", b"x")
                entries.append(Entry(path, stat.S_IFLNK | 0o777, *common, data=target))
            case "hard" if files:
                entries.append(Entry(path, 0, link=draw(st.sampled_from(files))))
            case "device":
                kind_of = draw(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]))
                entries.append(Entry(path, kind_of | mode, *common, device=draw(DEVICES)))
            case "fifo":
                entries.append(Entry(path, stat.S_IFIFO | mode, *common))
            case _:
                data = draw(st.binary(max_size=50)) * draw(st.sampled_from([1, 100, 997]))
                entries.append(Entry(path, stat.S_IFREG | mode, *common, data=data, xattrs=draw(XATTRS)))
                files.append(path)
    return entries
