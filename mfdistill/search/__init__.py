"""Where a student's few steps should stand: O3S and the scores that it maximises."""

from mfdistill.search.o3s import Evaluation, SearchResult, o3s, o3s_from, rounded
from mfdistill.search.run import SearchConfig, run_search
from mfdistill.search.score import StudentScorer

__all__ = ["Evaluation", "SearchConfig", "SearchResult", "StudentScorer", "o3s", "o3s_from", "rounded", "run_search"]
