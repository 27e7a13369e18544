"""Token ids in, a better model out, told as a stream of events."""
