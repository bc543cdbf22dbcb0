"""The user that the command runs as and that output files belong to."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from tracer.common.errors import Exit, TraceError
from tracer.common.text import printable

# Variables that sudo set for root, or that say the process runs under sudo: wrong for a command
# that has the invoking user's rights again (pip, for one, acts on SUDO_UID).
_SUDO_VARIABLES = ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME", "MAIL")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's ids and supplementary groups, and what login(1) would put in the environment."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str
    shell: str = "/bin/sh"

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with this user's HOME, USER, LOGNAME and SHELL, as `sudo -u` sets them.

        Sudo's own variables are dropped; everything else, PATH included, stays.
        """
        theirs = {key: value for key, value in env.items() if key not in _SUDO_VARIABLES}
        return theirs | {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
        }

    def become(self) -> None:
        """Become this user permanently. Raises OSError."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def own(self, fd: int) -> None:
        """Make the open file `fd` this user's. Raises OSError."""
        os.fchown(fd, self.uid, self.gid)


def resolve_user(option: str | None, env: Mapping[str, str]) -> Identity | None:
    """The user that the command runs as and the files belong to; None: the current user.

    `option` is --user: a name or a number. Without it, root under sudo means the
    user who called sudo (SUDO_UID, SUDO_GID); these are used only where the
    effective uid is 0, since anyone may set them.
    Raises TraceError: no such user, or no right to become them.
    """
    if option is not None:
        return _named(option)
    if os.geteuid() != 0 or "SUDO_UID" not in env:
        return None
    try:
        uid = int(env["SUDO_UID"])
        gid = int(env["SUDO_GID"]) if "SUDO_GID" in env else None
    except ValueError:
        raise TraceError(
            f"SUDO_UID and SUDO_GID are '{printable(env['SUDO_UID'])}' and "
            f"'{printable(env.get('SUDO_GID', ''))}', not numbers",
            "give the user to run the command as: --user USER",
            Exit.USAGE,
        ) from None
    if uid == 0:
        return None
    try:
        return _identity(pwd.getpwuid(uid), gid)
    except KeyError:
        gid = uid if gid is None else gid
        return Identity(uid, gid, (gid,), "/", env.get("SUDO_USER", str(uid)))


def _named(option: str) -> Identity | None:
    try:
        entry = (
            pwd.getpwuid(int(option))
            if option.isascii() and option.isdigit()
            else pwd.getpwnam(option)
        )
    except (KeyError, OverflowError, ValueError):
        hint = "give --user a name or number that getent knows"
        raise TraceError(f"no user '{printable(option)}'", hint, Exit.USAGE) from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise TraceError(
            f"only root can run a command as {printable(entry.pw_name)}",
            "run with sudo, or without --user",
            Exit.NO_RIGHTS,
        )
    return _identity(entry, None)


def _identity(entry: pwd.struct_passwd, gid: int | None) -> Identity:
    gid = entry.pw_gid if gid is None else gid
    groups = tuple(os.getgrouplist(entry.pw_name, gid))
    shell = entry.pw_shell or "/bin/sh"
    return Identity(entry.pw_uid, gid, groups, entry.pw_dir, entry.pw_name, shell)
