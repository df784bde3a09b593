"""What is plugged into a VM that runs, and what is turned, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.cli.cpus import parse_cpus
from manor.instances.client import ControlClient
from manor.instances.instance import Instances
from tests.unit.cli.test_named import Manor, command, directories, kernel, manor

__all__ = ["directories", "kernel", "manor"]

SIZE = 1 << 20


def devices(manor: Manor) -> dict[str, str]:
    """Name to kind."""
    return {each["name"]: each["kind"] for each in json.loads(manor("devices", "web", "--json").stdout)}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an image in the working directory."""
    (tmp_path / "data.raw").write_bytes(bytes(SIZE))
    monkeypatch.chdir(tmp_path)
    return "data.raw"


@pytest.fixture
def web(manor: Manor, kernel: Path) -> None:
    words = ("run", "web", "--detach", "--kernel", str(kernel), "--memory", "64M", "--net", "none", "--cpus", "1,max=2")
    manor(*words, program="hotplug")


@pytest.mark.usefixtures("web")
def test_what_comes_and_goes(manor: Manor, image: str) -> None:
    added = manor("attach", "web", "--disk", f"{image},format=raw,id=data", "--net", "none,id=lan", "--net", "none")
    assert added.stdout.split() == ["data", "lan", "net1"]
    assert devices(manor) == {"net0": "nic", "data": "disk", "lan": "nic", "net1": "nic"}
    shown = [line.split()[:4] for line in manor("devices", "web").stdout.splitlines()]
    assert shown[2] == ["data", "disk", "6", "there"]
    manor("link", "web", "lan", "down")
    with ControlClient(Instances().get("web").control) as client:
        assert [nic["up"] for nic in client.call("nics")["nics"] if nic["name"] == "lan"] == [False]
    manor("resize", "web", "data", "2M")
    assert Path(image).stat().st_size == 2 * SIZE
    manor("detach", "web", "lan", "net1", "--wait", "20")
    assert devices(manor) == {"net0": "nic", "data": "disk"}
    Path("other.iso").write_bytes(bytes(SIZE))
    manor("media", "web", "data", "other.iso,readonly=on", "--wait", "20")
    (found,) = [each for each in json.loads(manor("devices", "web", "--json").stdout) if each["name"] == "data"]
    assert found["source"] == str(Path("other.iso").absolute())
    manor("media", "web", "data")
    assert devices(manor) == {"net0": "nic"}


@pytest.mark.usefixtures("web")
def test_saved_vm_goes_on_with_what_came(manor: Manor, image: str) -> None:
    manor("attach", "web", "--disk", f"{image},format=raw,id=data")
    manor("cpus", "web", "2")
    before = manor("devices", "web").stdout
    manor("save", "web")
    manor("run", "web", "--detach", program="hotplug")
    assert manor("devices", "web").stdout == before
    assert manor("cpus", "web").stdout == "2 of 2\n"


@pytest.mark.usefixtures("web")
def test_memory_and_vcpus(manor: Manor) -> None:
    assert manor("cpus", "web").stdout == "1 of 2\n"
    manor("cpus", "web", "2")
    assert manor("cpus", "web").stdout == "2 of 2\n"
    manor("memory", "web", "32M")
    assert manor("memory", "web").stdout == "64 MiB of 32 MiB wanted\n"
    refused = manor("cpus", "web", "3", check=False)
    assert "3 vCPUs do not work; give 1 to 2; start the VM with --cpus N,max=M for more" in refused.stderr


@pytest.mark.usefixtures("web")
def test_guest_that_keeps_a_device(manor: Manor) -> None:
    with ControlClient(Instances().get("web").control) as client:
        client.call("input", data="a2VlcAo=")  # "keep\n"
    kept = manor("detach", "web", "net0", "--wait", "0.3", check=False)
    assert kept.returncode == 1
    assert "the guest has not given back net0 within 0.3 seconds; it may still do so" in kept.stderr
    manor("detach", "web", "net0", "--wait", "0")
    assert "leaving" in manor("devices", "web").stdout


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attach", "web"), "say what to plug in: --disk FILE or --net KIND"),
        (("attach", "web", "--disk", "/nonexistent"), "/nonexistent"),
        (("attach", "web", "--net", "pigeon"), "pigeon"),
        (("detach", "web", "moon"), "'moon' is no device that can be removed; there are: net0"),
        (("media", "web", "moon"), "there is no disk 'moon'"),
        (("media", "web", "net0"), "'net0' is no disk"),
        (("link", "web", "moon", "up"), "'moon' is no interface; there are: net0"),
        (("link", "web", "net0", "sideways"), "'sideways' is not one of 'up', 'down'"),
        (("resize", "web", "moon", "1M"), "'moon' is no disk of this machine"),
        (("resize", "web", "moon", "much"), "'much' is not a size"),
        (("memory", "web", "much"), "'much' is not a size"),
        (("cpus", "web", "many"), "'many' is not a valid integer"),
    ],
)
def test_mistake_is_one_sentence(manor: Manor, words: tuple[str, ...], message: str) -> None:
    done = manor(*words, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("web")
def test_completion_knows_the_devices(manor: Manor, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setenv("_MANOR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "manor detach web n")
    monkeypatch.setenv("COMP_CWORD", "3")
    done = subprocess.run(command("login"), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["plain,net0"]


@pytest.mark.parametrize(("text", "numbers"), [("1", (1, 0)), ("2,max=4", (2, 4)), ("-1", (-1, 0))])
def test_number_of_vcpus(text: str, numbers: tuple[int, int]) -> None:
    assert parse_cpus(text) == numbers


@pytest.mark.parametrize("text", ["", "x", "1,", "1,max=", "1,max=x", "1,2", "1 2", "1,max=2,max=3", "²"])
def test_number_of_vcpus_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number of vCPUs; write N or N,max=M"):
        parse_cpus(text)
