"""The job process: discovery, usage accounting, sweeps."""
