"""A long text in parts, at the ends of sentences where it can be."""

from __future__ import annotations

import re

_ENDS = re.compile(r"(?<=[.!?;:,])\s+|(?<=[。！？；：，])")


def text_chunks(text: str, most: int) -> list[str]:
    """``text`` in parts of at most ``most`` bytes (UTF-8): whole clauses as F5-TTS joins them,
    ended by punctuation; a longer clause is divided evenly at its spaces, and a longer word (or
    Chinese) between its characters. White space is made single.

    Raises:
        ValueError: fewer bytes than a character may have (4).
    """
    if most < 4:
        raise ValueError(f"parts of {most} bytes cannot hold every character")
    clauses = [
        clause for part in _ENDS.split(" ".join(text.split())) for clause in _divided(part, most)
    ]
    return _joined(clauses, most)


def _joined(parts: list[str], most: int) -> list[str]:
    """Neighbours together while they fit; a space goes after one that ends with a character of one
    byte.
    """
    chunks: list[str] = []
    for part in filter(None, parts):
        together = f"{chunks[-1]}{' ' if chunks[-1][-1].isascii() else ''}{part}" if chunks else ""
        if chunks and _size(together) <= most:
            chunks[-1] = together
        else:
            chunks.append(part)
    return chunks


def _divided(clause: str, most: int) -> list[str]:
    """A clause that is too long, in as few parts as it needs and none much shorter than the others:
    short ones are spoken slowly.
    """
    size = _size(clause)
    if size <= most:
        return [clause]
    even = min(most, -(-size // -(-size // most)) + 8)
    parts: list[str] = []
    for word in clause.split(" "):
        together = f"{parts[-1]} {word}" if parts else word
        if parts and _size(together) <= even:
            parts[-1] = together
        else:
            parts += _letters(word, even)
    return parts


def _letters(word: str, most: int) -> list[str]:
    parts = [""]
    for character in word:
        if _size(parts[-1]) + _size(character) > most:
            parts.append("")
        parts[-1] += character
    return parts


def _size(text: str) -> int:
    return len(text.encode())
