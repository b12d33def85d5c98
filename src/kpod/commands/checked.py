"""What `kpod check` found, of a file or a recipe."""

from dataclasses import dataclass, field

from kpod.data.findings import Finding
from kpod.experiment.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        target: The file or recipe.
        forecast: What a run would use; empty where a file cannot be read.
        findings: By line and id, of a file.
        errors: Why a run would fail, beside what the forecast says.
        warnings: What could not be checked, beside what the forecast says.
    """

    target: str
    forecast: Forecast = field(default_factory=Forecast)
    findings: tuple[Finding, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Those of the forecast too, without those of single lines."""
        return (*self.errors, *self.forecast.errors())

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those of the forecast too, without those of single lines."""
        return (*self.warnings, *self.forecast.warnings)

    @property
    def failed(self) -> bool:
        """Whether a run would fail."""
        return bool(self.all_errors) or any(finding.severity == "error" for finding in self.findings)
