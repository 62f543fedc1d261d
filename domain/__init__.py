"""Rules of the gateway; no I/O and no framework.

A request passes these stages, in this order: authenticate, authorize, admit, route, relay, account.
"""
