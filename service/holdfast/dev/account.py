"""As root: which user Postgres runs as, and what that user can reach.

Postgres refuses to run as root. No user is created, and no folder that was there before is opened or
changed: what the other user needs is put where it can go.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from holdfast.dev.errors import DevError
from holdfast.dev.process import Account

CANDIDATES = ("postgres", "nobody", "daemon")
"""Users without rights, in order of preference."""


def account_for(cluster: Path) -> Account | None:
    """The user Postgres runs as: None for ourselves; as root, the owner of *cluster* if it is there, else a candidate.

    Raises `DevError` if there is nobody to become.
    """
    if os.geteuid() != 0:
        return None
    owner = _owner(cluster)
    if owner is not None and owner.uid != 0:
        return owner
    for name in CANDIDATES:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if user.pw_uid != 0:
            return Account(user.pw_uid, user.pw_gid, name)
    raise DevError(
        f"Postgres does not run as root, and none of the users {', '.join(CANDIDATES)} exists: "
        "run this as an ordinary user, or point HOLDFAST_POSTGRES_URL to a server"
    )


def obstacle(path: Path, account: Account) -> Path | None:
    """The first folder on the way to *path*, itself included, that *account* may not enter; None if the way is free.

    Told by owner, group and mode; access lists are not looked at.
    """
    real = Path(os.path.realpath(path))
    for folder in (*reversed(real.parents), real):
        found = folder.stat()
        if found.st_uid == account.uid:
            allowed = found.st_mode & stat.S_IXUSR
        elif found.st_gid == account.gid:
            allowed = found.st_mode & stat.S_IXGRP
        else:
            allowed = found.st_mode & stat.S_IXOTH
        if not allowed:
            return folder
    return None


def name_of(uid: int) -> str:
    """What a user is called."""
    return _named(uid).name


def _owner(path: Path) -> Account | None:
    try:
        return _named(path.stat().st_uid)
    except FileNotFoundError:
        return None


def _named(uid: int) -> Account:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, uid, f"user {uid}")
    return Account(uid, user.pw_gid, user.pw_name)
