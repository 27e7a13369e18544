from __future__ import annotations

import numpy as np

from textgen.engine.randomness import UniformStream


def test_numbers_depend_on_seed_and_index_only() -> None:
    forward = UniformStream(7)
    numbers = [forward.at(index) for index in range(300)]
    jumping = UniformStream(7)
    assert [jumping.at(index) for index in (299, 0, 130, 63, 64)] == [numbers[i] for i in (299, 0, 130, 63, 64)]
    alone = [int(np.random.Philox(key=7, counter=index).random_raw()) for index in range(300)]
    assert numbers == [(word >> 11) / 2**53 for word in alone]
    assert UniformStream(8).at(0) != numbers[0]
    assert UniformStream(2**63 - 1).at(2**40) == UniformStream(2**63 - 1).at(2**40)
    assert all(0 <= number < 1 for number in numbers)


def test_samples_of_a_seed_have_numbers_of_their_own_and_the_first_has_those_of_the_seed() -> None:
    first, second, third = (UniformStream(7, sample) for sample in range(3))
    assert [first.at(index) for index in range(5)] == [UniformStream(7).at(index) for index in range(5)]
    assert len({stream.at(index) for stream in (first, second, third) for index in range(100)}) == 300
    key = np.array([7, 2], dtype=np.uint64)
    assert third.at(9) == (int(np.random.Philox(key=key, counter=9).random_raw()) >> 11) / 2**53
    # Neither is sample 1 of a seed another seed.
    assert second.at(0) not in {UniformStream(seed).at(0) for seed in range(50)}


def test_neighbouring_seeds_and_samples_are_as_good_as_far_ones() -> None:
    """The first numbers fill 20 bins evenly; 43.82 is the 0.1 % point of chi-square(19)."""
    for streams in (map(UniformStream, range(4_000)), (UniformStream(3, sample) for sample in range(4_000))):
        observed = np.histogram([stream.at(0) for stream in streams], bins=20, range=(0, 1))[0]
        assert float(((observed - 200) ** 2 / 200).sum()) < 43.82
