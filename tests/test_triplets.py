"""Match: the connected graph, the embedding and the loss against plain references and known identities."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline.kernels.triplets import all_triplet_terms, connect, embed, triplet_loss, triplet_terms

CLASSES = st.lists(st.sampled_from([0, 1, 1, 1, 5, 254]), min_size=1, max_size=40).map(np.array)


def components(number: int, links: list[tuple[int, int]]) -> int:
    """How many pieces a graph of `number` nodes falls into."""
    piece = list(range(number))
    for one, two in links:
        piece = [piece[two] if p == piece[one] else p for p in piece]
    return len(set(piece))


@settings(max_examples=200, deadline=None)
@given(CLASSES, st.integers(0, 2**32 - 1))
def test_the_graph_keeps_every_rule(labels: NDArray[np.int64], seed: int) -> None:
    number, classes = len(labels), len(np.unique(labels))
    positive, negative = connect(labels, np.random.default_rng(seed))
    assert positive.dtype == negative.dtype == np.int64 and positive.shape == negative.shape == (number,)
    assert (labels[positive] == labels).all()
    alone = np.array([(labels == label).sum() == 1 for label in labels])
    assert ((positive == np.arange(number)) == alone).all()
    if classes == 1:
        assert (negative == -1).all()
    else:
        assert negative.min() >= 0 and (labels[negative] != labels).all()

    visit = np.empty(number, np.int64)  # the visiting order is the first thing drawn
    visit[np.random.default_rng(seed).permutation(number)] = np.arange(number)
    for i in range(number):
        earlier = labels[visit < visit[i]]
        if (earlier == labels[i]).any():
            assert visit[positive[i]] < visit[i]
        if (earlier != labels[i]).any():
            assert visit[negative[i]] < visit[i]

    links = [(i, int(p)) for i, p in enumerate(positive) if visit[p] < visit[i]]
    assert len(links) == number - classes
    assert components(number, links) == classes


def plain_choices(kinds: tuple[int, ...], moment: int, same: bool) -> list[int]:
    """Moments the patch of `moment` may choose from, when patches of classes `kinds` are visited in turn."""
    fits = [m for m, kind in enumerate(kinds) if (kind == kinds[moment]) == same and m != moment]
    return [m for m in fits if m < moment] or fits or ([moment] if same else [])


def test_every_allowed_choice_is_equally_likely() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    counts: dict[tuple[int, ...], NDArray[np.int64]] = {}
    for seed in range(8000):
        order = np.random.default_rng(seed).permutation(5)  # the visiting order is the first thing drawn
        visit = np.argsort(order)
        chosen = visit[np.stack(connect(labels, np.random.default_rng(seed)))][:, order]
        count = counts.setdefault(tuple(labels[order].tolist()), np.zeros((2, 5, 5), np.int64))
        count[np.arange(2)[:, None], np.arange(5), chosen] += 1
    assert len(counts) == 10
    for kinds, count in counts.items():
        for moment in range(5):
            for row, same in zip(count[:, moment], (True, False), strict=True):
                choices = plain_choices(kinds, moment, same)
                chance = np.isin(np.arange(5), choices) / len(choices)
                spread = np.sqrt(row.sum() * chance * (1 - chance))
                assert (np.abs(row - row.sum() * chance) <= 4.5 * spread).all(), (kinds, moment, same)


def test_same_seed_same_graph_and_small_dtypes_do_not_overflow() -> None:
    labels = np.random.default_rng(1).integers(0, 255, 1000).astype(np.uint8)
    one, two = (
        connect(labels, np.random.default_rng(2)),
        connect(labels.astype(np.int64), np.random.default_rng(2)),
    )
    assert (one[0] == two[0]).all() and (one[1] == two[1]).all()
    assert (labels[one[0]] == labels).all() and (labels[one[1]] != labels).all()


def test_an_empty_batch_has_no_triplets() -> None:
    positive, negative = connect(np.zeros(0, np.int64), np.random.default_rng(0))
    assert positive.shape == negative.shape == (0,)


@pytest.mark.parametrize("labels", [np.zeros((3, 1), np.int64), np.zeros(3)])
def test_labels_that_are_not_one_integer_per_patch_are_refused(labels: NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="one integer per patch"):
        connect(labels, np.random.default_rng(0))


def batch(number: int, seed: int, classes: int = 4) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Non-negative unit features, as after a ReLU, float64 [number, 24], and triplets over them."""
    rng = np.random.default_rng(seed)
    features = embed(torch.from_numpy(rng.normal(size=(number, 6, 2, 2))).relu())
    return features, *connect(rng.integers(0, classes, number), rng)


