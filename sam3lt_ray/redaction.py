"""Texts that a person may see, without anything that lets somebody in."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Final

# In urls of the web the part before the last "@": an unquoted password may hold slashes. Elsewhere an "@" may belong to
# a path, so only what stands in front of it in the place of a host or bucket.
_USER_INFO: Final = re.compile(r"(?i)(?<=https://)[^\s'\"]*@|(?<=http://)[^\s'\"]*@|(?<=://)[^/@\s]*(?::[^@\s]*)?@")
_SIGNED_QUERY: Final = re.compile(
    r"(?i)\b(x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|awsaccesskeyid"
    r"|signature|sig|token|access_token|password)(=|%3D)[^&\s'\"]*"
)
_ACCESS_KEY_ID: Final = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_SECRET_VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
_SHORTEST_SECRET: Final = 8


def without_credentials(text: str) -> str:
    """Replace by ``***``: user and password in urls, signatures of presigned urls, access keys, the environment's keys.

    Also where they are percent-encoded, as in urls.

    Args:
        text: A uri or a sentence.
    """
    text = _USER_INFO.sub("***@", text)
    text = _SIGNED_QUERY.sub(r"\1\2***", text)
    text = _ACCESS_KEY_ID.sub("***", text)
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = _as_written(secret).sub("***", text)
    return text


@cache
def _as_written(secret: str) -> re.Pattern[str]:
    """A secret, plain or as it stands in urls: which characters are encoded, and in which case, is up to the writer."""
    pieces = []
    for character in secret:
        encoded = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
        pieces.append(f"(?:(?i:{encoded})|{re.escape(character)})")
    return re.compile("".join(pieces))


def carries_credentials(uri: str) -> bool:
    """Whether a uri carries what lets its reader in: user and password, or the signature of a presigned url."""
    return _USER_INFO.search(uri) is not None or _SIGNED_QUERY.search(uri.partition("?")[2]) is not None
