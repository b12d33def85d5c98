"""A teacher's top-k distributions as a record, and on the disk."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kpod.records.errors import DataError
from kpod.records.topk import TopK, TopKById, write_topk

INF = np.inf


def logs(*rows: list[float]) -> NDArray[np.float16]:
    return np.array(rows, dtype=np.float16)


def ids(*rows: list[int]) -> NDArray[np.int32]:
    return np.array(rows, dtype=np.int32)


def drawn(seed: int, written: int, k: int) -> TopK:
    """Random distributions over 300 tokens, of which k are kept."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(written, 300)) * 3
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    order = np.argsort(-scores, axis=1)[:, :k]
    return TopK(order.astype(np.int32), np.take_along_axis(scores, order, axis=1).astype(np.float16))


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        (ids([1, 2]), logs([-0.1])),
        (ids([1, 2])[0], logs([-0.1, -0.2])[0]),
        (ids([], []), logs([], [])),
        (ids([-1, 2]), logs([-0.1, -3])),
        (ids([1, 2]), logs([0.1, -3])),
        (ids([1, 2]), logs([-3, -0.1])),
        (ids([1, 2]), logs([np.nan, -3])),
        (ids([1, 2]), logs([-1, np.nan])),
        (ids([1, 2], [1, 2]), logs([-1, -INF], [-INF, -INF])),
        (ids([1, 2]), logs([-0.1, -0.1])),
    ],
)
def test_what_is_no_distribution_is_refused(tokens: NDArray[np.int32], found: NDArray[np.float16]) -> None:
    with pytest.raises(DataError):
        TopK(tokens, found)


def test_rows_are_one_hot_where_one_token_has_everything() -> None:
    found = TopK(ids([4, 0], [4, 0], [4, 9]), logs([0, -INF], [-1, -INF], [0, -20]))
    assert found.num_one_hot == 1
    assert found.mass.tolist() == pytest.approx([1, np.exp(-1), 1])
    assert TopK.one_hot(np.array([3], dtype=np.int32), 1).num_one_hot == 1


@given(st.integers(0, 5), st.integers(0, 30), st.integers(1, 300))
def test_any_rounded_distribution_is_one(seed: int, written: int, k: int) -> None:
    assert (drawn(seed, written, k).mass <= 1.02).all()


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_distributions_come_back_from_the_disk_as_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int):
    monkeypatch.setattr("kpod.records.topk.ROWS", rows)
    made = {f"é{n}": drawn(n, n + 1, 1 + n % 3) for n in range(5)}
    write_topk(tmp_path / "topk.arrow", made.items())
    found = TopKById(tmp_path / "topk.arrow")
    assert list(found) == list(made)
    assert ("é4" in found, found.get("other")) == (True, None)
    for again in (found, pickle.loads(pickle.dumps(found))):
        for id_, one in made.items():
            assert np.array_equal(again[id_].token_ids, one.token_ids)
            assert np.array_equal(again[id_].logprobs, one.logprobs)
    assert not found["é2"].logprobs.flags.owndata
    assert len(pickle.dumps(TopKById(tmp_path / "topk.arrow"))) < 400


def test_a_token_with_64_entries_takes_384_bytes(tmp_path: Path) -> None:
    write_topk(tmp_path / "topk.arrow", [("q", drawn(0, 1000, 64))])
    assert (tmp_path / "topk.arrow").stat().st_size == pytest.approx(384_000, rel=0.01)


def test_a_file_without_rationales_and_one_that_is_none(tmp_path: Path) -> None:
    write_topk(tmp_path / "none.arrow", [])
    assert dict(TopKById(tmp_path / "none.arrow")) == {}
    (tmp_path / "other.arrow").write_bytes(b"no Arrow")
    with pytest.raises(DataError, match=r"other\.arrow cannot be read"):
        TopKById(tmp_path / "other.arrow")
