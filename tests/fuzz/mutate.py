"""Seeded mutations of files: of bytes, of JSON values and of words."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

NUMBERS = (0, 1, -1, 2, 127, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 10**8)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 7, 20000, 10**8, 10**18, 10**400, -(10**9), 0.5, -0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "\0", "a" * 5000, [], [0], [1, "x"], {}, {"x": 1}, [[]]),
)
DEEP = 3000


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    new = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # headers matter most
        place = rng.randrange(min(len(new), 200 if rng.random() < 0.6 else 10**9) or 1)
        match rng.randrange(8):
            case 0 if new:
                new[place] ^= 1 << rng.randrange(8)
            case 1:
                del new[place:]
            case 2:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % 256**size
                new[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 3:
                del new[place : place + rng.choice((1, 4, 100))]
            case 4:
                new[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
            case 5:
                new[place:place] = new[place : place + rng.choice((1, 16, 1000))]
            case 6:
                other = rng.randrange(len(new) or 1)
                new[place : place + 16] = new[other : other + 16]
            case 7:
                new[place : place + 4] = struct.pack("<f", rng.choice((1e38, -1e38, 1e-40)))
    return bytes(new)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Another value, key or nesting somewhere, or changed bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        value = json.loads(json.dumps(value))  # what is there 70,000 times is not changed in all
        places = list(_places(value))
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(key) + rng.choice(("", "x", "_"))] = rng.choice(VALUES)
            case 2:
                short = len(json.dumps(holder[key])) < 200  # or no memory holds the text
                holder[key] = [holder[key]] * rng.choice((1, 2, 70000 if short else 3))
            case 3 if isinstance(holder[key], (int, float)):
                holder[key] = holder[key] * rng.choice((-1, 0, 2, 1000, 10**6))
            case _:
                holder[key] = rng.choice(VALUES)
        if not value:
            break
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text.replace("null", "[" * DEEP + "]" * DEEP)
    return text.encode()


def _places(value: Any) -> Any:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def mutate_words(words: list[str], rng: random.Random, first: int = 0) -> list[str]:
    """Words of a command line; those before ``first`` stay."""
    new = list(words)
    for _ in range(rng.randint(1, 3)):
        if len(new) <= first:
            new.append("x")
        place = rng.randrange(first, len(new))
        match rng.randrange(6):
            case 0:
                new[place] = str(rng.choice(VALUES))[:2000]
            case 1:
                del new[place]
            case 2:
                new.insert(place, rng.choice(new))
            case 3:
                new[place] = str(rng.choice(NUMBERS))
            case 4:
                new[place] = mutate_text(new[place], rng)
            case 5:
                new[place] = rng.choice(
                    ("nan", "inf", "-inf", "1e400", "", "--", "-1", "é", "0x10")
                )
    return new


def mutate_text(text: str, rng: random.Random) -> str:
    """Characters changed; what is no UTF-8 any more is left out."""
    return mutate_bytes(text.encode(), rng).decode("utf-8", "ignore")
