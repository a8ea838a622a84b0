"""When the tape pauses, and for whom."""

import threading

from cograd.tracing import Recorder


def test_a_pause_of_another_thread_leaves_the_tape_as_it_is():
    journal = Recorder().journal
    entered, leave = threading.Event(), threading.Event()

    def other():
        with journal.tape.resting():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    with journal.tape.resting():
        leave.set()
        thread.join()
        assert journal.tape.busy
    assert not journal.tape.busy
