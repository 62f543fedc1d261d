"""What things cost on this machine. Start with `python -m bench`; docs/evidence lists the other benchmarks."""
