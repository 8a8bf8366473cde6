"""A reference blkfront over the same tables as the backend: an oracle in the tests, the guest of bench and sim."""
