"""Where a student's few steps should stand: O3S and the scores that it maximises. What needs torch
loads when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfdistill.lazy import exports
from mfdistill.search.config import SearchConfig
from mfdistill.search.o3s import Evaluation, SearchResult, o3s, o3s_from, rounded

if TYPE_CHECKING:
    from mfdistill.search.run import run_search
    from mfdistill.search.score import StudentScorer

__all__ = [
    "Evaluation",
    "SearchConfig",
    "SearchResult",
    "StudentScorer",
    "o3s",
    "o3s_from",
    "rounded",
    "run_search",
]


__getattr__ = exports(__name__, {"run": "run_search", "score": "StudentScorer"})
