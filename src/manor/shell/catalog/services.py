"""Commands for what manord gives beyond libvirt."""

from __future__ import annotations

SECTIONS = (
    ("services", "services", """
plan | Tell what a command would change, and when, without changing it | --diff command...
explain | Tell more about the last error |
jobs | List long operations: those that run, and the latest that are over | --running
job-info | Tell how far a job is | job#
job-wait | Wait until a job is over; fails if the job did | job#
job-cancel | Cancel a job | job#
events | List what has happened, by numbers that are never used again | since=# limit=# of= --follow
stats-history | Show the statistics of a domain over time | domain last= step=# series=
"""),
    ("services", "past", """
history | List the states of a definition: who made it so, and when | name kind=
history-show | Show a definition as it was | name revision# kind= --security-info
history-diff | Show what changed between two states of a definition | name old# new?# kind= --security-info
history-revert | Make a definition what it was | name revision# kind=
trash | List what was deleted and can come back |
trash-volume | Move a volume to the trash | vol pool?
trash-restore | Bring something back from the trash | entry#
trash-purge | Delete something in the trash for good | entry?# --all
"""),
)
