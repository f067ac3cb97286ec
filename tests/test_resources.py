"""What a job asks for: it follows from the data and the training, has a floor, and grows when tried again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipeline.core.resources import LEAST_MEMORY, LEAST_MINUTES, PREPARE, Each, memory, minutes
from pipeline.core.steps import METHODS


@dataclass(frozen=True)
class Train:
    """As a settings class of a method that trains on crops says it."""

    epochs: float
    crop: int
    batch: int = 16
    trains: bool = True

    def passes(self, side: int) -> float:
        return 3 * self.epochs * (self.crop / side) ** 2

    def seconds(self, side: int) -> float:
        return 0.5


@dataclass(frozen=True)
class Maps:
    scales: tuple[float, ...] = (1.0, 0.5, 1.5)
    flip: bool = True
    trains: bool = False

    def passes(self, side: int) -> float:
        return sum(scale**2 for scale in self.scales) * (1 + self.flip)

    def seconds(self, side: int) -> float:
        return 0.5


def test_small_data_ask_for_the_least() -> None:
    assert minutes(Train(1, 64), 16, 96, 2, gpu=True) == LEAST_MINUTES
    assert memory(Each(0.1), 96, 1, gpu=False) == LEAST_MEMORY


def test_time_grows_with_photographs_epochs_and_the_crop() -> None:
    one = minutes(Train(20, 410), 10_000, 512, 8, gpu=True)
    assert one == pytest.approx(4 * (60 + 10_000 * 60 * 410**2 / 1e6 / 16 + 10_000 * 0.262 * 0.5 / 5.9) / 60, abs=1)
    assert minutes(Train(20, 410), 20_000, 512, 8, gpu=True) == pytest.approx(2 * one, abs=6)
    assert minutes(Train(40, 410), 10_000, 512, 8, gpu=True) == pytest.approx(2 * one, abs=25)
    assert minutes(Train(20, 205), 10_000, 512, 8, gpu=True) == pytest.approx(one / 4, abs=25)


@pytest.mark.parametrize(
    ("method", "measured"),
    [(Train(4, 160), 215), (Maps(), 89), (Each(0.045), 50)],  # seconds of one core: classify, cam, crf of 1,100
)
def test_what_was_measured_on_two_cores_fits_with_room(method: Train | Maps | Each, measured: float) -> None:
    """Figures of the run that pipeline/core/resources.py names: half of the estimate would have been enough."""
    asked = 60 * minutes(method, 1100, 192, 1, gpu=False)
    assert 2 * measured < asked < 20 * measured


def test_a_further_attempt_asks_for_twice_the_time_and_half_as_much_memory_again() -> None:
    times = [minutes(Maps(), 10**5, 512, 8, gpu=True, attempt=attempt) for attempt in (1, 2, 3)]
    assert times[1:] == [2 * times[0], 4 * times[0]]
    sizes = [memory(Maps(), 512, 8, gpu=False, attempt=attempt) for attempt in (1, 2, 3)]
    assert sizes[1:] == pytest.approx([1.5 * sizes[0], 2 * sizes[0]], abs=2)


def test_no_job_asks_for_more_than_the_longest_a_site_gives() -> None:
    assert minutes(Train(100, 410), 10**6, 512, 8, gpu=True, attempt=2, longest=120) == 120
    assert minutes(Train(1, 64), 16, 96, 2, gpu=True, longest=120) == LEAST_MINUTES


def test_a_million_photographs_are_prepared_within_days() -> None:
    assert 24 < minutes(PREPARE, 10**6, 512, 1, gpu=False) / 60 < 96


def test_memory_counts_processes_and_the_batch() -> None:
    assert memory(Maps(), 512, 8, gpu=False) > 4 * memory(Maps(), 512, 1, gpu=False)
    assert memory(Maps(), 512, 8, gpu=True) == memory(Maps(), 512, 1, gpu=True)
    assert memory(Train(1, 410), 512, 8, gpu=False) > 2 * memory(Train(1, 410), 512, 8, gpu=True)
    whole, crops = (METHODS[name](crop=256) for name in ("hcp", "classify"))  # type: ignore[call-arg]
    assert memory(whole, 512, 8, gpu=False) > 3 * memory(crops, 512, 8, gpu=False), "its second phase sees no crops"
    assert memory(Train(1, 160), 192, 2, gpu=False, workers=6) > 4300  # the most that six loading processes had


@pytest.mark.parametrize("name", METHODS)
def test_what_every_method_asks_for(name: str) -> None:
    """Least for a handful, within a day for VOC's 12,031 photographs, more for more, where it reads any."""
    method = METHODS[name]().sized(512)  # type: ignore[call-arg]

    def asked(photographs: int) -> int:
        return minutes(method, photographs, 512, method.threads, method.gpu)

    assert asked(16) == LEAST_MINUTES
    assert asked(12_031) <= 24 * 60
    assert (asked(10**6) > 10 * asked(10**4)) == bool(method.takes)
    assert LEAST_MEMORY <= memory(method, 512, method.threads, method.gpu) <= 64_000
