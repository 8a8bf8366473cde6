"""No two connections have the same nonce."""
import os

from xenvbd.dataplane.nonce import new_nonce


def test_nonces_are_sixteen_bytes_all_different_whose_first_word_is_not_zero() -> None:
    made = [new_nonce() for _ in range(1000)]
    assert len(set(made)) == 1000 and {len(nonce) for nonce in made} == {16}
    assert all(any(nonce[:4]) for nonce in made)


def test_a_process_that_was_forked_counts_from_elsewhere() -> None:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, new_nonce())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 16)[:8] != new_nonce()[:8]
    os.close(read)
    os.close(write)
