"""VMs with names from the command line: made, run in the foreground and in the background, attached to, ended, removed.

The guest is a Python program; everything else is as a user has it, each command in a process of its own.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.cli.cp import places
from manor.cli.named import absolute_disk
from manor.cli.port import parse_host_port
from manor.cli.wait import has_reached
from manor.images.reference import Reference
from manor.images.store import Metadata, Store
from manor.instances.client import ControlClient
from manor.instances.instance import Instances
from manor.testing.kernel import kernel_file

ROOT = Path(__file__).resolve().parents[3]

DRIVER = """
import sys
sys.path.insert(0, {source!r})
from manor.testing import guest_programs
from manor.accel import choose
from manor.testing.fake_accel import NO_KVM, FakeAccel
choose.probe = lambda: NO_KVM
program = getattr(guest_programs, sys.argv.pop(1))
FakeAccel.name = "dbt"  # what a saved VM is to go on under
choose._load_dbt = lambda: FakeAccel(program)
from manor.cli.main import main
main()
"""

Manor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir(mode=0o700)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return kernel_file(tmp_path)


def command(program: str, *words: str) -> list[str]:
    return [sys.executable, "-c", DRIVER.format(source=str(ROOT / "src")), program, *words]


@pytest.fixture
def manor() -> Iterator[Manor]:
    """Run one command to its end. What runs in the background afterwards is killed."""

    def run(
        *words: str, program: str = "login", stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(program, *words), input=stdin or "", capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    yield run
    for vm in Instances().all():
        pid = vm.running_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)


def options(kernel: Path) -> tuple[str, ...]:
    return ("--kernel", str(kernel), "--memory", "64M", "--no-net")


def put_image(name: str = "debian") -> None:
    store = Store()
    with store.incoming("test") as folder:
        (folder / "disk").write_bytes(bytes(1 << 20))
        store.add(folder / "disk", Metadata("raw", 1 << 20, 1 << 20, 0.0), Reference(name))


def listed(manor: Manor) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(manor("ls", "--json").stdout)}


def gone(pid: int) -> bool:
    limit = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def test_life_in_the_background(manor: Manor, kernel: Path) -> None:
    started = manor("run", "web", "-d", *options(kernel))
    assert "web runs in the background" in started.stderr
    row = listed(manor)["web"]
    assert (row["state"], row["memory"], row["image"]) == ("running", 64 << 20, "")
    assert row["pid"] != 0
    assert "box login: " in manor("console", "web", "--history").stdout
    again = manor("run", "web", check=False)
    assert again.returncode == 1
    assert f"the VM web runs already (process {row['pid']}); end it with: manor stop web." in again.stderr
    assert manor("rm", "web", check=False).returncode == 1
    manor("stop", "--force", "web")
    assert gone(row["pid"])
    row = listed(manor)["web"]
    assert (row["state"], row["last_end"]) == (
        "stopped", {"reason": "stopped", "detail": "by a command", "status": 0}
    )  # fmt: skip
    assert not (Path(os.environ["XDG_RUNTIME_DIR"]) / "manor" / "web.control").exists()
    assert "box login: " in manor("console", "web", "--history").stdout
    assert manor("rm", "web").stdout == "web\n"
    assert listed(manor) == {}


def test_what_is_typed_reaches_the_guest_and_its_end_ends_the_console(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "--wait", "login", *options(kernel))
    typed = manor("console", "web", stdin="one\ntwo\noff\n")
    assert "<one>" in typed.stdout
    assert "<two>" in typed.stdout
    assert "web ended: power-off" in typed.stderr
    row = listed(manor)["web"]
    assert (row["state"], row["last_end"]["reason"]) == ("stopped", "power-off")


def test_options_are_remembered(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    manor("stop", "-f", "web")
    manor("run", "web", "-d", "--cpus", "2")
    row = listed(manor)["web"]
    assert (row["memory"], row["cpus"]) == (64 << 20, 2)
    assert row["options"] == {"kernel": str(kernel), "memory": "64M", "no_net": True, "cpus": 2}
    manor("stop", "-f", "web")


def test_in_the_foreground_it_is_a_terminal_and_has_a_control_socket(manor: Manor, kernel: Path) -> None:
    with subprocess.Popen(
        command("login", "run", "web", *options(kernel)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        seen = b""
        while b"login: " not in seen:
            seen += os.read(process.stdout.fileno(), 4096)
        with ControlClient(Instances().get("web").control) as client:
            assert client.greeting["pid"] == process.pid
            assert client.call("status")["stage"]["text"] == "login"
        process.stdin.write(b"off\n")
        process.stdin.flush()
        assert process.wait(20) == 0
    assert listed(manor)["web"]["last_end"]["reason"] == "power-off"


def test_killed_vm_can_be_run_again(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    pid = listed(manor)["web"]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    row = listed(manor)["web"]
    assert (row["state"], row["last_end"]) == ("stopped", None)
    manor("run", "web", "-d")
    assert listed(manor)["web"]["pid"] != pid


def test_new_vm_is_a_clone_of_the_image_of_its_name(manor: Manor, kernel: Path) -> None:
    put_image()
    manor("run", "debian", "-d", *options(kernel), "--size", "2M")
    vm = Instances().get("debian")
    config = vm.config()
    assert (config.image, config.disk) == ("debian", True)
    assert vm.disk.exists()
    assert b"cidata" in vm.seed.read_bytes()
    refused = manor("image", "rm", "debian", check=False)
    assert refused.returncode == 2
    assert f"debian is in use: {vm.disk} backs on it" in refused.stderr
    manor("rm", "--force", "debian")
    assert manor("image", "rm", "debian").stdout.startswith("debian\nsha256:")


def test_image_under_another_name(manor: Manor, kernel: Path) -> None:
    put_image("base")
    manor("run", "web", "--image", "base", "-d", *options(kernel))
    assert listed(manor)["web"]["image"] == "base"
    assert manor("image", "list").stdout.splitlines()[1].split()[-1] == "1"


MISTAKES = (
    (("debian",), "there is neither a VM nor an image 'debian'; fetch an image with: manor image pull debian"),
    (("web", "--image", "none-such"), "there is no image 'none-such'; the store is empty"),
    (("a/b",), "'a/b' is not a name for a VM"),
    (("web", "--image", "none", "--memory", "abc"), "--memory: 'abc' is not a size"),
    (("web", "--kernel", "/nonexistent"), "--kernel: /nonexistent does not exist"),
    (("web", "--image", "none", "--size", "big"), "--size: 'big' is not a size"),
    (("web", "--image", "none", "--colour"), "No such option"),
    (("--wait", "login"), "it needs the NAME of a VM"),
    (("--image", "x"), "it needs the NAME of a VM"),
)
"""Options of `manor run`, and what is said."""


@pytest.mark.parametrize(("words", "message"), [*MISTAKES, *(((*words, "-d"), text) for words, text in MISTAKES[3:5])])
def test_mistake_is_one_sentence_and_makes_no_vm(manor: Manor, words: tuple[str, ...], message: str) -> None:
    done = manor("run", *words, check=False)
    assert message in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert Instances().all() == []


def test_size_below_the_images_is_told_before_a_vm_is_made(manor: Manor, kernel: Path) -> None:
    put_image()
    done = manor("run", "debian", "-d", *options(kernel), "--size", "1K", check=False)
    assert "--size: 1 KiB is less than the image debian has; give at least 1 MiB." in done.stderr
    assert done.returncode == 2
    assert Instances().all() == []


def test_user_data_is_checked_before_the_boot(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    put_image()
    (tmp_path / "bad").write_text("packages: [vim]\n")
    done = manor("run", "debian", "-d", *options(kernel), "--user-data", str(tmp_path / "bad"), check=False)
    assert "--user-data: it begins with 'packages: [vim]'" in done.stderr
    assert Instances().all() == []
    (tmp_path / "good").write_text("#cloud-config\npackages: [vim]\n")
    manor("run", "debian", "-d", *options(kernel), "--user-data", str(tmp_path / "good"))
    assert b"packages: [vim]" in Instances().get("debian").seed.read_bytes()
    done = manor("run", "debian", "--user-data", str(tmp_path / "good"), check=False)
    assert "the VM debian is there already; this counts only when it is made" in done.stderr


def test_wait_shows_stages_and_returns(manor: Manor, kernel: Path) -> None:
    done = manor("run", "web", "--wait", "boot", *options(kernel))
    assert "manor: web is ready: boot" in done.stderr
    assert listed(manor)["web"]["stage"] == "login"


def test_wait_for_a_vm_that_ends_says_how(manor: Manor, kernel: Path) -> None:
    done = manor("run", "web", "--wait", "login", *options(kernel), program="panic", check=False)
    assert done.returncode == 1
    assert "web ended before it had reached 'login' (panic" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "stage", "reached"),
    [
        ("boot", {"name": "kernel"}, False), ("boot", {"name": "systemd"}, True), ("boot", {"name": "login"}, True),
        ("login", {"name": "systemd"}, False), ("login", {"name": "login"}, True),
        ("cloud-init", {"name": "login", "cloud_init": "running"}, False),
        ("cloud-init", {"name": "login", "cloud_init": "done"}, True), ("agent", {"name": "login"}, False),
    ],
)  # fmt: skip
def test_how_far_is_far_enough(wanted: str, stage: dict[str, str], reached: bool) -> None:
    assert has_reached(stage, wanted) is reached


def test_pause_and_resume(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "--wait", "login", *options(kernel))
    manor("pause", "web")
    assert listed(manor)["web"]["state"] == "paused"
    refused = manor("pause", "web", check=False)
    assert refused.returncode == 1
    assert "not allowed in state paused" in refused.stderr
    manor("resume", "web")
    assert listed(manor)["web"]["state"] == "running"
    assert "<x>" in manor("console", "web", stdin="x\noff\n").stdout


def test_guest_that_cannot_be_asked_is_not_stopped(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    done = manor("stop", "web", check=False)
    assert done.returncode == 1
    assert "the guest of web cannot be asked to shut down" in done.stderr
    assert "manor stop --force web" in done.stderr
    assert listed(manor)["web"]["state"] == "running"


def test_commands_for_a_vm_that_is_not_there(manor: Manor) -> None:
    for words in (("stop", "x"), ("rm", "x"), ("console", "x"), ("ssh", "x"), ("exec", "x", "--", "ls"), ("port", "x")):
        done = manor(*words, check=False)
        assert done.returncode == 2
        assert "there is no VM 'x'" in done.stderr


def test_damaged_vm_is_listed_and_can_be_removed(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    manor("stop", "-f", "web")
    (Instances().root / "web" / "config.json").write_text("{")
    row = listed(manor)["web"]
    assert row["state"] == "damaged"
    manor("rm", "web")
    assert listed(manor) == {}


def test_completion_knows_vms_and_images(manor: Manor, kernel: Path) -> None:
    put_image()
    manor("run", "web", "-d", *options(kernel))
    for typed, offered in (
        ("manor stop ", ["web"]), ("manor rm w", ["web"]), ("manor run ", ["web", "debian"]),
        ("manor image rm ", ["debian"]), ("manor run web --wait l", ["login"]), ("manor cp ", ["web:"]),
    ):  # fmt: skip
        words = typed.split()
        env = {
            **os.environ, "_MANOR_COMPLETE": "bash_complete", "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) if typed.endswith(" ") else len(words) - 1), "PYTHONPATH": str(ROOT / "src"),
        }  # fmt: skip
        code = "import sys; sys.argv[0]='manor'; from manor.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30)
        assert [line.removeprefix("plain,") for line in done.stdout.splitlines()] == offered


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        (("a",), "web:/tmp/", ("web", ["./a"], ":/tmp/")),
        (("/a", "./b", "../c"), "web:", ("web", ["/a", "./b", "../c"], ":.")),
        (("web:a", "web:b"), "x:y/z".replace(":", "-"), ("web", [":a", ":b"], "./x-y/z")),
        (("./odd:name",), "web:/x", ("web", ["./odd:name"], ":/x")),
    ],
)
def test_places_of_cp(sources: tuple[str, ...], target: str, expected: tuple[str, list[str], str]) -> None:
    assert places(sources, target) == expected


@pytest.mark.parametrize(
    ("sources", "target"), [(("a",), "b"), (("x:a",), "y:b"), (("x:a", "b"), "c"), (("x:a", "b"), "x:c")]
)
def test_places_of_cp_that_make_no_sense(sources: tuple[str, ...], target: str) -> None:
    from click import UsageError

    with pytest.raises(UsageError, match="one VM"):
        places(sources, target)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2222", ("", 2222, "tcp")), ("53/udp", ("", 53, "udp")), ("[::1]:80", ("::1", 80, "tcp")),
        ("0.0.0.0:80/tcp", ("0.0.0.0", 80, "tcp")),
    ],
)  # fmt: skip
def test_host_ports(text: str, expected: tuple[str, int, str]) -> None:
    assert parse_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b.img,format=raw", "/a/b.img,format=raw"), ("nbd://h/x", "nbd://h/x"), ("nbd+unix:///x", "nbd+unix:///x"),
    ],
)  # fmt: skip
def test_files_of_options_that_are_absolute_already(text: str, expected: str) -> None:
    assert absolute_disk(text) == expected


def test_files_of_options_are_remembered_by_their_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert absolute_disk("data.img,readonly=on") == f"{tmp_path}/a,,b/data.img,readonly=on"


def test_wait_for_a_vm_that_runs_already(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    assert "web is ready: login" in manor("run", "web", "--wait", "login").stderr
    refused = manor("run", "web", "--wait", "login", "--cpus", "2", check=False)
    assert "the VM web runs already" in refused.stderr


def test_console_on_a_terminal_passes_keys_on_and_ctrl_bracket_leaves(manor: Manor, kernel: Path) -> None:
    manor("run", "web", "--wait", "login", *options(kernel))
    pid, terminal = pty.fork()
    if pid == 0:
        argv = command("login", "console", "web")
        os.execv(argv[0], argv)

    def read_until(text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            assert select.select([terminal], [], [], 20)[0], seen
            seen += os.read(terminal, 4096)
        return seen

    assert b"box login: " in read_until(b"Ctrl-] leaves")
    os.write(terminal, b"one\n\x03\n")
    read_until(b"<\x03>")  # Ctrl-C is the guest's
    os.write(terminal, b"\x1d")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)
    assert listed(manor)["web"]["state"] == "running"


# --- saved ----------------------------------------------------------------------------------------------------------


def saved_file(name: str) -> Path:
    return Instances().get(name).saved


def test_saved_and_run_again(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    disk = ("--disk", f"{tmp_path}/disk.raw,format=raw")
    manor("run", "web", "--wait", "login", *options(kernel), *disk)
    assert "saving web" in manor("save", "web").stderr
    row = listed(manor)["web"]
    assert (row["state"], row["last_end"]["reason"]) == ("saved", "saved")
    assert row["last_end"]["detail"] == str(saved_file("web"))
    # Options that do not fit are refused, and not remembered.
    wrong = manor("run", "web", "-d", "--memory", "128M", check=False)
    assert "--memory: the saved machine had" in wrong.stderr
    assert listed(manor)["web"]["state"] == "saved"
    # Nothing is booted, so the kernel need not be there any more.
    kernel.rename(tmp_path / "moved")
    started = manor("run", "web", "-d")
    assert "restoring web" in started.stderr
    assert not saved_file("web").exists()
    row = listed(manor)["web"]
    assert (row["state"], row["stage"]) == ("running", "login")
    manor("stop", "--force", "web")


def test_a_saved_state_that_is_given_up(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    disk = ("--disk", f"{tmp_path}/disk.raw,format=raw")
    manor("run", "web", "--wait", "login", *options(kernel), *disk)
    manor("save", "web")
    os.utime(tmp_path / "disk.raw")
    refused = manor("run", "web", "-d", check=False)
    assert "disk.raw has changed since the VM was saved" in refused.stderr
    assert saved_file("web").exists()
    manor("run", "web", "-d", "--discard-saved")
    assert not saved_file("web").exists()
    manor("stop", "--force", "web")


def test_saved_into_a_file_of_ones_own(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    path = tmp_path / "web.state"
    manor("run", "web", "--wait", "login", *options(kernel))
    manor("save", "web", str(path))
    assert listed(manor)["web"]["state"] == "stopped"
    manor("run", "web", "-d", "--restore", str(path))
    assert listed(manor)["web"]["stage"] == "login"
    manor("save", "web")
    both = manor("run", "web", "-d", "--restore", str(path), check=False)
    assert "--restore: web has a saved state already; add --discard-saved to lose it" in both.stderr
    manor("run", "web", "-d", "--restore", str(path), "--discard-saved")
    manor("stop", "--force", "web")
    path.write_bytes(path.read_bytes()[:-1])
    damaged = manor("run", "web", "-d", "--restore", str(path), check=False)
    assert "is damaged" in damaged.stderr
    assert damaged.returncode == 1


def test_what_save_and_restore_need(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    manor("run", "web", "-d", *options(kernel))
    manor("stop", "--force", "web")
    assert "web does not run, so there is nothing to save" in manor("save", "web", check=False).stderr
    assert "there is no VM 'other'" in manor("save", "other", check=False).stderr
    nameless = manor("run", "--restore", str(tmp_path / "x"), check=False)
    assert "--restore: it needs the NAME of a VM" in nameless.stderr
    new = manor("run", "new", "-d", "--restore", str(tmp_path / "x"), *options(kernel), check=False)
    assert "there is no VM new to go on with" in new.stderr
