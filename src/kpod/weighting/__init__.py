"""Significance weights of rationale tokens (Eq. 2-7)."""

from kpod.weighting.fit import Weighing, WeighingUpdate, learn_weights
from kpod.weighting.given import project_spans, uniform_weights

__all__ = ["Weighing", "WeighingUpdate", "learn_weights", "project_spans", "uniform_weights"]
