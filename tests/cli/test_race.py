"""Timing against the loop by hand: the same work for both, in turns."""

from types import SimpleNamespace

import pytest

from cograd import Phase
from cograd.cli._race import STEPS, WARM_UP, race


class Epochs:
    """Batches that say of which epoch they are."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(self.epoch, i) for i in range(7)])


@pytest.mark.parametrize("every", [1, 3])
def test_both_see_the_same_batches_and_take_turns_in_going_first(every):
    log = []

    def build():
        joint = SimpleNamespace(
            phases=(Phase("a"), Phase("b", every=every)),
            step=lambda batch: log.append(("cograd", batch)),
            models="the models",
            optimizers="the optimizers",
        )

        def by_hand(models, optimizers):
            assert (models, optimizers) == ("the models", "the optimizers")
            return lambda batch: log.append(("by hand", batch))

        return SimpleNamespace(joint=joint, batches=Epochs(), by_hand=by_hand)

    shares = []
    race(build, shares.append)

    ours, theirs = ([batch for who, batch in log if who == name] for name in ("cograd", "by hand"))
    assert ours == theirs == sorted(set(ours))
    assert STEPS + WARM_UP <= len(ours) < STEPS + WARM_UP + 2 * every
    first = [log[i][0] for i in range(0, len(log), 2 * every)]
    assert set(first[::2]) != set(first[1::2])
    assert len(set(first[::2])) == len(set(first[1::2])) == 1
    assert shares == sorted(shares)
    assert shares[-1] == 1
