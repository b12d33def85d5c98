"""A grid of runs: one recipe in several variants, each under several seeds, and which of them are finished."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kpod.experiment.artifacts import evaluation_phase
from kpod.experiment.evaluations import AFTER, LAST_UPDATE, held_out_phase, of_last_update
from kpod.experiment.pipeline import Pipeline
from kpod.recipe import Recipe, TeacherConfig
from kpod.records.errors import require
from kpod.teacher.gathering import store_of
from kpod.training.metrics import METRICS, read_updates

RUN_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Grid:
    """Variants of a recipe, each under every seed.

    Attributes:
        folder: Holds the runs, and the tables.
        runs: Variant -> its recipes, one per seed.
        base: The variant that the others are compared with.
        swept: The recipe key whose values the variants are; None where they are methods.
    """

    folder: Path
    runs: Mapping[str, Sequence[Recipe]]
    base: str
    swept: str | None = None

    @classmethod
    def of(
        cls,
        variants: Mapping[str, Recipe],
        seeds: Sequence[int],
        folder: Path,
        base: str | None = None,
        swept: str | None = None,
    ) -> "Grid":
        """Lay out a grid; the base is the first variant unless it is named.

        Raises:
            ConfigError: If there is no variant, test set or seed, a seed is named twice, the base is none of the
                variants, or the swept key is one that a grid sets itself.
        """
        for recipe in variants.values():
            require(bool(recipe.data.tests), "data.tests", [], "at least one test set")
        told = "a key that a grid leaves alone; seeds are named by --seeds"
        require(swept not in ("name", "runs", "seed", "evaluation.before"), "sweep", swept, told)
        require(bool(variants), "methods", list(variants), "at least one")
        require(bool(seeds) and len(set(seeds)) == len(seeds), "seeds", list(seeds), "one or more, each once")
        base = base or next(iter(variants))
        require(base in variants, "base", base, f"one of {', '.join(variants)}")
        runs = {
            name: [
                replace(
                    recipe,
                    name=_run_name(f"{name}-seed{seed}"),
                    runs=str(folder),
                    seed=seed,
                    teacher=_one_store(recipe),
                    evaluation=replace(recipe.evaluation, before=False),  # the same for all, and not compared
                )
                for seed in seeds
            ]
            for name, recipe in variants.items()
        }
        names = [recipe.name for recipes in runs.values() for recipe in recipes]
        require(len(set(names)) == len(names), "variants", names, "told apart by their letters and digits")
        return cls(folder, runs, base, swept)

    def with_matched_tokens(self, name: str) -> "Grid":
        """With one variant more: the base, stopped where it has trained on as many tokens as another variant did.

        Both must have been run: what an update trains on is read off their metrics.

        Args:
            name: The other variant; it should train on fewer tokens than the base.
        """
        require(name in self.runs and name != self.base, "match-tokens", name, "a variant that is not the base")
        matched = []
        for base, other in zip(self.runs[self.base], self.runs[name], strict=True):
            tokens = [line["trained_tokens"] for line in trained_updates(Pipeline(base))]
            wanted = sum(line["trained_tokens"] for line in trained_updates(Pipeline(other)))
            steps = min(int(np.searchsorted(np.cumsum(tokens), wanted)) + 1, len(tokens))
            training = replace(base.training, arguments={**base.training.arguments, "max_steps": steps})
            matched.append(replace(base, name=_run_name(f"{self.base}-tokens-of-{other.name}"), training=training))
        return replace(self, runs={**self.runs, f"{self.base}, tokens of {name}": matched})

    @property
    def recipes(self) -> list[Recipe]:
        """Every run's recipe, seed by seed, so that whole rows of the tables are there early."""
        return [recipe for of_seed in zip(*self.runs.values(), strict=True) for recipe in of_seed]


def _one_store(recipe: Recipe) -> TeacherConfig:
    """The teacher's attempts kept where a run outside the grid keeps them: what was bought before is found."""
    ask = recipe.teacher.ask
    if ask is None:
        return recipe.teacher
    return replace(recipe.teacher, ask=replace(ask, store=str(store_of(ask, Path(recipe.runs)))))


def is_finished(pipeline: Pipeline) -> bool:
    """Whether a run's student is trained from this recipe and has answered every test set."""
    if pipeline.folder.key("student") is None:
        return False
    folder, student = pipeline.folder, pipeline.keys["student"]
    models = {AFTER: student, LAST_UPDATE: of_last_update(student)}
    wanted = {"student": student}
    for when in pipeline.evaluated:
        for test in pipeline.recipe.data.tests:
            wanted[evaluation_phase(when, test)] = pipeline.evaluations.key(models[when], test)
        if pipeline.recipe.evaluation.held_out is not None:
            wanted[held_out_phase(when)] = pipeline.evaluations.held_out_key(models[when])
    return all(folder.key(phase) == key and folder.has(phase, key) for phase, key in wanted.items())


def trained_updates(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What a run's metrics say of each optimiser step."""
    return read_updates(pipeline.folder.path / "student" / METRICS)


def _run_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[-RUN_NAME_LENGTH:].lstrip(".")
