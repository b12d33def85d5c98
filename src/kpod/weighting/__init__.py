"""Significance weights of rationale tokens (Eq. 2-7)."""

from kpod.weighting.given import KEYPOINTS, REST, spans_in_data, uniform_weights, weights_in_data
from kpod.weighting.learn import Weighing, learn_weights
from kpod.weighting.proof import check_predictor
from kpod.weighting.rounds import came_to_rest
from kpod.weighting.verdict import accepted
from kpod.weighting.weigher import Weigher, weigh_rationales

__all__ = [
    "KEYPOINTS",
    "REST",
    "Weigher",
    "Weighing",
    "accepted",
    "came_to_rest",
    "check_predictor",
    "learn_weights",
    "spans_in_data",
    "uniform_weights",
    "weigh_rationales",
    "weights_in_data",
]
