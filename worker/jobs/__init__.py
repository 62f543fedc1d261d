"""The jobs: functions of keyword dependencies. `worker/main.py` gives them names, limits and a clock."""
