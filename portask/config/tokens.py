"""Tokens: what a client shows to be let in, and what a broker keeps instead of it.

A token is ``portask_NAME_SECRET``: the identity's name, which is no secret, and 256 random bits. A broker keeps a
SHA-256 of the whole. That is enough because nobody can try 2^256 secrets; a slow hash such as scrypt makes up for
secrets that people choose, and would cost a broker tens of ms for every client that connects. So that nobody hashes a
password of their own after all, only tokens of this form are looked at.

The form has another use: a token is recognized, and left out, wherever text is shown (`hide`).
"""

from __future__ import annotations

import hashlib
import re
import secrets

SECRET_BYTES = 32
IDENTITY = r"[A-Za-z0-9_-]{1,64}"
"""The name of an identity."""
HASH = r"sha256:[0-9a-f]{64}"
"""What stands in the settings for a token."""
_FORM = re.compile(rf"portask_({IDENTITY})_[A-Za-z0-9_-]{{43}}")
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
# The rest of a word goes with it: a token with something stuck to it is a secret too.
_SHOWN = re.compile(r"portask_[A-Za-z0-9_-]{44,}")


def mint(identity: str) -> str:
    """A new token for an identity, from the system's randomness."""
    return f"portask_{identity}_{secrets.token_urlsafe(SECRET_BYTES)}"


def identity_of(token: str) -> str | None:
    """The name in a token; ``None`` if it has not the form of one."""
    found = _FORM.fullmatch(token)
    return found[1] if found else None


def digest(token: str) -> bytes:
    """SHA-256 of the whole token, 32 bytes. Costs about 1 µs."""
    return hashlib.sha256(token.encode()).digest()


def hash_line(token: str) -> str:
    """The digest as the settings have it: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{digest(token).hex()}"


def parse_hash(text: str) -> bytes:
    """The digest in a text that `HASH` matches."""
    return bytes.fromhex(text.removeprefix("sha256:"))


def hide(text: str) -> str:
    """``text`` without the tokens in it, and without credentials in URLs."""
    if "portask_" in text:
        text = _SHOWN.sub("portask_…", text)
    return _USERINFO.sub("…@", text) if "@" in text else text
