"""Exit with 0 if the process of this container answers: `python -I -S healthcheck.py PORT PATH`."""

import http.client
import sys

LONGEST_S = 3

port, path = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=LONGEST_S)
try:
    connection.request("GET", path)
    status = connection.getresponse().status
except (OSError, http.client.HTTPException):
    sys.exit(1)
sys.exit(status != http.client.OK)
