import signal

import pandas as pd
import pytest
from toys import Toys, network, same_weights

from neurocnn.engine import Trainer, classification

TASK = classification("diagnosis", ["CN", "AD"])
TRAINER = Trainer(epochs=3, batch_size=4, learning_rate=0.01, patience=0, device="cpu")


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("kept", [True, False], ids=["in a folder", "in memory"])
def test_a_signal_in_the_last_callback_of_an_epoch_ends_training(kept, epoch, number, raised, tmp_path):
    def ask(state):
        if state.epoch == epoch:
            signal.raise_signal(number)

    folder = tmp_path if kept else None
    before = signal.getsignal(number)
    with pytest.raises(raised):
        TRAINER.fit(network(), TASK, Toys(8), folder=folder, callbacks=[ask])
    assert signal.getsignal(number) is before
    model, other = network(), network()
    calls = []
    again = TRAINER.fit(model, TASK, Toys(8), folder=folder, callbacks=[calls.append])
    expected = TRAINER.fit(other, TASK, Toys(8))
    # After a signal in an earlier epoch, one more update is done and saved before the training ends.
    assert len(calls) == (2 - epoch if kept else 3)
    assert same_weights(model.state_dict(), other.state_dict())
    pd.testing.assert_frame_equal(
        again.history.drop(columns="time"), expected.history.drop(columns="time"), check_exact=True
    )
