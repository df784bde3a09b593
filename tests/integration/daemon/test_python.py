"""Debian's libvirt-python, unchanged, under the system's own Python: a whole session against the daemon."""

from __future__ import annotations

import subprocess
import textwrap

import pytest

from manor.testing.daemon import DaemonProcess

SYSTEM_PYTHON = "/usr/bin/python3"


def run(daemon: DaemonProcess, program: str) -> str:
    """What a program prints; `conn` is a connection to test:///default."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import libvirt"], check=False, capture_output=True).returncode:
        pytest.skip("there is no libvirt-python here (python3-libvirt)")
    head = textwrap.dedent(f"""
        import libvirt, threading, time
        libvirt.registerErrorHandler(lambda *_: None, None)
        libvirt.virEventRegisterDefaultImpl()
        conn = libvirt.open({daemon.uri("test", "/default")!r})
        XML = '''<domain type='test'><name>%s</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
        <os><type>hvm</type></os>
        <devices><disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/></disk>
        <interface type='network'><source network='default'/><mac address='52:54:00:11:22:33'/></interface>
        <console type='pty'/></devices></domain>'''
        def code(call, *arguments):
            try:
                call(*arguments)
            except libvirt.libvirtError as error:
                return error.get_error_code()
    """)
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", head + textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + daemon.log
    return done.stdout.strip()


def test_the_connection_and_the_host(daemon: DaemonProcess) -> None:
    said = run(daemon, """
        info = conn.getInfo()
        assert len(info) == 8 and info[2] > 0
        assert conn.getType() == "TEST" and conn.isAlive() and conn.isSecure()
        assert conn.getLibVersion() >= 9000000
        assert "<capabilities>" in conn.getCapabilities()
        assert "<domainCapabilities>" in conn.getDomainCapabilities(None, "x86_64", None, "test")
        assert conn.getFreeMemory() > 0 and conn.getMemoryStats(-1)["total"] > 0
        assert conn.getCPUMap()[0] == info[2]
        devices = [each.name() for each in conn.listAllDevices()]
        assert "computer" in devices
        assert conn.nodeDeviceLookupByName("computer").XMLDesc().startswith("<device>")
        assert conn.interfaceLookupByName("lo").isActive()
        assert conn.listAllNWFilters() == []
        conn.setKeepAlive(5, 3)
        print("done")
    """)  # fmt: skip
    assert said == "done"


def test_a_domain_and_its_events(daemon: DaemonProcess) -> None:
    said = run(daemon, """
        seen = []
        def loop():
            while True:
                libvirt.virEventRunDefaultImpl()
        threading.Thread(target=loop, daemon=True).start()
        conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                    lambda c, d, event, detail, o: seen.append((event, detail)), None)
        domain = conn.defineXML(XML % "py")
        assert conn.lookupByUUIDString(domain.UUIDString()).name() == "py"
        domain.create()
        assert domain.state() == [1, 1] and domain.isActive() and conn.lookupByID(domain.ID()).name() == "py"
        assert domain.info()[3] == 2 and domain.vcpus()[0][0][0] == 0
        assert domain.blockStats("vda") and domain.interfaceStats("52:54:00:11:22:33")
        assert domain.memoryStats()["actual"] == 65536
        assert conn.getAllDomainStats()[0][1]["state.state"] == 1
        assert domain.interfaceAddresses(0)
        assert domain.getCPUStats(True)[0]["cpu_time"] >= 0
        domain.suspend(); domain.resume()
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<a/>", "k", "http://x", 3)
        assert "<a/>" in domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "http://x", 0)
        domain.setAutostart(True)
        assert domain.autostart() and not domain.hasManagedSaveImage()
        assert domain.memoryParameters(2)["hard_limit"] == 9007199254740991
        domain.setMemoryParameters({"hard_limit": 1 << 20}, 2)
        assert domain.memoryParameters(2)["hard_limit"] == 1 << 20
        assert domain.schedulerType()[0] == "posix"
        domain.setSchedulerParametersFlags({"cpu_shares": 70}, 2)
        domain.pinVcpuFlags(0, (True,), 2)
        assert domain.jobInfo()[0] == 0 and domain.controlInfo()[0] == 0
        assert code(domain.screenshot, conn.newStream(), 0) == libvirt.VIR_ERR_NO_SUPPORT
        assert code(domain.create) == libvirt.VIR_ERR_OPERATION_INVALID
        assert code(conn.lookupByName, "nobody") == libvirt.VIR_ERR_NO_DOMAIN
        domain.destroy()
        snapshot = domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
        assert domain.snapshotCurrent().getName() == "s" and domain.listAllSnapshots()[0].getParent is not None
        domain.revertToSnapshot(snapshot); snapshot.delete()
        domain.rename("py2")
        domain.undefine()
        limit = time.monotonic() + 10
        while (1, 0) not in seen and time.monotonic() < limit:
            time.sleep(0.05)
        print([event for event, _ in seen])
    """)  # fmt: skip
    events = [0, 2, 3, 4, 5]
    found = iter(int(word) for word in said.strip("[]").split(","))
    assert all(event in found for event in events), said


def test_storage_networks_and_secrets(daemon: DaemonProcess) -> None:
    said = run(daemon, """
        pool = conn.storagePoolLookupByName("default-pool")
        pool.refresh()
        volume = pool.createXML("<volume><name>p</name><capacity>1048576</capacity></volume>")
        data = bytes(range(256)) * 4096
        stream = conn.newStream()
        volume.upload(stream, 0, len(data), 0)
        stream.sendAll(lambda s, count, at: data[at[0]:at.__setitem__(0, at[0] + count) or at[0]], [0])
        stream.finish()
        got = bytearray()
        stream = conn.newStream()
        volume.download(stream, 0, 0, 0)
        stream.recvAll(lambda s, piece, o: got.extend(piece), None)
        stream.finish()
        assert bytes(got) == data
        assert volume.info()[1] == 1048576 and conn.storageVolLookupByPath(volume.path()).name() == "p"
        copy = pool.createXMLFrom("<volume><name>q</name><capacity>1048576</capacity></volume>", volume)
        volume.wipe(); volume.resize(2097152)
        for each in (volume, copy):
            each.delete()
        net = conn.networkDefineXML(
            "<network><name>pn</name><ip address='10.8.0.1' netmask='255.255.255.0'/></network>")
        net.create(); net.setAutostart(True)
        net.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1,
                   "<host mac='52:54:00:00:00:01' ip='10.8.0.5'/>", 3)
        assert "10.8.0.5" in net.XMLDesc() and net.bridgeName() and net.DHCPLeases() == []
        net.destroy(); net.undefine()
        secret = conn.secretDefineXML("<secret><usage type='ceph'><name>py</name></usage></secret>")
        secret.setValue(b"word")
        assert secret.value() == b"word" and secret.usageID() == "py"
        secret.undefine()
        print("done")
    """)  # fmt: skip
    assert said == "done"


def test_sparse_streams(daemon: DaemonProcess) -> None:
    said = run(daemon, """
        import os, tempfile
        pool = conn.storagePoolLookupByName("default-pool")
        volume = pool.createXML("<volume><name>sparse</name><capacity>8388608</capacity></volume>")
        file = tempfile.TemporaryFile()
        file.truncate(4 << 20); file.seek(2 << 20); file.write(b"middle"); file.seek(0)
        stream = conn.newStream()
        volume.upload(stream, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        def source(stream, count, fd):
            return os.read(fd, count)
        def hole(stream, fd):
            at = os.lseek(fd, 0, os.SEEK_CUR)
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                data = os.fstat(fd).st_size
            if data > at or data == os.fstat(fd).st_size:
                os.lseek(fd, at, os.SEEK_SET)
                return False, data - at
            end = os.lseek(fd, at, os.SEEK_HOLE)
            os.lseek(fd, at, os.SEEK_SET)
            return end > at, end - at
        stream.sparseSendAll(source, hole, lambda s, length, fd: os.lseek(fd, length, os.SEEK_CUR), file.fileno())
        stream.finish()
        out, holes = tempfile.TemporaryFile(), []
        stream = conn.newStream()
        volume.download(stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        def skip(stream, length, file):
            holes.append(length); file.seek(length, 1)
        stream.sparseRecvAll(lambda s, piece, f: f.write(piece), skip, out)
        stream.finish()
        out.truncate(); out.seek(0)
        found = out.read()
        assert len(found) == 8388608 and found[2 << 20:(2 << 20) + 6] == b"middle" and found.count(0) == 8388602
        assert holes
        volume.delete()
        print("done")
    """)  # fmt: skip
    assert said == "done"
