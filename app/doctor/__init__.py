"""What is wrong with a gateway that nobody has noticed yet: facts in, findings out, one small function per check.

START READING at `findings.py`, which names everything that can be found; `app/cli/doctor.py` gathers the facts.
"""
