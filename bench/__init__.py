"""What a request costs on this machine, compared with its neighbours. Start with `python -m bench`."""
