"""Drives the real virt-manager through its accessibility tree; run by the system's own Python, which has the bindings.

    virt_manager_session.py URI DOMAIN FOLDER

Every step prints one line, `ok: STEP`; the first that does not come about prints what there is instead, and is the end.
Pictures of the windows, for people, are left in FOLDER.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gi  # type: ignore[import-not-found, unused-ignore]

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

warnings.simplefilter("ignore")
URI, DOMAIN, FOLDER = sys.argv[1:4]
SECONDS = 60
NODES = 4000


class Gone(Exception):
    """A step that did not come about."""


def wait(what: str, look: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true answer of `look`."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            found = look()
        except Exception:  # noqa: BLE001 - windows go while they are looked at
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise Gone(what)


def below(node: Any) -> Iterator[Any]:
    """All that is below a node, the node first."""
    queue, seen = [node], 0
    while queue and seen < NODES:
        each = queue.pop(0)
        seen += 1
        yield each
        queue += [child for child in (each.get_child_at_index(i) for i in range(each.get_child_count())) if child]


def application() -> Any:
    desktop = Atspi.get_desktop(0)
    found = [desktop.get_child_at_index(i) for i in range(desktop.get_child_count())]
    return next((each for each in found if each and "virt-manager" in (each.get_name() or "")), None)


def window(start: str) -> Any:
    """The window whose title starts so, if it is shown."""
    app = application()
    windows = [app.get_child_at_index(i) for i in range(app.get_child_count())]
    return next((each for each in windows if each and (each.get_name() or "").startswith(start) and shown(each)), None)


def shown(node: Any) -> bool:
    return bool(node.get_state_set().contains(Atspi.StateType.SHOWING))


def find(top: Any, role: str, name: str, is_shown: bool = True) -> Any:
    for each in below(top):
        if each.get_role_name() == role and (each.get_name() or "").startswith(name) and (not is_shown or shown(each)):
            return each
    return None


def act(node: Any, action: str = "click") -> bool:
    for index in range(node.get_n_actions()):
        if node.get_action_name(index) == action:
            node.do_action(index)
            return True
    return False


def click(top: Callable[[], Any], role: str, name: str, is_shown: bool = True) -> None:
    node = wait(f"{role} {name!r}", lambda: find(top(), role, name, is_shown))
    wait(f"{name!r} can be used", lambda: node.get_state_set().contains(Atspi.StateType.SENSITIVE) or not is_shown)
    if not act(node):
        raise Gone(f"{name!r} cannot be clicked")


def press(node: Any) -> None:
    """A click of the mouse."""
    box = Atspi.Component.get_extents(node, Atspi.CoordType.SCREEN)
    Atspi.generate_mouse_event(box.x + box.width // 2, box.y + box.height // 2, "b1c")


def state() -> str:
    done = subprocess.run(["virsh", "-q", "-c", URI, "domstate", DOMAIN], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def picture(name: str) -> None:
    subprocess.run(["import", "-window", "root", os.path.join(FOLDER, f"{name}.png")], check=False)


def vm() -> Any:
    return window(f"{DOMAIN} on ")


def dialog() -> Any:
    """A dialog that is shown, whatever it says."""
    app = application()
    tops = [app.get_child_at_index(i) for i in range(app.get_child_count())]
    return next((each for each in tops if each and each.get_role_name() in ("alert", "dialog") and shown(each)), None)


def no_complaint() -> None:
    """No dialog says that something went wrong."""
    found = dialog()
    if found:
        words = [each.get_name() for each in below(found) if each.get_role_name() == "label"]
        raise Gone(f"no complaint, but: {words}")


def listed() -> Any:
    cell = wait("the domain in the list", lambda: find(window("Virtual Machine Manager"), "table cell", DOMAIN))
    picture("list")
    return cell


def opened() -> None:
    press(listed())
    click(lambda: window("Virtual Machine Manager"), "push button", "Open")
    wait("the domain's window", vm)


def details() -> None:
    click(vm, "radio menu item", "Details", is_shown=False)
    table = wait("the list of hardware", lambda: find(vm(), "table", "hw-list") or find(vm(), "tree table", "hw-list"))
    rows = table.get_child_count()
    if rows < 5:
        raise Gone(f"a page of each device; there are {rows}")
    for index in range(rows):
        Atspi.Selection.select_child(table, index)
        time.sleep(0.3)
        no_complaint()
    picture("details")


def started() -> None:
    click(vm, "push button", "Run")
    wait("it runs", lambda: state() == "running")


def console() -> None:
    click(vm, "radio menu item", "Console", is_shown=False)
    # Without a display the serial console is what the page shows, once it is asked for.
    node = wait("the serial console's entry", lambda: find(vm(), "radio menu item", "Serial 1", is_shown=False)
                or find(vm(), "radio menu item", "Text Console 1", is_shown=False))  # fmt: skip
    act(node)

    def text() -> bool:
        terminal = find(vm(), "terminal", "")
        words = terminal and Atspi.Text.get_text(terminal, 0, Atspi.Text.get_character_count(terminal))
        return bool(words) and "Manor: Linux is up" in words

    wait("the guest's words on the serial console", text, 120)
    picture("console")


def paused() -> None:
    click(vm, "toggle button", "Pause")
    wait("it pauses", lambda: state() == "paused")
    click(vm, "toggle button", "Pause")
    wait("it goes on", lambda: state() == "running")


def shut_down() -> None:
    # By the mouse: a question that is asked while an accessible action runs keeps the tree from being read.
    press(wait("the menu of the button", lambda: find(vm(), "toggle button", "Menu")))
    press(wait("an entry to force it off", lambda: find(vm(), "menu item", "Force Off")))
    wait("the question whether it is meant", dialog)
    press(wait("its answer", lambda: find(dialog(), "push button", "Yes")))
    wait("it is off", lambda: state() == "shut off")
    picture("off")


def main() -> int:
    Atspi.init()
    wait("virt-manager's window", lambda: window("Virtual Machine Manager"))
    for step in (listed, opened, details, started, console, paused, shut_down, no_complaint):
        try:
            step()
        except Gone as error:
            print(f"failed: {step.__name__}: there is not: {error}", flush=True)
            app = application()
            tops = [app.get_child_at_index(i) for i in range(app.get_child_count())] if app else []
            print([(top.get_role_name(), top.get_name(), shown(top)) for top in tops if top], flush=True)
            picture("failed")
            return 1
        print(f"ok: {step.__name__}", flush=True)
    return 0


sys.exit(main())
