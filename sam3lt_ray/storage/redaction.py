"""Texts that a person may see, without anything that lets somebody in."""

from __future__ import annotations

import os
import re
from typing import Final

_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]*@")
_SIGNED_QUERY: Final = re.compile(
    r"(?i)\b(x-amz-signature|x-amz-credential|x-amz-security-token|awsaccesskeyid|signature)=[^&\s]*"
)
_SECRET_VARIABLES: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_SHORTEST_SECRET: Final = 8


def without_credentials(text: str) -> str:
    """Replace by ``***``: user and password in urls, signatures of presigned urls, the environment's AWS keys.

    Args:
        text: A uri or a sentence.
    """
    text = _USER_INFO.sub("***@", text)
    text = _SIGNED_QUERY.sub(r"\1=***", text)
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text
