"""The parts of `neuronetz-gateway up`: PostgreSQL and Valkey from Python wheels, and all processes.

Only `up` and the tests come here. `serve` and `worker` must start on machines without those wheels.
"""
