"""Drives the real virt-manager through its accessibility tree; run by the system's own Python, which has the bindings.

    virt_manager_session.py URI DOMAIN FOLDER

Every step prints one line, `ok: STEP`; the first that does not come about prints what there is instead, and is the end.
Pictures of the windows, for people, are left in FOLDER.
"""

import os
import subprocess
import sys
import time
import warnings

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi  # noqa: E402

warnings.simplefilter("ignore")
URI, DOMAIN, FOLDER = sys.argv[1:4]
SECONDS = 60
NODES = 4000


class Gone(Exception):
    """A step that did not come about."""


def wait(what, look, seconds=SECONDS):
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


def below(node):
    """All that is below a node, the node first."""
    queue, seen = [node], 0
    while queue and seen < NODES:
        each = queue.pop(0)
        seen += 1
        yield each
        queue += [child for child in (each.get_child_at_index(i) for i in range(each.get_child_count())) if child]


def application():
    desktop = Atspi.get_desktop(0)
    found = [desktop.get_child_at_index(i) for i in range(desktop.get_child_count())]
    return next((each for each in found if each and "virt-manager" in (each.get_name() or "")), None)


def window(start):
    """The window whose title starts so, if it is shown."""
    app = application()
    windows = [app.get_child_at_index(i) for i in range(app.get_child_count())]
    return next((each for each in windows if each and (each.get_name() or "").startswith(start) and shown(each)), None)


def shown(node):
    return node.get_state_set().contains(Atspi.StateType.SHOWING)


def find(top, role, name, is_shown=True):
    for each in below(top):
        if each.get_role_name() == role and (each.get_name() or "").startswith(name) and (not is_shown or shown(each)):
            return each
    return None


def act(node, action="click"):
    for index in range(node.get_n_actions()):
        if node.get_action_name(index) == action:
            node.do_action(index)
            return True
    return False


def click(top, role, name, is_shown=True):
    node = wait(f"{role} {name!r}", lambda: find(top(), role, name, is_shown))
    wait(f"{name!r} can be used", lambda: node.get_state_set().contains(Atspi.StateType.SENSITIVE) or not is_shown)
    if not act(node):
        raise Gone(f"{name!r} cannot be clicked")


def press(node):
    """A click of the mouse."""
    box = Atspi.Component.get_extents(node, Atspi.CoordType.SCREEN)
    Atspi.generate_mouse_event(box.x + box.width // 2, box.y + box.height // 2, "b1c")


def state():
    done = subprocess.run(["virsh", "-q", "-c", URI, "domstate", DOMAIN], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def picture(name):
    subprocess.run(["import", "-window", "root", os.path.join(FOLDER, f"{name}.png")], check=False)


def vm():
    return window(f"{DOMAIN} on ")


def dialog():
    """A dialog that is shown, whatever it says."""
    app = application()
    tops = [app.get_child_at_index(i) for i in range(app.get_child_count())]
    return next((each for each in tops if each and each.get_role_name() in ("alert", "dialog") and shown(each)), None)


def no_complaint():
    """No dialog says that something went wrong."""
    found = dialog()
    if found:
        words = [each.get_name() for each in below(found) if each.get_role_name() == "label"]
        raise Gone(f"no complaint, but: {words}")


def listed():
    cell = wait("the domain in the list", lambda: find(window("Virtual Machine Manager"), "table cell", DOMAIN))
    picture("list")
    return cell


def opened():
    press(listed())
    click(lambda: window("Virtual Machine Manager"), "push button", "Open")
    wait("the domain's window", vm)


def details():
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


def started():
    click(vm, "push button", "Run")
    wait("it runs", lambda: state() == "running")


def console():
    click(vm, "radio menu item", "Console", is_shown=False)
    # Without a display the serial console is what the page shows, once it is asked for.
    node = wait("the serial console's entry", lambda: find(vm(), "radio menu item", "Serial 1", is_shown=False)
                or find(vm(), "radio menu item", "Text Console 1", is_shown=False))  # fmt: skip
    act(node)

    def text():
        terminal = find(vm(), "terminal", "")
        words = terminal and Atspi.Text.get_text(terminal, 0, Atspi.Text.get_character_count(terminal))
        return words and "Manor: Linux is up" in words

    wait("the guest's words on the serial console", text, 120)
    picture("console")


def paused():
    click(vm, "toggle button", "Pause")
    wait("it pauses", lambda: state() == "paused")
    click(vm, "toggle button", "Pause")
    wait("it goes on", lambda: state() == "running")


def shut_down():
    # By the mouse: a question that is asked while an accessible action runs keeps the tree from being read.
    press(wait("the menu of the button", lambda: find(vm(), "toggle button", "Menu")))
    press(wait("an entry to force it off", lambda: find(vm(), "menu item", "Force Off")))
    wait("the question whether it is meant", dialog)
    press(wait("its answer", lambda: find(dialog(), "push button", "Yes")))
    wait("it is off", lambda: state() == "shut off")
    picture("off")


def main():
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
