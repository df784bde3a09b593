"""Saving and restoring domains, as a client's connection asks for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError, HostError
from manor.domain.events import LifecycleEvent, StartedDetail, StoppedDetail
from manor.domain.state import DomainState, PausedReason, RunningReason, ShutoffReason
from manor.drivers.api import Progress
from manor.drivers.domains.saving import SAVE_PAUSED, SAVE_RUNNING
from manor.drivers.hypervisor import End, Ended
from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import ParamType, TypedParam
from manor.spec import saved_vm
from tests.unit.service.harness import DOMAIN, Harness, with_harness

SECRET = "<graphics type='vnc' passwd='hush'/>"


async def state(h: Harness) -> tuple[int, int]:
    return await h.driver.domains.state(h.web1.uuid)


async def running(h: Harness) -> None:
    await h.call("domain_create", domain=h.web1)
    await h.call("connect_domain_event_callback_register_any", event_id=0, domain=None)
    h.session.sent.clear()


def told(h: Harness) -> list[tuple[int, int]]:
    """Lifecycle events since the last call."""
    found = [arguments for name, arguments in h.session.sent if "lifecycle" in name]
    h.session.sent.clear()
    return [(int(each[-2]), int(each[-1])) for each in found]


def test_save_and_restore(tmp_path: Path) -> None:
    path = str(tmp_path / "web1.state")

    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_save", domain=h.web1, path=path)
        assert await state(h) == (DomainState.SHUTOFF, ShutoffReason.SAVED)
        assert told(h) == [(LifecycleEvent.STOPPED, StoppedDetail.SAVED)]
        assert not (await h.driver.domains.flags(h.web1.uuid)).managed_save
        xml = await h.call("domain_save_image_get_xml_desc", file=path, flags=0)
        assert "<name>web1</name>" in xml
        assert "<alias" not in xml
        await h.call("domain_restore", path=path)
        assert await state(h) == (DomainState.RUNNING, RunningReason.RESTORED)
        assert told(h) == [(LifecycleEvent.STARTED, StartedDetail.RESTORED)]
        error = await h.refused("domain_restore", path=path)
        assert error.code == ErrorCode.OPERATION_INVALID
        assert "already running" in str(error)
        assert Path(path).exists()

    with_harness(scenario)


@pytest.mark.parametrize(
    ("at_save", "at_restore", "expected"),
    [
        (0, 0, DomainState.RUNNING),
        (SAVE_PAUSED, 0, DomainState.PAUSED),
        (SAVE_PAUSED, SAVE_RUNNING, DomainState.RUNNING),
        (SAVE_RUNNING, SAVE_PAUSED, DomainState.PAUSED),
    ],
)
def test_whether_it_runs_afterwards(tmp_path: Path, at_save: int, at_restore: int, expected: DomainState) -> None:
    path = str(tmp_path / "web1.state")

    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_save_flags", domain=h.web1, path=path, xml=None, flags=at_save)
        await h.call("domain_restore_flags", path=path, xml=None, flags=at_restore)
        assert (await state(h))[0] == expected
        error = await h.refused("domain_restore_flags", path=path, xml=None, flags=SAVE_RUNNING | SAVE_PAUSED)
        assert error.code == ErrorCode.INVALID_ARG

    with_harness(scenario)


def test_managed_save_and_start() -> None:
    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_managed_save", domain=h.web1, flags=0)
        assert await h.call("domain_has_managed_save_image", domain=h.web1, flags=0) == 1
        assert await state(h) == (DomainState.SHUTOFF, ShutoffReason.SAVED)
        told(h)
        error = await h.refused("domain_undefine", domain=h.web1)
        assert "managed save" in str(error)
        error = await h.refused("domain_rename", domain=h.web1, new_name="other", flags=0)
        assert "managed save" in str(error)
        assert "web1" in await h.call("domain_managed_save_get_xml_desc", domain=h.web1, flags=0)
        await h.call("domain_create", domain=h.web1)
        assert await state(h) == (DomainState.RUNNING, RunningReason.RESTORED)
        assert told(h) == [(LifecycleEvent.STARTED, StartedDetail.RESTORED)]
        assert await h.call("domain_has_managed_save_image", domain=h.web1, flags=0) == 0
        await h.call("domain_managed_save", domain=h.web1, flags=SAVE_PAUSED)
        await h.call("domain_create", domain=h.web1)
        assert await state(h) == (DomainState.PAUSED, PausedReason.USER)
        await h.call("domain_managed_save", domain=h.web1, flags=0)
        await h.call("domain_managed_save_remove", domain=h.web1, flags=0)
        error = await h.refused("domain_managed_save_remove", domain=h.web1, flags=0)
        assert error.code == ErrorCode.OPERATION_INVALID
        await h.call("domain_create", domain=h.web1)
        assert await state(h) == (DomainState.RUNNING, RunningReason.BOOTED)

    with_harness(scenario)


def test_a_forced_boot_forgets_the_managed_save() -> None:
    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_managed_save", domain=h.web1, flags=0)
        await h.call("domain_create_with_flags", domain=h.web1, flags=8)
        assert await state(h) == (DomainState.RUNNING, RunningReason.BOOTED)
        assert await h.call("domain_has_managed_save_image", domain=h.web1, flags=0) == 0

    with_harness(scenario)


def test_undefine_with_the_managed_save() -> None:
    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_managed_save", domain=h.web1, flags=0)
        path = h.driver.domains._saves.path(h.web1.uuid)
        assert path.exists()
        await h.call("domain_undefine_flags", domain=h.web1, flags=1)
        assert not path.exists()
        await h.refused("domain_lookup_by_name", name="web1")

    with_harness(scenario)


def test_descriptions_in_files(tmp_path: Path) -> None:
    path = str(tmp_path / "web1.state")

    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_save", domain=h.web1, path=path)
        xml = await h.call("domain_save_image_get_xml_desc", file=path, flags=1)
        changed = xml.replace("/nowhere/a.img", "/nowhere/b.img")
        await h.call("domain_save_image_define_xml", file=path, xml=changed, flags=SAVE_PAUSED)
        assert "b.img" in await h.call("domain_save_image_get_xml_desc", file=path, flags=0)
        assert saved_vm.read_head(Path(path)).paused
        error = await h.refused("domain_save_image_define_xml", file=path, xml=DOMAIN.format(name="x"), flags=0)
        assert "of another domain" in str(error)
        await h.call("domain_restore_flags", path=path, xml=changed.replace("b.img", "c.img"), flags=SAVE_RUNNING)
        assert "c.img" in await h.driver.domains.xml(h.web1.uuid, False, True)
        other = changed.replace("b.img", "d.img")
        await h.call("domain_managed_save", domain=h.web1, flags=0)
        await h.call("domain_managed_save_define_xml", domain=h.web1, xml=other, flags=0)
        assert "d.img" in await h.call("domain_managed_save_get_xml_desc", domain=h.web1, flags=1)
        error = await h.refused("domain_managed_save_define_xml", domain=h.web1, xml=None, flags=0)
        assert error.code == ErrorCode.INVALID_ARG

    with_harness(scenario)


def test_a_transient_domain(tmp_path: Path) -> None:
    path = str(tmp_path / "gone.state")

    async def scenario(h: Harness) -> None:
        made = await h.call("domain_create_xml", xml=DOMAIN.format(name="gone"), flags=0)
        error = await h.refused("domain_managed_save", domain=made, flags=0)
        assert "transient" in str(error)
        await h.call("domain_save", domain=made, path=path)
        await h.refused("domain_lookup_by_name", name="gone")
        await h.call("domain_restore_flags", path=path, xml=None, flags=SAVE_PAUSED)
        found = await h.call("domain_lookup_by_name", name="gone")
        assert found.uuid == made.uuid
        assert (await h.driver.domains.state(found.uuid))[0] == DomainState.PAUSED
        assert not (await h.driver.domains.flags(found.uuid)).persistent

    with_harness(scenario)


def _params(**values: Any) -> list[TypedParam]:
    return [TypedParam(name, int(ParamType.STRING), value) for name, value in values.items()]


def test_parameters(tmp_path: Path) -> None:
    path = str(tmp_path / "web1.state")

    async def scenario(h: Harness) -> None:
        await running(h)
        await h.call("domain_save_params", domain=h.web1, params=_params(file=path, image_format="raw"), flags=0)
        await h.call("domain_restore_params", params=_params(file=path), flags=0)
        await h.call("domain_save_params", domain=h.web1, params=_params(), flags=0)
        assert await h.call("domain_has_managed_save_image", domain=h.web1, flags=0) == 1
        error = await h.refused("domain_restore_params", params=_params(file=path), flags=0)
        assert "managed save image" in str(error)
        error = await h.refused("domain_restore_params", params=_params(dxml="<x/>"), flags=0)
        assert error.code == ErrorCode.INVALID_ARG
        await h.call("domain_create", domain=h.web1)
        for wrong in ({"image_format": "xz", "file": path}, {"colour": "red"}):
            await h.refused("domain_save_params", domain=h.web1, params=_params(**wrong), flags=0)

    with_harness(scenario)


def test_what_is_refused(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        error = await h.refused("domain_save", domain=h.web1, path=str(tmp_path / "x"))
        assert error.code == ErrorCode.OPERATION_INVALID
        error = await h.refused("domain_managed_save_get_xml_desc", domain=h.web1, flags=0)
        assert "no managed save" in str(error)
        await h.refused("domain_managed_save_define_xml", domain=h.web1, xml="<domain/>", flags=0)
        await running(h)
        error = await h.refused("domain_save", domain=h.web1, path="relative")
        assert error.code == ErrorCode.INVALID_ARG
        error = await h.refused("domain_save", domain=h.web1, path=str(tmp_path / "no" / "x"))
        assert error.code == ErrorCode.SYSTEM_ERROR
        assert (await state(h))[0] == DomainState.RUNNING
        error = await h.refused("domain_restore", path=str(tmp_path / "missing"))
        assert error.code == ErrorCode.SYSTEM_ERROR
        (tmp_path / "text").write_text("hello")
        error = await h.refused("domain_restore", path=str(tmp_path / "text"))
        assert "is not the state of a saved VM" in str(error)
        assert error.code == ErrorCode.OPERATION_FAILED

    with_harness(scenario)


def test_secrets_are_for_who_may_read_them(tmp_path: Path) -> None:
    path = str(tmp_path / "web1.state")

    async def scenario(h: Harness) -> None:
        xml = DOMAIN.format(name="web2").replace("<console", SECRET + "<console")
        made = await h.call("domain_create_xml", xml=xml, flags=0)
        await h.call("domain_save", domain=made, path=path)
        assert "hush" not in await h.call("domain_save_image_get_xml_desc", file=path, flags=0)
        assert "hush" in await h.call("domain_save_image_get_xml_desc", file=path, flags=1)

    with_harness(scenario)


def test_a_save_is_a_job_that_can_be_followed_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "web1.state")

    async def slow(uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress) -> None:
        while True:
            progress(1 << 20, 4 << 20)
            await asyncio.sleep(0.001)

    async def scenario(h: Harness) -> None:
        await running(h)
        monkeypatch.setattr(h.driver.hypervisor, "save", slow)
        saving = asyncio.ensure_future(h.call("domain_save", domain=h.web1, path=path))
        await asyncio.sleep(0.05)
        kind, _, _, total, done, left, *_ = await h.call("domain_get_job_info", domain=h.web1)
        assert (kind, total, done, left) == (1, 4 << 20, 1 << 20, 3 << 20)
        await h.call("domain_abort_job", domain=h.web1)
        with pytest.raises(ApiError, match="save web1 was cancelled; it leaves the domain as it runs") as caught:
            await saving
        assert caught.value.code == ErrorCode.OPERATION_ABORTED
        assert (await state(h))[0] == DomainState.RUNNING
        assert told(h) == []

    with_harness(scenario)


def test_a_domain_that_ends_while_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver: Any = None

    async def ending(uuid: bytes, *_: object) -> None:
        driver.hypervisor.happen(Ended(uuid, End.POWER_OFF))
        raise HostError("the VM has ended")

    async def scenario(h: Harness) -> None:
        nonlocal driver
        driver = h.driver
        await running(h)
        monkeypatch.setattr(h.driver.hypervisor, "save", ending)
        await h.refused("domain_save", domain=h.web1, path=str(tmp_path / "x"))
        assert await state(h) == (DomainState.SHUTOFF, ShutoffReason.SHUTDOWN)

    with_harness(scenario)


def test_a_managed_save_that_ends_past_the_driver() -> None:
    """Its answer was lost, and its file is there."""

    async def scenario(h: Harness) -> None:
        await running(h)
        h.driver.domains._saves.path(h.web1.uuid).write_text("a saved state")
        h.driver.hypervisor.happen(Ended(h.web1.uuid, End.SAVED))
        assert await state(h) == (DomainState.SHUTOFF, ShutoffReason.SAVED)
        assert (await h.driver.domains.flags(h.web1.uuid)).managed_save

    with_harness(scenario)
