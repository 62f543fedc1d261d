"""The dashboard of jobs below `/admin/queues`, for browsers: start at `lobby.py`, which lets operators in.

The pages are SAQ's own, with a list of our jobs above them. What they may see and do is `controller.py`'s.
"""