def plain_loss(features: Tensor, positive: NDArray[np.int64], negative: NDArray[np.int64], margin: float) -> Tensor:
    """The formula, one triplet after the other."""
    terms = []
    for i in range(len(features)):
        other = features[int(negative[i])] if negative[i] >= 0 else torch.zeros_like(features[i])
        near = ((features[i] - features[int(positive[i])]) ** 2).sum()
        terms.append(torch.relu(margin + near - ((features[i] - other) ** 2).sum()))
    return torch.stack(terms).sum() / (2 * len(features))


@pytest.mark.parametrize("margin", [2.1, 0.3])
@pytest.mark.parametrize("classes", [1, 4, 30])
def test_value_and_gradient_equal_the_plain_loss(margin: float, classes: int) -> None:
    features, positive, negative = batch(30, seed=classes, classes=classes)
    one, two = features.clone().requires_grad_(), features.clone().requires_grad_()
    found = triplet_loss(one, positive, negative, margin)
    expected = plain_loss(two, positive, negative, margin)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, one)[0], torch.autograd.grad(expected, two)[0], rtol=1e-10, atol=1e-12
    )


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    features, positive, negative = batch(30, seed=7)
    total, count = triplet_terms(features, positive, negative)
    torch.testing.assert_close(total / count, plain_loss(features, positive, negative, 2.1))
    assert int(count) == 30
    alone = [  # the same triplets, one anchor at a time
        triplet_terms(torch.stack([features[i], features[p], features[n]]), np.array([1, 1, 2]), np.array([2, 1, 2]))
        for i, (p, n) in enumerate(zip(positive, negative, strict=True))
    ]
    rest = 2 * 2.1 / 2  # the two others of each are their own positive and negative: the margin
    torch.testing.assert_close(sum(part[0] - rest for part in alone), total)


def test_gradient_equals_finite_differences_through_the_embedding() -> None:
    maps = torch.rand(7, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive, negative = connect(np.array([0, 0, 1, 1, 2, 0, 1]), np.random.default_rng(0))
    assert torch.autograd.gradcheck(lambda m: triplet_loss(embed(m), positive, negative), (maps,))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_with_margin_2_1_the_loss_is_a_difference_of_cosines(number: int, seed: int) -> None:
    features, positive, negative = batch(number, seed, classes=3)
    assume(negative[0] >= 0)
    cos_positive = (features * features[torch.from_numpy(positive)]).sum(1)
    cos_negative = (features * features[torch.from_numpy(negative)]).sum(1)
    torch.testing.assert_close(triplet_loss(features, positive, negative), 1.05 + (cos_negative - cos_positive).mean())


def test_the_hinge_never_rests_even_at_the_extreme() -> None:
    # Positive on the spot, negative at a right angle: the best a triplet can be still pays 2.1 + 0 − 2 = 0.1.
    features = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1]].requires_grad_()
    positive, negative = np.array([1, 0, 3, 2]), np.array([2, 3, 0, 1])
    loss = triplet_loss(features, positive, negative)
    torch.testing.assert_close(loss, torch.tensor(0.05, dtype=torch.float64))
    assert torch.autograd.grad(loss, features)[0].abs().sum() > 0
    assert float(triplet_loss(features, positive, negative, margin=1.9).detach()) == 0


def test_in_a_batch_of_one_class_the_negative_is_the_zero_vector() -> None:
    features, positive, negative = batch(9, seed=3, classes=1)
    near = (features - features[torch.from_numpy(positive)]).square().sum(1)
    torch.testing.assert_close(triplet_loss(features, positive, negative), (2.1 + near - 1).mean() / 2)


def test_tensors_serve_as_well_as_arrays() -> None:
    features, positive, negative = batch(12, seed=4)
    assert torch.equal(
        triplet_loss(features, torch.from_numpy(positive), torch.from_numpy(negative)),
        triplet_loss(features, positive, negative),
    )


