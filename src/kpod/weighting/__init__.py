"""Significance weights of rationale tokens (Eq. 2-7)."""

from kpod.weighting.given import project_spans, uniform_weights, weights_in_data
from kpod.weighting.learn import Weighing, learn_weights
from kpod.weighting.weigher import Weigher, weigh_rationales

__all__ = [
    "Weigher",
    "Weighing",
    "learn_weights",
    "project_spans",
    "uniform_weights",
    "weigh_rationales",
    "weights_in_data",
]
