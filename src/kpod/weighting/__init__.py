"""Significance weights of rationale tokens (Eq. 2-7)."""

from kpod.weighting.given import project_spans, uniform_weights
from kpod.weighting.learn import Weighing, learn_weights

__all__ = ["Weighing", "learn_weights", "project_spans", "uniform_weights"]
