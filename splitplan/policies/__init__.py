"""Rules that decide where to cut: ours and the ones it is compared with. One interface for simulator and executor."""
