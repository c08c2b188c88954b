"""Fixed groups of loose files: what a shard is for folders and manifests."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from sam3lt_ray.inputs.loose_files import REPEATED_KEY_URI
from sam3lt_ray.records import LooseFile, Shard

_GROUP_NAME: Final = re.compile(r"group-(\d{6,})")


@dataclass(frozen=True, slots=True)
class GroupCandidate:
    """One file to be put into a group.

    Attributes:
        key: Its stable name.
        uri: Where it is.
        size_bytes: Size; None where the source does not tell.
        version: See :attr:`sam3lt_ray.records.Shard.version`.
    """

    key: str
    uri: str
    size_bytes: int | None = None
    version: str | None = None


def form_groups(
    files: Iterable[GroupCandidate], known: Sequence[Shard], images_per_group: int, uri: str
) -> list[Shard]:
    """Groups of ``images_per_group`` files in the given order, known groups first and unchanged.

    A known group keeps its members and their order whatever was added, removed or moved since; files that are in none
    form further groups. So the same folder gives the same groups every night, plus new ones for what is new. Members
    that are gone are marked, and only where another one has changed they leave the group, whose labels are outdated
    anyway. A group without any member left is not among the groups.

    Args:
        files: All files there are now. Of several with one key the first is the key's; the others are marked and
            become error rows.
        known: Groups of an earlier listing.
        images_per_group: Members of a new group.
        uri: The folder or manifest.
    """
    candidates = list(files)
    # Of a repeated key each repetition is a file of its own, so keys are counted and not just looked up.
    taken = Counter(member.key for group in known for member in group.members)
    seen_keys = set(taken)
    by_key: dict[str, GroupCandidate] = {}
    fresh: list[GroupCandidate] = []
    for file in candidates:
        by_key.setdefault(file.key, file)
        if taken[file.key] > 0:
            taken[file.key] -= 1
            continue
        fresh.append(file if file.key not in seen_keys else GroupCandidate(file.key, REPEATED_KEY_URI))
        seen_keys.add(file.key)
    groups = [group for before in known if (group := _refresh(before, by_key, uri)) is not None]
    remaining = iter(fresh)
    number = _next_number(known)
    while members := list(islice(remaining, images_per_group)):
        groups.append(_make_group(f"group-{number:06d}", uri, members))
        number += 1
    return groups


def _next_number(known: Sequence[Shard]) -> int:
    matches = [_GROUP_NAME.fullmatch(group.name) for group in known]
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _refresh(group: Shard, by_key: dict[str, GroupCandidate], uri: str) -> Shard | None:
    """The known group with what is known of its members today; None when all of them are gone."""
    today = [_find(member, by_key) for member in group.members]
    present = [file for file in today if file is not None]
    if not present:
        return None
    if len(present) == len(today) or _has_changed(group, today):
        return _make_group(group.name, uri, present)
    members = (
        replace(member, is_gone=True) if file is None else LooseFile(file.key, file.uri, file.version)
        for member, file in zip(group.members, today, strict=True)
    )
    return replace(group, uri=uri, members=tuple(members))


def _find(member: LooseFile, by_key: dict[str, GroupCandidate]) -> GroupCandidate | None:
    """The file that a member is today."""
    file = by_key.get(member.key)
    if file is not None and member.uri == REPEATED_KEY_URI:
        return GroupCandidate(member.key, REPEATED_KEY_URI)
    # What had a version and has none is a link to nothing.
    return None if file is None or (file.version is None and member.version is not None) else file


def _has_changed(group: Shard, today: Sequence[GroupCandidate | None]) -> bool:
    """Whether a member that is still there has other content; what snapshots of 0.1.0 do not tell counts as changed."""
    if group.version is not None and all(member.version is None for member in group.members):
        return True
    pairs = zip(group.members, today, strict=True)
    return any(file is not None and file.version != member.version for member, file in pairs)


def _make_group(name: str, uri: str, members: Sequence[GroupCandidate]) -> Shard:
    sizes = [member.size_bytes for member in members if member.uri != REPEATED_KEY_URI]
    known_sizes = [size for size in sizes if size is not None]
    return Shard(
        name=name,
        uri=uri,
        size_bytes=sum(known_sizes) if known_sizes and len(known_sizes) == len(sizes) else None,
        version=_group_version(members),
        members=tuple(LooseFile(member.key, member.uri, member.version) for member in members),
    )


def _group_version(members: Sequence[GroupCandidate]) -> str | None:
    if all(member.version is None for member in members):
        return None
    digest = hashlib.sha256()
    for member in members:
        digest.update(f"{member.key}\0{member.version}\n".encode())
    return digest.hexdigest()[:32]