@pytest.mark.parametrize(("rows", "links"), [(0, 0), (4, 3), (4, 1)])
def test_batches_that_do_not_match_are_refused(rows: int, links: int) -> None:
    index = np.zeros(links, np.int64)
    with pytest.raises(ValueError, match="one of each per feature"):
        triplet_loss(torch.zeros(rows, 5), index, index)


def test_embedding_keeps_the_layout_at_unit_length() -> None:
    maps = torch.rand(3, 4, 2, 5, generator=torch.Generator().manual_seed(1))
    rows = embed(maps)
    expected = maps.reshape(3, -1) / maps.reshape(3, -1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(rows, expected)
    assert torch.equal(embed(maps.to(memory_format=torch.channels_last)), rows)


def test_embedding_is_float32_under_autocast_and_from_half_precision() -> None:
    maps = torch.rand(2, 64, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = embed(maps.bfloat16())
        assert triplet_loss(rows, np.array([1, 0]), np.array([-1, -1])).dtype == torch.float32
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.square().sum(1), torch.ones(2))
    large = embed(torch.full((1, 64, 4, 4), 60000.0).half())  # squares far beyond half precision
    torch.testing.assert_close(large.norm(), torch.tensor(1.0))


def test_zero_features_stay_zero_with_small_finite_gradients() -> None:
    maps = torch.zeros(3, 2, 2, 2)
    maps[0] = 1
    maps.requires_grad_()
    rows = embed(maps)
    assert not rows[1:].detach().any()
    (gradient,) = torch.autograd.grad(triplet_loss(rows, np.array([1, 0, 2]), np.array([2, 2, 0])), maps)
    assert gradient.isfinite().all() and gradient.abs().max() < 10


# --------------------------------------------------------------------------------------------------------- all triplets


def every_triplet(features: torch.Tensor, labels: list[int], margin: float) -> torch.Tensor:
    """The mean over all of them, one by one."""
    number, losses = len(labels), []
    for a in range(number):
        for p in range(number):
            for n in range(number):
                if p != a and labels[p] == labels[a] != labels[n]:
                    near, far = (features[a] - features[p]).square().sum(), (features[a] - features[n]).square().sum()
                    losses.append((margin + near - far).clamp(min=0) / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 0, 1, 2, 2, 2, 0, 7], [3, 3, 3, 3, 1, 2]])
def test_the_mean_over_all_triplets_is_that_of_a_triple_loop(labels: list[int]) -> None:
    """A class of one has no triplet as an anchor, and serves as a negative. One feature is zero."""
    draws = torch.rand(len(labels), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws[-1] = 0
    features = embed(draws[..., None, None]).requires_grad_()
    total, count = all_triplet_terms(features, torch.tensor(labels), 2.1)
    wanted = every_triplet(features, labels, 2.1)
    assert int(count) == len(labels)
    torch.testing.assert_close(total / count, wanted)
    ours, theirs = (torch.autograd.grad(loss, features)[0] for loss in (total / count, wanted))
    torch.testing.assert_close(ours, theirs)


def test_without_a_triplet_there_is_nothing_to_learn() -> None:
    features = embed(torch.rand(4, 3, 1, 1)).requires_grad_()
    for labels in ([1, 1, 1, 1], [0, 1, 2, 3]):
        total, count = all_triplet_terms(features, torch.tensor(labels))
        assert (float(total.detach()), float(count)) == (0, 0)
        assert not torch.autograd.grad(total, features)[0].any()


def test_a_margin_at_which_hinges_could_rest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin 1\.9 found; at least 2 expected"):
        all_triplet_terms(torch.eye(3), torch.tensor([0, 0, 1]), 1.9)
    with pytest.raises(ValueError, match="3 features with labels"):
        all_triplet_terms(torch.eye(3), torch.tensor([0, 0]))


def test_a_hundred_thousand_patches_take_less_than_a_second() -> None:
    features = embed(torch.rand(100_000, 64, 1, 1)).requires_grad_()
    labels = torch.randint(20, (100_000,))
    start = time.perf_counter()
    total, count = all_triplet_terms(features, labels)
    (total / count).backward()
    assert time.perf_counter() - start < 1
    assert features.grad is not None and features.grad.isfinite().all()
