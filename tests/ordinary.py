"""Checks that root would pass without meaning it: carried out as an ordinary uid."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

UID = 61_235


def as_ordinary_user(check: Callable[[], None]) -> None:
    """Call `check` here if we are an ordinary user, else in a forked child that has given root up.

    What `check` uses must be imported before: the child may not be able to read where modules lie.
    """
    if os.geteuid() != 0:
        check()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads at a fork: the child starts none
        pid = os.fork()
    if pid == 0:
        _give_up_and_check(check)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, "the check failed as an ordinary user; what it printed is above"


def _give_up_and_check(check: Callable[[], None]) -> None:
    status = 1
    try:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        check()
        status = 0
    except BaseException:  # noqa: BLE001 - a child of pytest's process must end here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
