"""Where a student's few steps should stand: O3S and the scores that it maximises."""

from mfdistill.search.o3s import Evaluation, SearchResult, o3s, o3s_from, rounded

__all__ = ["Evaluation", "SearchResult", "o3s", "o3s_from", "rounded"]
