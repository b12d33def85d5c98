"""KPOD: keypoint-based progressive chain-of-thought distillation (Feng et al., ICML 2024)."""

__version__ = "0.1.0"
