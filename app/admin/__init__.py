"""The admin surface below `/admin/v1`: who may enter (`door`, `logins`), one module per noun, and how it says no.

START READING at `door.py`: it lets a request in, reads its body and hands both to the framework, whose handlers
(`tenants.py`, `keys.py`, ...) work with `Administration` on behalf of a `Caller`.
"""
