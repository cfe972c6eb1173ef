"""Where in an archive a bundle lies. Spelling only: no object is touched here.

`v1/<namespace>-<hash>/<two hex digits>/<run id>-<hash>.hfb`. The last hash covers the namespace, the workflow id, the run id
and the content's digest, so no two of them share a key, also where file names ignore case; nothing a user chose but
the namespace is spelled out, and that through the codec of the bus's subjects. Another content of the same run (rows
may be added to a closed one) gets a key of its own, so that nothing is ever overwritten.
"""

from __future__ import annotations

import re
from hashlib import sha256

from holdfast.wire.subjects import encode_token

_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"v1/[A-Za-z0-9_=-]{1,64}-[0-9a-f]{16}/[0-9a-f]{2}/[0-9a-f-]{0,36}-[0-9a-f]{64}\.hfb")


def folder_of(namespace: str) -> str:
    """The part of the key that all bundles of *namespace*, and no others, begin with; ends without a slash."""
    return f"v1/{encode_token(namespace)}-{_hash(namespace)[:16]}"


def key_of(namespace: str, workflow_id: str, run_id: str, digest: str) -> str:
    """The key of a bundle: at most 200 characters of `[A-Za-z0-9_=.-]` between slashes, whatever the arguments hold."""
    found = _hash(namespace, workflow_id, run_id, digest)
    # Shown for people who look for a run by hand; a run id of the store contract may be any text.
    shown = run_id if _RUN_ID.fullmatch(run_id) else ""
    return f"{folder_of(namespace)}/{found[:2]}/{shown}-{found}.hfb"


def is_key(text: str) -> bool:
    """Whether `key_of` could have made *text*."""
    return _KEY.fullmatch(text) is not None


def _hash(*texts: str) -> str:
    """SHA-256 over the texts, each after its length: `("a", "bc")` is not `("ab", "c")`."""
    found = sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "big"))
        found.update(encoded)
    return found.hexdigest()
